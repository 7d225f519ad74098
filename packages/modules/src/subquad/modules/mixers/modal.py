"""The Hyena mixer with an implicit, infinitely long filter: a sum of decaying exponentials."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError
from subquad.modules.exchange import LocalExchange, SequenceExchange, refuse_split_state
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.fir import FilterParameters
from subquad.modules.mixers.gates import GateChoice, Gated
from subquad.modules.mixers.projection import check_filters, projection_parameter, projection_ring
from subquad.modules.mixers.split_convolution import split_causal_conv, split_modal_conv
from subquad.modules.parts.full_precision import FullPrecisionModule, full_precision_dtype
from subquad.modules.parts.initialization import reset_uniform
from subquad.modules.parts.registered import registered
from subquad.modules.widths import require_projected, require_streams
from subquad.ops import (
    Explanation,
    GatedModalState,
    StepProjection,
    explain,
    fill_ring,
    fir_step,
    gated_modal_conv,
    gated_modal_conv_with_state,
    gated_modal_step,
    history_from_ring,
    linear_step,
    modal_conv_with_state,
    modal_step,
    prepare,
)


@dataclasses.dataclass
class ModalState(MixerState):
    """What a modal filter remembers.

    Attributes:
      projection: Inputs of the short projection filter as a ring, ``[batch, 3 * channel, tap - 1]``; None where the
        mixer has none.
      modal: ``s[t] = exp(log_poles) * s[t - 1] + x[t]``, ``[batch, channel, state]``, float32 or float64.
    """

    projection: Tensor | None
    modal: Tensor


class HyenaLong(Gated, FullPrecisionModule):
    """Gates before and after a modal filter: ``g = k * v; y = q * (conv(g, h) + D * g)``.

    ``h[c, t] = sum(residues[c] * exp(log_poles[c] * t))``; as a recurrence ``s[t] = exp(log_poles) * s[t - 1] + x[t]``,
    ``conv[t] = sum(residues * s[t])``. Poles and residues are float32 at least.

    Args:
      channels: Number of channels, each with a filter of its own.
      state_size: Exponentials per filter.
      projection_filter_length: As in ``HyenaFIR``.
      filter_parameters: ``"poles"`` stores ``log_poles``; ``"p_gamma"``, the training form, stores ``p`` and
        ``gamma`` with ``log_poles = -exp(p) * exp(gamma)``, which always decays.
      initial_length: Sequence length that the initial ``D`` is scaled for: ``U(-sqrt(1/length), sqrt(1/length))``.
      pregate: False leaves ``g = v``.
      postgate: False leaves out the factor ``q``.
      backend: That of the operators on whole sequences and chunks, such as ``gated_modal_conv``; not of
        steps, which choose by themselves.
      exchange: Where the rest of a split sequence is; None for a sequence on one rank.

    Raises:
      ConfigurationError: A size is not positive, or ``filter_parameters`` is neither of the two.
    """

    no_weight_decay = frozenset({"p", "gamma", "log_poles", "residues", "projection_taps"})
    log_poles: Tensor = registered("parameter")
    p: Tensor = registered("parameter")
    gamma: Tensor = registered("parameter")
    residues: Tensor = registered("parameter")
    D: nn.Parameter = registered("parameter")
    projection_taps: nn.Parameter | None = registered("parameter")

    def __init__(
        self,
        channels: int,
        *,
        state_size: int = 16,
        projection_filter_length: int | None = None,
        filter_parameters: FilterParameters = "poles",
        initial_length: int = 8192,
        pregate: bool = True,
        postgate: bool = True,
        backend: str = "auto",
        exchange: SequenceExchange | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_filters(channels, channels, 2, projection_filter_length)
        if state_size < 1 or initial_length < 1:
            raise ConfigurationError(f"state_size {state_size} and initial_length {initial_length} must be positive")
        if filter_parameters not in ("poles", "p_gamma"):
            raise ConfigurationError(f"filter_parameters is {filter_parameters!r}; accepted are 'poles' and 'p_gamma'")
        self.channels = channels
        self.initial_length = initial_length
        self.pregate, self.postgate, self.backend = pregate, postgate, backend
        self.filter_parameters = filter_parameters
        self.exchange: SequenceExchange = LocalExchange() if exchange is None else exchange
        own_names = ("log_poles",) if filter_parameters == "poles" else ("p", "gamma")
        self.full_precision_names = frozenset({*own_names, "residues"})
        for name in (*own_names, "residues"):
            shape, wide = (channels, state_size), full_precision_dtype(dtype)
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=wide)))
        self.D = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.projection_taps = projection_parameter(channels, projection_filter_length, device, dtype)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws time constants of 27 to 272 tokens, residues ``0.1 * randn / sqrt(state)`` and small skip weights."""
        shape = self.residues.shape
        gamma = torch.log(torch.rand(shape, generator=generator) * 0.09 + 0.01)
        residues = torch.randn(shape, generator=generator) * (0.1 / shape[1] ** 0.5)
        p = torch.full(shape, -1.0)
        drawn = {"p": p, "gamma": gamma, "log_poles": -torch.exp(p) * torch.exp(gamma), "residues": residues}
        with torch.no_grad():
            for name in self.full_precision_names:
                tensor = self._tensor(name)
                if tensor is not None and not tensor.is_meta:
                    tensor.copy_(drawn[name])
        reset_uniform(self.D, 1 / self.initial_length, generator)
        reset_uniform(self.projection_taps, 1 / 3, generator)

    def poles(self) -> Float[Tensor, "channel state"]:
        """Returns the logarithms of the poles per token, all negative in the training form."""
        if self.filter_parameters == "poles":
            return self.log_poles
        return -torch.exp(self.p) * torch.exp(self.gamma)

    def forward(
        self,
        q: Float[Tensor, "batch length channel"],
        k: Float[Tensor, "batch length channel"],
        v: Float[Tensor, "batch length channel"],
        *,
        state: ModalState | None = None,
    ) -> Float[Tensor, "batch length channel"]:
        """Mixes q, k, v that went through the short projection convolution.

        Raises:
          InputMismatch: A stream has another number of channels or axes, or other points than the rest.
        """
        require_streams(q, k, v, self.channels, axes=1, state=state)
        y = self.filter_gated(self.gated(k, v).transpose(1, 2), state)
        return self.gated_after(q, y.transpose(1, 2))

    def filter_gated(
        self, gated: Float[Tensor, "batch channel length"], state: ModalState | None, *, backend: str | None = None
    ) -> Float[Tensor, "batch channel length"]:
        """Runs the filter and the skip term alone; ``backend`` in place of the mixer's."""
        backend = self.backend if backend is None else backend
        if state is None:
            return split_modal_conv(gated, self.poles(), self.residues, self.exchange, skip=self.D, backend=backend)
        refuse_split_state(self.exchange)
        y, modal = modal_conv_with_state(
            gated, self.poles(), self.residues, skip=self.D, initial_state=state.modal, backend=backend
        )
        state.modal.copy_(modal)
        return y

    def forward_projected(
        self,
        z: Float[Tensor, "batch rows length"],
        short_taps: Float[Tensor, "rows tap"],
        *,
        state: ModalState | None = None,
        fresh: bool = False,
    ) -> tuple[Float[Tensor, "batch channel length"], ModalState | None]:
        """Runs projection convolution, gates and filter as one operator; see ``ProjectedMixer`` and ``HyenaFIR``."""
        require_projected(z, 3 * self.channels)
        poles = self.poles()
        if state is not None:
            refuse_split_state(self.exchange)
            assert state.projection is not None
            before = None
            if not fresh:
                before = GatedModalState(history_from_ring(state.projection, state.position).to(z.dtype), state.modal)
            y, after = gated_modal_conv_with_state(
                z,
                short_taps,
                poles,
                self.residues,
                skip=self.D,
                pregate=self.pregate,
                postgate=self.postgate,
                initial_state=before,
                backend=self.backend,
            )
            fill_ring(state.projection, after.projection, state.position, z.shape[-1])
            state.modal.copy_(after.modal)
            return y, state
        if self.exchange.size == 1:
            gates = GateChoice(pregate=self.pregate, postgate=self.postgate)
            y = gated_modal_conv(z, short_taps, poles, self.residues, skip=self.D, backend=self.backend, **gates)
            return y, None
        streams = split_causal_conv(z, short_taps, self.exchange, backend=self.backend)
        q, k, v = streams.unflatten(1, (self.channels, 3)).unbind(2)
        return self.gated_after(q, self.filter_gated(self.gated(k, v), None)), None

    def explain_projected(
        self, z: Float[Tensor, "batch rows length"], short_taps: Float[Tensor, "rows tap"]
    ) -> Explanation:
        """Says which backend ``forward_projected`` takes for this input, and why."""
        options = {"pregate": self.pregate, "postgate": self.postgate, "backend": self.backend}
        return explain("gated_modal_conv", z, short_taps, self.poles(), self.residues, skip=self.D, **options)

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ModalState:
        """Returns a zero state, which does not grow with ``max_length``; ``dtype`` is that of the ring."""
        device, dtype = device or self.D.device, dtype or self.D.dtype
        wide = self.residues.dtype if dtype != torch.float64 else torch.float64
        return ModalState(
            position=torch.zeros(batch_size, dtype=torch.int64, device=device),
            projection=projection_ring(self.projection_taps, batch_size, device, dtype),
            modal=torch.zeros(batch_size, *self.residues.shape, device=device, dtype=wide),
        )

    def step(
        self,
        q: Float[Tensor, "batch channel"],
        k: Float[Tensor, "batch channel"],
        v: Float[Tensor, "batch channel"],
        state: ModalState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Mixes one more token per row; see ``Mixer``."""
        require_streams(q, k, v, self.channels, axes=0, state=state)
        gated = self.gated(k, v)
        y = modal_step(gated, self.poles(), self.residues, state.modal, skip=self.D, active=active)
        return self.gated_after(q, y)

    def step_projected(
        self,
        x: Float[Tensor, "batch input"],
        state: ModalState,
        *,
        projection: StepProjection | None = None,
        active: Bool[Tensor, " batch"] | None = None,
        upcoming: Tensor | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Runs projection, projection convolution, gates and filter on one more token per row; see ``HyenaFIR``.

        ``upcoming`` are weights of any shape that the next operator reads.
        """
        assert state.projection is not None
        assert self.projection_taps is not None
        if not (self.pregate and self.postgate):
            z = x if projection is None else linear_step(x, projection.weight, norm=projection.norm)
            z = fir_step(z, self.projection_taps, state.projection, state.position, active=active)
            q, k, v = z.unflatten(1, (-1, 3)).unbind(2)
            return self.step(q, k, v, state, active=active)
        return gated_modal_step(
            x,
            self.projection_taps,
            self.poles(),
            self.residues,
            state.projection,
            state.modal,
            state.position,
            projection=projection,
            skip=self.D,
            active=active,
            upcoming=upcoming,
        )

    def prepare_step_projected(
        self,
        x: Float[Tensor, "batch input"],
        state: ModalState,
        *,
        projection: StepProjection | None = None,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """Returns ``step_projected`` as a function of inputs like x, checked here once; see ``subquad.ops.prepare``.

        It takes ``[batch, input]`` and gives ``[batch, channel]``. The filters are those of now.
        """
        assert state.projection is not None
        assert self.projection_taps is not None
        if not (self.pregate and self.postgate):
            return lambda x: self.step_projected(x, state, projection=projection, active=active)
        return prepare(
            "gated_modal_step",
            x,
            self.projection_taps,
            self.poles(),
            self.residues,
            state.projection,
            state.modal,
            state.position,
            projection=projection,
            skip=self.D,
            active=active,
        )

    def flop_count(self, length: int) -> int:
        """Counts the recurrence, both gates and the skip term on one sequence."""
        return length * self.channels * (4 * self.residues.shape[1] + 2 + self.pregate + self.postgate)
