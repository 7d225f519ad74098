"""Hyena mixers with an explicit finite filter: the short and the medium one of StripedHyena 2."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.modules.exchange import LocalExchange, SequenceExchange, refuse_split_state
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.gates import GateChoice, Gated
from subquad.modules.mixers.projection import check_filters, projection_parameter, projection_ring
from subquad.modules.mixers.split_convolution import split_causal_conv
from subquad.modules.parts.full_precision import FullPrecisionModule, full_precision_dtype
from subquad.modules.parts.initialization import reset_uniform
from subquad.modules.parts.registered import registered
from subquad.modules.widths import require_projected, require_streams
from subquad.ops import (
    Explanation,
    GatedConvState,
    StepProjection,
    causal_conv_with_state,
    explain,
    fill_ring,
    fir_step,
    gated_conv,
    gated_conv_step,
    gated_conv_with_state,
    history_from_ring,
    linear_step,
    prepare,
)

FilterParameters = Literal["poles", "p_gamma"]


@dataclasses.dataclass
class FIRState(MixerState):
    """The last inputs of a mixer's filters, as rings: the sample of time ``t`` lies in slot ``t % width``.

    Attributes:
      projection: Inputs of the short projection filter, ``[batch, 3 * channel, tap - 1]``; None where the mixer has
        none.
      taps: Inputs of the mixer's own filter, ``[batch, channel, tap - 1]``.
    """

    projection: Tensor | None
    taps: Tensor


def decay_envelope(groups: int, length: int) -> Float[Tensor, "group tap"]:
    """Computes the envelopes ``exp(-rate[g] * k / (length - 1))`` of medium filters, rates 0.01 to 100 in log steps."""
    rates = torch.logspace(-2, 2, groups, dtype=torch.float64)
    return torch.exp(-rates[:, None] * torch.linspace(0, 1, length, dtype=torch.float64)[None]).float()


class HyenaFIR(Gated, FullPrecisionModule):
    """Gates before and after a grouped causal filter: ``g = k * v; y = q * (conv(g, taps) + D * g)``.

    Channel ``c`` uses filter ``c // (channels / groups)``; tap 0 multiplies the current sample. ``HyenaShort`` and
    ``HyenaMedium`` are the two forms in use.

    Args:
      channels: Number of channels.
      groups: Number of filters; divides ``channels``.
      filter_length: Taps per filter, at least 2.
      projection_filter_length: When given, the mixer also owns ``projection_taps``, the filters of the short
        convolution that makes q, k and v; ``forward_projected`` is given them, ``forward`` does not apply them.
      has_skip: Whether there is a term ``D * k * v``.
      filter_parameters: ``"poles"`` for filters as used; ``"p_gamma"`` for the training form, where a medium filter is
        ``taps * decay`` with a fixed envelope and both stay float32.
      pregate: False leaves ``g = v``.
      postgate: False leaves out the factor ``q``.
      backend: That of the operators on whole sequences and chunks, such as ``gated_conv``; steps choose by themselves.
      exchange: Where the rest of a split sequence is; None for a sequence on one rank.

    Raises:
      ConfigurationError: ``groups`` does not divide ``channels``, or a filter has fewer than 2 taps.
    """

    taps: nn.Parameter = registered("parameter")
    D: Tensor | None = registered("parameter")
    decay: Tensor | None = registered("buffer")
    projection_taps: nn.Parameter | None = registered("parameter")

    def __init__(
        self,
        channels: int,
        *,
        groups: int,
        filter_length: int,
        projection_filter_length: int | None,
        has_skip: bool,
        has_decay: bool,
        pregate: bool,
        postgate: bool,
        backend: str,
        exchange: SequenceExchange | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        check_filters(channels, groups, filter_length, projection_filter_length)
        self.channels = channels
        self.pregate, self.postgate, self.backend = pregate, postgate, backend
        self.exchange: SequenceExchange = LocalExchange() if exchange is None else exchange
        self.full_precision_names = frozenset({"taps", "decay"}) if has_decay else frozenset()
        taps_dtype = full_precision_dtype(dtype) if has_decay else dtype
        self.taps = nn.Parameter(torch.empty(groups, filter_length, device=device, dtype=taps_dtype))
        self.register_parameter(
            "D", nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if has_skip else None
        )
        self.register_buffer("decay", torch.empty_like(self.taps.detach()) if has_decay else None)
        self.projection_taps = projection_parameter(channels, projection_filter_length, device, dtype)

    def filter_taps(self) -> Float[Tensor, "group tap"]:
        """Returns the filters as they act: ``taps``, under their envelope in the training form."""
        taps, decay = self.taps, self.decay
        return taps if decay is None else taps * decay

    def forward(
        self,
        q: Float[Tensor, "batch length channel"],
        k: Float[Tensor, "batch length channel"],
        v: Float[Tensor, "batch length channel"],
        *,
        state: FIRState | None = None,
    ) -> Float[Tensor, "batch length channel"]:
        """Mixes q, k, v that went through the short projection convolution.

        Raises:
          InputMismatch: A stream has another number of channels or axes, or other points than the rest.
        """
        require_streams(q, k, v, self.channels, axes=1, state=state)
        y = self.filter_gated(self.gated(k, v).transpose(1, 2), state)
        return self.gated_after(q, y.transpose(1, 2))

    def filter_gated(
        self, gated: Float[Tensor, "batch channel length"], state: FIRState | None, *, backend: str | None = None
    ) -> Float[Tensor, "batch channel length"]:
        """Runs the filter and the skip term alone; ``backend`` in place of the mixer's."""
        backend = self.backend if backend is None else backend
        if state is None:
            return split_causal_conv(gated, self.filter_taps(), self.exchange, skip=self.D, backend=backend)
        refuse_split_state(self.exchange)
        history = history_from_ring(state.taps, state.position).to(gated.dtype)
        y, history = causal_conv_with_state(
            gated, self.filter_taps(), skip=self.D, initial_state=history, backend=backend
        )
        fill_ring(state.taps, history, state.position, gated.shape[-1])
        return y

    def forward_projected(
        self,
        z: Float[Tensor, "batch rows length"],
        short_taps: Float[Tensor, "rows tap"],
        *,
        state: FIRState | None = None,
        fresh: bool = False,
    ) -> tuple[Float[Tensor, "batch channel length"], FIRState | None]:
        """Runs projection convolution, gates and filter as one operator; see ``ProjectedMixer``.

        ``fresh`` says that no row of ``state`` has seen a token, so that its rings need not be read.
        """
        require_projected(z, 3 * self.channels)
        taps = self.filter_taps()
        if state is not None:
            refuse_split_state(self.exchange)
            assert state.projection is not None
            before = None
            if not fresh:
                before = GatedConvState(
                    history_from_ring(state.projection, state.position).to(z.dtype),
                    history_from_ring(state.taps, state.position).to(z.dtype),
                )
            y, after = gated_conv_with_state(
                z,
                short_taps,
                taps,
                skip=self.D,
                pregate=self.pregate,
                postgate=self.postgate,
                initial_state=before,
                backend=self.backend,
            )
            fill_ring(state.projection, after.projection, state.position, z.shape[-1])
            fill_ring(state.taps, after.mixer, state.position, z.shape[-1])
            return y, state
        if self.exchange.size == 1:
            gates = GateChoice(pregate=self.pregate, postgate=self.postgate)
            return gated_conv(z, short_taps, taps, skip=self.D, backend=self.backend, **gates), None
        streams = split_causal_conv(z, short_taps, self.exchange, backend=self.backend)
        q, k, v = streams.unflatten(1, (self.channels, 3)).unbind(2)
        return self.gated_after(q, self.filter_gated(self.gated(k, v), None)), None

    def explain_projected(
        self, z: Float[Tensor, "batch rows length"], short_taps: Float[Tensor, "rows tap"]
    ) -> Explanation:
        """Says which backend ``forward_projected`` takes for this input, and why."""
        options = {"pregate": self.pregate, "postgate": self.postgate, "backend": self.backend}
        return explain("gated_conv", z, short_taps, self.filter_taps(), skip=self.D, **options)

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> FIRState:
        """Returns empty rings; they do not grow with ``max_length``. ``dtype`` defaults to that of the weights."""
        device, dtype = device or self.taps.device, dtype or self.taps.dtype
        return FIRState(
            position=torch.zeros(batch_size, dtype=torch.int64, device=device),
            projection=projection_ring(self.projection_taps, batch_size, device, dtype),
            taps=torch.zeros(batch_size, self.channels, self.taps.shape[1] - 1, device=device, dtype=dtype),
        )

    def step(
        self,
        q: Float[Tensor, "batch channel"],
        k: Float[Tensor, "batch channel"],
        v: Float[Tensor, "batch channel"],
        state: FIRState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Mixes one more token per row; see ``Mixer``."""
        require_streams(q, k, v, self.channels, axes=0, state=state)
        gated = self.gated(k, v)
        y = fir_step(gated, self.filter_taps(), state.taps, state.position, skip=self.D, active=active)
        return self.gated_after(q, y)

    def step_projected(
        self,
        x: Float[Tensor, "batch input"],
        state: FIRState,
        *,
        projection: StepProjection | None = None,
        active: Bool[Tensor, " batch"] | None = None,
        upcoming: Tensor | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Runs projection, projection convolution, gates and filter on one more token per row as one operator.

        Args:
          x: The projected rows, row ``3 * c + p`` stream p of channel c; what is in front of ``projection`` with one.
          state: Updated in place, but for its position.
          projection: Makes the rows from ``x``.
          active: Rows where it is false keep their state; their output means nothing.
          upcoming: Weights that the next operator reads; see ``subquad.ops.gated_conv_step``.
        """
        assert state.projection is not None
        assert self.projection_taps is not None
        if not (self.pregate and self.postgate):
            z = x if projection is None else linear_step(x, projection.weight, norm=projection.norm)
            z = fir_step(z, self.projection_taps, state.projection, state.position, active=active)
            q, k, v = z.unflatten(1, (-1, 3)).unbind(2)
            return self.step(q, k, v, state, active=active)
        return gated_conv_step(
            x,
            self.projection_taps,
            self.filter_taps(),
            state.projection,
            state.taps,
            state.position,
            projection=projection,
            skip=self.D,
            active=active,
            upcoming=upcoming,
        )

    def prepare_step_projected(
        self,
        x: Float[Tensor, "batch input"],
        state: FIRState,
        *,
        projection: StepProjection | None = None,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """Returns ``step_projected`` as a function of inputs like x, checked here once; see ``subquad.ops.prepare``.

        The filters are those of now.
        """
        assert state.projection is not None
        assert self.projection_taps is not None
        if not (self.pregate and self.postgate):
            return lambda x: self.step_projected(x, state, projection=projection, active=active)
        return prepare(
            "gated_conv_step",
            x,
            self.projection_taps,
            self.filter_taps(),
            state.projection,
            state.taps,
            state.position,
            projection=projection,
            skip=self.D,
            active=active,
        )

    def flop_count(self, length: int) -> int:
        """Counts the filter, both gates and the skip term on one sequence."""
        gates = self.pregate + self.postgate
        return length * self.channels * (2 * self.taps.shape[1] + gates + (0 if self.D is None else 2))


class HyenaShort(HyenaFIR):
    """The short explicit Hyena mixer: 7 taps, no skip term. See ``HyenaFIR`` for the formula and the arguments."""

    no_weight_decay = frozenset({"taps", "projection_taps"})

    def __init__(
        self,
        channels: int,
        *,
        groups: int,
        filter_length: int = 7,
        projection_filter_length: int | None = None,
        pregate: bool = True,
        postgate: bool = True,
        backend: str = "auto",
        exchange: SequenceExchange | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels,
            groups=groups,
            filter_length=filter_length,
            projection_filter_length=projection_filter_length,
            has_skip=False,
            has_decay=False,
            pregate=pregate,
            postgate=postgate,
            backend=backend,
            exchange=exchange,
            device=device,
            dtype=dtype,
        )
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws every tap from ``U(-sqrt(1/3), sqrt(1/3))``."""
        reset_uniform(self.taps, 1 / 3, generator)
        reset_uniform(self.projection_taps, 1 / 3, generator)


class HyenaMedium(HyenaFIR):
    """The medium explicit Hyena mixer: 128 taps and a skip term. See ``HyenaFIR`` for the formula and the arguments."""

    no_weight_decay = frozenset({"projection_taps"})

    def __init__(
        self,
        channels: int,
        *,
        groups: int,
        filter_length: int = 128,
        projection_filter_length: int | None = None,
        filter_parameters: FilterParameters = "poles",
        pregate: bool = True,
        postgate: bool = True,
        backend: str = "auto",
        exchange: SequenceExchange | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels,
            groups=groups,
            filter_length=filter_length,
            projection_filter_length=projection_filter_length,
            has_skip=True,
            has_decay=filter_parameters == "p_gamma",
            pregate=pregate,
            postgate=postgate,
            backend=backend,
            exchange=exchange,
            device=device,
            dtype=dtype,
        )
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws ``taps = randn / sqrt(tap) * 1e-5`` under the envelope, ``D`` from ``U(-sqrt(1/tap), sqrt(1/tap))``."""
        groups, length = self.taps.shape
        if not self.taps.is_meta:
            draw = torch.randn(groups, length, generator=generator) * (1e-5 / length**0.5)
            envelope = decay_envelope(groups, length)
            with torch.no_grad():
                self.taps.copy_(draw * envelope if self.decay is None else draw)
                if self.decay is not None:
                    self.decay.copy_(envelope)
        reset_uniform(self.D, 1 / length, generator)
        reset_uniform(self.projection_taps, 1 / 3, generator)
