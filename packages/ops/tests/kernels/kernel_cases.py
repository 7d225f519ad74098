"""Compares every kernel of a backend with its operator's float64 torch form; prints a line a case.

usage: kernel_cases.py cpu|cuda triton|cuda [CASE ...]

On ``cpu`` Triton's kernels run in its interpreter (``TRITON_INTERPRET=1``) at small shapes; on ``cuda`` as they are,
with larger ones too. A program, so that no checker is on.
"""

import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from packages.ops.tests.kernels.far_cases import far_rows, far_strides
from packages.ops.tests.kernels.gradient_cases import few_taps_gradients, state_gradients, stream_gradients
from packages.ops.tests.kernels.rounded_cases import hold_behind_norm, rounded_rows, step_on_all_rows
from subquad import ops
from tools.testing.oracle import assert_as_exact_as, assert_close

DEVICE = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
BACKEND = sys.argv[2] if len(sys.argv) > 2 else "triton"
FEWEST_TAPS, MOST_TAPS, MOST_STATES = (2, 129, 16) if BACKEND == "cuda" else (1, 256, 64)
LENGTHS = (1, 5, 70, 300) if DEVICE.type == "cpu" else (1, 5, 70, 300, 4095, 4096, 8192, 10007)
_EVERY_TAPS = (
    (1, 2, 3, 7, 8, 9, 40, 128)
    if DEVICE.type == "cpu"
    else (*range(1, 20), 31, 33, 34, 64, 65, 127, 128, 129, 255, 256)
)
TAPS = tuple(taps for taps in _EVERY_TAPS if FEWEST_TAPS <= taps <= MOST_TAPS)
BFLOAT16_OR_FLOAT16 = torch.float16 if DEVICE.type == "cpu" else torch.bfloat16
# Relative error of a float32 state, whatever the dtype of the stream.
STATE_ALLOWED = 5e-6


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers on the device."""
    return torch.randn(shape, device=DEVICE).to(dtype)


def decaying(channels: int, states: int, fastest: float = 0.5) -> Tensor:
    """Log poles between ``-fastest`` and 0."""
    return -fastest * torch.rand(channels, states, device=DEVICE)


def wide(value: object) -> object:
    """The same in float64, inside tuples too; rounded weights stay as they are."""
    if isinstance(value, ops.RoundedWeight):
        return value
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    return type(value)(*map(wide, value)) if isinstance(value, tuple) else value


def exact(function: Callable, *inputs: object, **options: object) -> tuple:
    """The torch form in float64."""
    return function(*map(wide, inputs), **{k: wide(v) for k, v in options.items()}, backend="torch")


def as_stored(oracle: Tensor, plain: Tensor) -> Tensor:
    """The plain result, rounded as a kernel rounds: the interpreter cuts bfloat16 off, a GPU goes to the nearest."""
    if BACKEND != "triton" or DEVICE.type == "cuda" or plain.dtype != torch.bfloat16:
        return plain
    return (oracle.float().contiguous().view(torch.int32) & -65536).view(torch.float32).bfloat16()


SAMPLES_OF_A_CHANNEL = 64  # one or two sums near zero say nothing about a channel


def hold_whole(name: str, got: Tensor, plain: Tensor, oracle: Tensor) -> None:
    """Asserts the error of one result."""
    assert_as_exact_as(name, oracle, as_stored(oracle, plain), got)


def hold(name: str, got: Tensor, plain: Tensor, oracle: Tensor) -> None:
    """Asserts the error of one result, as a whole and, where a channel has samples enough to measure by, for each."""
    hold_whole(name, got, plain, oracle)
    if oracle[:, 0].numel() < SAMPLES_OF_A_CHANNEL:
        return
    for channel, (g, p, o) in enumerate(zip(got.unbind(1), plain.unbind(1), oracle.unbind(1), strict=True)):
        hold_whole(f"{name}, channel {channel}", g, p, o)


def scaled(*shape: int, dtype: torch.dtype) -> Tensor:
    """A matrix whose products with normal vectors are about as large as these."""
    return (torch.randn(shape, device=DEVICE) / shape[-1] ** 0.5).to(dtype)


def compare(function: Callable, *inputs: object, **options: object) -> tuple[tuple, tuple]:
    """Holds the first result of the kernel to that of the torch form; returns the kernel's and the exact results."""
    got = function(*inputs, **options, backend=BACKEND)
    plain = function(*inputs, **options, backend="torch")
    oracle = exact(function, *inputs, **options)
    if isinstance(got, Tensor):
        got, plain, oracle = (got,), (plain,), (oracle,)
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))
    hold(f"{function.__name__} {shapes}", got[0], plain[0], oracle[0])
    return got, oracle


def causal_conv(dtype: torch.dtype) -> None:
    for length in LENGTHS:
        for taps in TAPS:
            x, w, extra = random(2, 4, length, dtype=dtype), random(2, taps, dtype=dtype), random(4, dtype=dtype)
            for state in (None, random(2, 4, taps - 1, dtype=dtype)):
                options = {"bias": extra, "skip": extra, "initial_state": state}
                (_, end), (_, last) = compare(ops.causal_conv_with_state, x, w, **options)
                assert torch.equal(end.double(), last)


def activations() -> None:
    x, w = random(1, 3, 50), random(3, 4)
    for name in ("silu", "gelu"):
        compare(ops.causal_conv, x, w, activation=name)


def gated_conv(dtype: torch.dtype) -> None:
    for length in LENGTHS:
        for taps in TAPS if DEVICE.type == "cuda" or length < 300 else (3, 40, 128):
            z, p, w = random(2, 6, length, dtype=dtype), random(6, 3, dtype=dtype), random(1, taps, dtype=dtype)
            w[:, 0], skip = w[:, 0].abs(), random(2, dtype=dtype).abs()  # of one sign: neither cancels the other
            before = ops.GatedConvState(random(2, 6, 2, dtype=dtype), random(2, 2, taps - 1, dtype=dtype))
            for state in (None, before):
                options = {"skip": skip, "initial_state": state}
                (_, end), (_, last) = compare(ops.gated_conv_with_state, z, p, w, **options)
                assert torch.equal(end.projection.double(), last.projection)
                if taps > 1:
                    hold("mixer state", end.mixer, last.mixer.to(dtype), last.mixer)


def gated_modal_conv(dtype: torch.dtype) -> None:
    for length in LENGTHS:
        for states in (n for n in (1, 5, 16, 32, 64) if n <= MOST_STATES):
            z, p, skip = random(2, 6, length, dtype=dtype), random(6, 3, dtype=dtype), random(2, dtype=dtype)
            poles, residues = decaying(2, states), random(2, states)
            before = ops.GatedModalState(random(2, 6, 2, dtype=dtype), random(2, 2, states))
            for state in (None, before):
                options = {"skip": skip, "initial_state": state}
                (_, end), (_, last) = compare(ops.gated_modal_conv_with_state, z, p, poles, residues, **options)
                assert torch.equal(end.projection.double(), last.projection)
                assert_close(end.modal, last.modal, STATE_ALLOWED)


def modal_conv(dtype: torch.dtype) -> None:
    for length in LENGTHS:
        for states in (n for n in (1, 5, 16, 32, 64) if n <= MOST_STATES):
            x, skip = random(2, 3, length, dtype=dtype), random(3, dtype=dtype)
            poles, residues = decaying(3, states), random(3, states)
            for state in (None, random(2, 3, states)):
                options = {"skip": skip, "initial_state": state}
                (_, end), (_, last) = compare(ops.modal_conv_with_state, x, poles, residues, **options)
                assert_close(end, last, STATE_ALLOWED)


def fp8_rounding() -> None:
    from subquad.ops.fp8_linear.triton.launch import round_rows_triton

    for rows, channels in ((1, 16), (5, 70), (16, 300)):
        x = random(rows, channels, dtype=torch.bfloat16) * 3
        x[0, 0] = 0
        for scale in (None, torch.tensor(33.3, device=DEVICE)):
            codes, inverse = round_rows_triton(x, scale)
            used = ops.row_scales(x) if scale is None else scale
            got, expected = codes.float(), ops.round_to_e4m3(x, used).float()
            same = got[:rows, :channels] == expected
            if DEVICE.type == "cpu":  # the interpreter rounds ties away, and forgets the carry to the next power of two
                same |= (got[:rows, :channels] - expected).abs() <= expected.abs() / 8
                same |= 2 * got[:rows, :channels] == expected
            assert bool(same.all())
            assert not got[rows:].any()
            assert not got[:, channels:].any()
            if scale is None:
                assert_close(inverse[:rows], used.reciprocal(), 1e-6)


def long_modal() -> None:
    for length in (1023, 1024, 1500, 2048) if DEVICE.type == "cpu" else (65536, 131072 + 17):
        z, p, poles, residues = random(1, 3, length), random(3, 3), decaying(1, 16, 0.01), random(1, 16)
        y, end = ops.gated_modal_conv_with_state(z, p, poles, residues, backend=BACKEND)
        expected, last = exact(ops.gated_modal_conv_with_state, z, p, poles, residues)
        assert_close(y, expected, 1e-5)
        assert_close(end.modal, last.modal, 1e-5)


def gates(function: Callable, *parameters: Tensor) -> None:
    z, p = random(2, 6, 90), random(6, 3)
    for pregate in (True, False):
        for postgate in (True, False):
            options = {"pregate": pregate, "postgate": postgate}
            compare(function, z, p, *parameters, **options)


def fir_step() -> None:
    position, active = torch.tensor([0, 5, 131], device=DEVICE), torch.tensor([True, False, True], device=DEVICE)
    for dtype in (torch.float32, torch.bfloat16):
        for taps in TAPS:
            x, w, extra = random(3, 5, dtype=dtype), random(5, taps, dtype=dtype), random(5, dtype=dtype)
            rings = [random(3, 5, taps - 1, dtype=dtype)]
            rings += [rings[0].clone(), rings[0].double()]
            options = {"bias": extra, "skip": extra, "active": active}
            got = ops.fir_step(x, w, rings[0], position, **options, backend="triton")
            plain = ops.fir_step(x, w, rings[1], position, **options, backend="torch")
            expected = exact(ops.fir_step, x, w, rings[2].clone(), position, **options)
            hold_whole(f"fir_step, {taps} taps", got[active], plain[active], expected[active])
            assert torch.equal(rings[0].double(), _stepped(x, rings[2], position, active))


def rings() -> None:
    from subquad.ops.fir_step.triton.ring import turn

    position = torch.tensor([0, 5, 131], device=DEVICE)
    for dtype in (torch.float32, torch.bfloat16):
        for past in (1, 2, 6, 127):
            history, pool = random(3, 9, 2 * past, dtype=dtype)[..., past:], random(5, 10, past, dtype=dtype)
            ring = pool[::2, 1:]
            kept = pool.double()
            turn(history, ring, position, 4, True)
            kept[::2, 1:] = ops.ring_from_history(history.double(), position + 4)
            assert torch.equal(pool.double(), kept)
            back = torch.empty_like(history)
            turn(ring, back, position, 4, False)
            assert torch.equal(back, history)
            ops.fill_ring(ring, history, position, 4)
            assert torch.equal(ops.history_from_ring(ring, position + 4), history)


def _stepped(x: Tensor, ring: Tensor, position: Tensor, active: Tensor) -> Tensor:
    """The ring after a step, slot by slot."""
    for row, (time, on) in enumerate(zip(position.tolist(), active.tolist(), strict=True)):
        if on and ring.shape[-1]:
            ring[row, :, time % ring.shape[-1]] = x[row].double()
    return ring


def modal_step() -> None:
    active = torch.tensor([True, False, True], device=DEVICE)
    for dtype in (torch.float32, torch.bfloat16):
        for states in (1, 5, 16):
            x, skip, state = random(3, 50, dtype=dtype), random(50, dtype=dtype), random(3, 50, states)
            poles, residues = decaying(50, states), random(50, states)
            states_of = [state.clone(), state.clone(), state.double()]
            options = {"skip": skip, "active": active}
            got = ops.modal_step(x, poles, residues, states_of[0], **options, backend="triton")
            plain = ops.modal_step(x, poles, residues, states_of[1], **options, backend="torch")
            expected = ops.modal_step(*map(wide, (x, poles, residues)), states_of[2], skip=wide(skip), active=active)
            hold_whole(f"modal_step, {states} states", got[active], plain[active], expected[active])
            assert_close(states_of[0], states_of[2], 1e-6)
            assert torch.equal(states_of[0][1], state[1])


def slow_poles() -> None:
    """A state of one becomes its pole: it decays over a million steps as the float64 pole does, to a unit each."""
    poles = torch.cat([decaying(40, 16, fastest) for fastest in (1e-5, 1e-2, 2.0, 30.0)])
    x, residues = torch.zeros(2, 160, device=DEVICE), random(160, 16)
    exact = torch.exp(poles.double())
    unit = torch.exp2(exact.log2().floor() - 23)
    projection, ring = torch.ones(480, 2, device=DEVICE), torch.zeros(2, 480, 1, device=DEVICE)
    for step in (
        lambda state: ops.modal_step(x, poles, residues, state, backend="triton"),
        lambda state: ops.gated_modal_step(
            x.repeat(1, 3),
            projection,
            poles,
            residues,
            ring,
            state,
            torch.ones(2, device=DEVICE).long(),
            backend="triton",
        ),
    ):
        state = torch.ones(2, 160, 16, device=DEVICE)
        step(state)
        error = (state.double() - exact) / unit
        assert float(error.abs().max()) < 1.5
        assert float(error.mean().abs()) < 0.05  # a mean would add up over the steps


def rms_norm(dtype: torch.dtype) -> None:
    rows = 9 if DEVICE.type == "cpu" else 70  # a program each, which the interpreter takes one after the other
    for channels in (1, 40, 112, 1920):
        x, addend = random(3, rows, channels, dtype=dtype), random(3, rows, channels, dtype=dtype)
        scale = random(channels, dtype=dtype)
        for form in ("standard", "vortex"):
            compare(ops.rms_norm, x, scale, form=form, eps=1e-3)
            (_, total), (_, sums) = compare(ops.rms_norm_of_sum, x, addend, scale, form=form)
            hold_whole("sum", total, sums.to(dtype), sums)
        compare(ops.rms_norm, x.transpose(0, 1), scale)


def gated_product(dtype: torch.dtype) -> None:
    for activation in (None, "gelu"):
        for channels in (1, 300, 1024, 1500):
            x = random(3, 20, 2 * channels, dtype=dtype)
            compare(ops.gated_product, x, activation=activation)
            compare(ops.gated_product, *x.chunk(2, dim=-1), activation=activation)


def rotary(dtype: torch.dtype) -> None:
    for length in LENGTHS[:4]:
        for size in (24,) if DEVICE.type == "cpu" and length == 300 else (2, 24, 64, 128):
            qkv = random(2, length, 3, 3, size, dtype=dtype)
            frequencies = 1e4 ** -(torch.arange(0, size, 2, device=DEVICE) / size)
            position = torch.tensor([[7], [90]], device=DEVICE) + torch.arange(length, device=DEVICE)
            for at in (position, position[1:]):
                compare(ops.rotary, qkv[:, :, :, 0], at, frequencies, scale=3.0)
                caches = [random(2, 4, length + 2, 3, size, dtype=dtype) for _ in range(2)]
                keys, values = caches[0][:, 1, 1:-1], caches[1][:, 1, 1:-1]
                kept = [cache.clone() for cache in caches]
                q = ops.rotary_into(qkv, at, frequencies, keys, values, backend="triton")
                expected = [ops.rotary(qkv[:, :, :, i], at, frequencies, backend="triton") for i in (0, 1)]
                assert torch.equal(q, expected[0])
                kept[0][:, 1, 1:-1], kept[1][:, 1, 1:-1] = expected[1], qkv[:, :, :, 2]
                assert all(torch.equal(a, b) for a, b in zip(caches, kept, strict=True))


def far_rotation() -> None:
    """At position a million the angle in float32 is what counts: both forms make the same one."""
    x, position = random(1, 50, 2, 128), 1_000_000 + torch.arange(50, device=DEVICE)[None]
    frequencies = 1e4 ** -(torch.arange(0, 128, 2, device=DEVICE) / 128)
    got, plain = (ops.rotary(x, position, frequencies, backend=b) for b in ("triton", "torch"))
    assert_close(got, plain, 1e-6)


def _norms(size: int, dtype: torch.dtype) -> Iterator[ops.StepNorm | None]:
    yield None
    yield ops.StepNorm(random(size, dtype=dtype), 1e-3, "vortex")
    yield ops.StepNorm(random(size, dtype=dtype), 1e-3, "standard")


def rounded(weight: Tensor) -> ops.RoundedWeight:
    """The weight in one byte a number."""
    scales = ops.row_scales(weight)
    return ops.RoundedWeight(ops.round_to_e4m3(weight, scales), scales[:, 0].contiguous())


def linear_step(dtype: torch.dtype) -> None:
    for rows in (1, 3, 8) if dtype == torch.float32 else (1, 3, 8, 9, 33):
        for inputs, outputs in ((96, 10), (1200, 33)):
            x, weight = random(rows, inputs, dtype=dtype), scaled(outputs, inputs, dtype=dtype)
            bias, residual = random(outputs, dtype=dtype), random(rows, outputs, dtype=dtype)
            for norm in _norms(inputs, dtype):
                compare(ops.linear_step, x, weight, norm=norm, bias=bias, residual=residual)
                compare(ops.linear_step, x, weight, norm=norm)
            compare(ops.linear_step, x, rounded(weight), norm=norm, bias=bias, residual=residual)


def gated_linear_step(dtype: torch.dtype) -> None:
    for rows in (1, 3, 8) if dtype == torch.float32 else (1, 3, 8, 9, 33):
        for inputs, outputs in ((96, 10), (1200, 33)):
            x = random(rows, inputs, dtype=dtype)
            gate, value = scaled(outputs, inputs, dtype=dtype), scaled(outputs, inputs, dtype=dtype)
            for norm in _norms(inputs, dtype):
                compare(ops.gated_linear_step, x, gate, value, norm=norm, activation="gelu")
                compare(ops.gated_linear_step, x, gate, value, norm=norm)
            compare(ops.gated_linear_step, x, rounded(gate), rounded(value), norm=norm, activation="gelu")


def gated_steps(dtype: torch.dtype) -> None:
    channels, inputs = (10 if DEVICE.type == "cpu" else 40), 96
    for rows in (1, 3) if dtype == torch.float32 else (1, 9) if DEVICE.type == "cpu" else (1, 3, 9):
        position = torch.tensor([0, 5, 131] * 3, device=DEVICE)[:rows]
        active = torch.tensor([True, False, True] * 3, device=DEVICE)[:rows]
        short, skip = random(3 * channels, 3, dtype=dtype), random(channels, dtype=dtype)
        weight = scaled(3 * channels, inputs, dtype=dtype)
        ring = random(rows, 3 * channels, 2, dtype=dtype)
        mixers: list[tuple[Callable, tuple[Tensor, ...], Tensor]] = [
            (ops.gated_conv_step, (random(5, taps, dtype=dtype),), random(rows, channels, taps - 1, dtype=dtype))
            for taps in (2, 7, 128)
        ]
        mixers.append(
            (ops.gated_modal_step, (decaying(channels, 16), random(channels, 16)), random(rows, channels, 16))
        )
        for step, parameters, memory in mixers:
            # Each norm meets each kernel that takes one; several rows are projected by linear_step, and memory follows.
            every = DEVICE.type == "cuda" or (rows == 1 and memory.shape[2] in (6, 16))
            for norm in _norms(inputs, dtype) if every else [None]:
                vectors = random(rows, inputs, dtype=dtype)
                options = {"projection": ops.StepProjection(weight, norm), "skip": skip, "active": active}
                _hold_step(step, (vectors, short, *parameters), (ring, memory), position, options)
            options["projection"] = ops.StepProjection(rounded(weight), norm)
            _hold_step(step, (vectors, short, *parameters), (ring, memory), position, options)
            options = {"skip": skip, "active": active}
            _hold_step(step, (vectors @ weight.T, short, *parameters), (ring, memory), position, options)


def _hold_step(step: Callable, inputs: tuple, states: tuple, position: Tensor, options: dict) -> None:
    """Compares output and states of a gated step in its three forms."""
    got, plain, oracle = ([state.clone() for state in states] for _ in range(3))
    oracle = [state.double() for state in oracle]
    on, results = options["active"], []
    # Tokens enough to compare the largest errors of 16 bits by; the interpreter takes long for each.
    enough = inputs[0].dtype == torch.float32 or position.shape[0] > 3
    for turn in range(4 if DEVICE.type == "cpu" and enough else 12):
        tokens = (inputs[0].roll(turn, 1), *inputs[1:])
        results.append(
            (
                step(*tokens, *got, position, **options, backend="triton")[on],
                step_on_all_rows(step, *tokens, *plain, position, **options)[on],
                step(
                    *map(wide, tokens), *oracle, position, **{k: wide(v) for k, v in options.items()}, backend="torch"
                )[on],
            )
        )
    y, expected, exactly = (torch.cat(each) for each in zip(*results, strict=True))
    norm = options["projection"].norm if "projection" in options else None
    same = norm is None or y.dtype == torch.float32  # numbers are rounded in the same places
    hold_rounded = hold_whole if same else partial(hold_behind_norm, dtype=y.dtype)
    hold_rounded(step.__name__, y, expected, exactly)
    for one, other, true, before in zip(got, plain, oracle, states, strict=True):
        hold_rounded(f"{step.__name__} state", one, as_stored(true, other), true)
        assert torch.equal(one[~on], before[~on])


def attention_step(dtype: torch.dtype) -> None:
    pages = torch.tensor([[5, 0, 3], [1, 2, 4], [6, 8, 7]], dtype=torch.int32, device=DEVICE)
    active = torch.tensor([True, True, False], device=DEVICE)
    for page, heads, size in ((4, 2, 8), (7, 3, 16)) if DEVICE.type == "cpu" else ((4, 2, 16), (256, 15, 128)):
        inv_freq = 10.0 ** -torch.arange(size // 2, device=DEVICE)
        for moment in ((0, 2 * page - 1, 3), (3 * page - 1, page, 0)):
            position, qkv = torch.tensor(moment, device=DEVICE), random(3, heads, 3, size, dtype=dtype)
            start = random(9 * page, heads, size, dtype=dtype)
            for mask in (None, active):
                options = {"page_size": page, "position_scale": 4.0, "active": mask}
                pools = [[start.clone(), start.flip(0)] for _ in range(2)] + [[wide(start), wide(start.flip(0))]]
                y = ops.attention_step(qkv, *pools[0], pages, position, inv_freq, **options, backend="triton")
                plain = ops.attention_step(qkv, *pools[1], pages, position, inv_freq, **options, backend="torch")
                oracle = ops.attention_step(wide(qkv), *pools[2], pages, position, wide(inv_freq), **options)
                rows = slice(None) if mask is None else mask
                hold_whole(f"attention_step {size}", y[rows], plain[rows], oracle[rows])
                for one, other, true in zip(*pools, strict=True):
                    hold_whole("attention_step pool", one, other, true)


def greedy_step() -> None:
    active = torch.tensor([True, False, True], device=DEVICE)
    for dtype in (torch.float32, BFLOAT16_OR_FLOAT16):
        for vocabulary in (5, 512):
            logits = random(3, vocabulary, dtype=dtype)
            logits[0, 3] = logits[0, 1] = 9.0
            logits[2, 4] = torch.nan
            for mask in (None, active):
                ids = [torch.full((3,), 7, device=DEVICE) for _ in range(2)]
                got = ops.greedy_step(logits, ids[0], active=mask, backend="triton")
                plain = ops.greedy_step(logits, ids[1], active=mask, backend="torch")
                assert torch.equal(ids[0][:2], ids[1][:2])
                assert torch.equal(got[:2, 0], plain[:2, 0])
                assert torch.equal(got[:, 2], plain[:, 2])
                assert_close(got[:2, 1], plain[:2, 1], 1e-12)


def gradients() -> None:
    z, p, w, skip = random(2, 6, 60), random(6, 3), random(2, 9), random(2)
    poles, residues = decaying(2, 16), random(2, 16)
    calls: list[tuple[Callable, list[Tensor]]] = [
        (lambda x, w, s, backend: ops.causal_conv(x, w, skip=s, backend=backend), [z, random(6, 9), random(6)]),
        (lambda z, p, w, s, backend: ops.gated_conv(z, p, w, skip=s, backend=backend), [z, p, w, skip]),
        (
            lambda z, p, e, r, s, backend: ops.gated_modal_conv(z, p, e, r, skip=s, backend=backend),
            [z, p, poles, residues, skip],
        ),
    ]
    for form in ("standard", "vortex"):
        calls += [
            (lambda x, s, backend, f=form: ops.rms_norm(x, s, form=f, backend=backend), [z, random(60)]),
            (
                lambda x, a, s, backend, f=form: torch.cat(ops.rms_norm_of_sum(x, a, s, form=f, backend=backend)),
                [z, random(2, 6, 60), random(60)],
            ),
        ]
    for activation in (None, "gelu"):
        calls += [
            (lambda x, backend, a=activation: ops.gated_product(x, activation=a, backend=backend), [z]),
            (lambda x, y, backend, a=activation: ops.gated_product(x, y, activation=a, backend=backend), [z, z.exp()]),
        ]
    turn = (torch.arange(7, 13, device=DEVICE)[None], random(4).abs())
    calls.append((lambda x, backend: ops.rotary(x, *turn, backend=backend), [random(2, 6, 3, 8)]))
    for function, inputs in calls:
        found = []
        for backend in ("triton", "torch"):
            leaves = [x.clone().requires_grad_() for x in inputs]
            loss = function(*leaves, backend=backend).square().sum()
            found.append(torch.autograd.grad(loss, leaves))
        for a, b in zip(*found, strict=True):
            assert_close(a, b, 1e-5)


def strides() -> None:
    z, p, w = random(2, 80, 6), random(6, 3), random(2, 7)
    y = ops.gated_conv(z, p, w, layout="BLH", backend=BACKEND)
    assert torch.equal(y.transpose(1, 2), ops.gated_conv(z.transpose(1, 2), p, w, backend=BACKEND))
    assert_close(y, exact(ops.gated_conv, z, p, w, layout="BLH"), STATE_ALLOWED)
    compare(ops.causal_conv, random(2, 4, 200)[:, ::2, 50:], w)


def one_graph() -> None:
    p, poles, residues = random(6, 3), decaying(2, 16), random(2, 16)
    z = random(2, 6, 60)
    for backend in ("aot_eager",):
        function = torch.compile(
            lambda z: ops.gated_modal_conv(z, p, poles, residues, backend=BACKEND), fullgraph=True, backend=backend
        )
        assert_close(function(z), exact(ops.gated_modal_conv, z, p, poles, residues), STATE_ALLOWED)


def refusals() -> None:
    for call, text in (
        (lambda: ops.causal_conv(random(1, 2, 9).double(), random(2, 3).double(), backend=BACKEND), "dtype float64"),
        (
            lambda: ops.causal_conv(random(1, 2, 9), random(2, 300), backend=BACKEND),
            f"300 taps; accepted: {FEWEST_TAPS} to {MOST_TAPS}",
        ),
        (lambda: ops.causal_conv(random(0, 2, 9), random(2, 3), backend=BACKEND), "the call is empty"),
    ):
        with pytest.raises(ops.BackendUnavailable, match=text):
            call()
    assert ops.explain("causal_conv", random(1, 2, 9), random(2, 3), backend=BACKEND).backend == BACKEND


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """Every case by name."""
    if BACKEND == "cuda":
        yield from library_cases()
        return
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype)[6:]
        yield f"causal_conv {name}", lambda dtype=dtype: causal_conv(dtype)
        yield f"gated_conv {name}", lambda dtype=dtype: gated_conv(dtype)
        yield f"gated_modal_conv {name}", lambda dtype=dtype: gated_modal_conv(dtype)
        yield f"modal_conv {name}", lambda dtype=dtype: modal_conv(dtype)
        yield f"rms_norm {name}", lambda dtype=dtype: rms_norm(dtype)
        yield f"gated_product {name}", lambda dtype=dtype: gated_product(dtype)
        yield f"rotary {name}", lambda dtype=dtype: rotary(dtype)
    # The interpreter cuts bfloat16 off, once too often for these, and has no bfloat16 matrix product.
    for name, dtype in {"float32": torch.float32, "16 bits": BFLOAT16_OR_FLOAT16}.items():
        yield f"linear_step {name}", lambda dtype=dtype: linear_step(dtype)
        yield f"gated_linear_step {name}", lambda dtype=dtype: gated_linear_step(dtype)
        yield f"gated steps {name}", lambda dtype=dtype: gated_steps(dtype)
        yield f"attention_step {name}", lambda dtype=dtype: attention_step(dtype)
    yield "causal_conv activations", activations
    yield "gated_conv gates", lambda: gates(ops.gated_conv, random(2, 9))
    yield "gated_modal_conv gates", lambda: gates(ops.gated_modal_conv, decaying(2, 16), random(2, 16))
    yield "gated_modal_conv long", long_modal
    yield from [
        ("fir_step", fir_step),
        ("fp8 rounding", fp8_rounding),
        ("rounded rows", lambda: rounded_rows(DEVICE, BACKEND)),
        ("rings", rings),
        ("modal_step", modal_step),
        ("slow poles", slow_poles),
        ("greedy_step", greedy_step),
        ("gradients", gradients),
        ("strides", strides),
    ]
    yield "rotary far", far_rotation
    yield from [("one graph", one_graph), ("refusals", refusals)]
    yield from [("far strides", lambda: far_strides(DEVICE, BACKEND)), ("far rows", lambda: far_rows(DEVICE))]


def library_cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """The cases of the CUDA library by name."""
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype)[6:]
        yield f"causal_conv {name}", lambda dtype=dtype: causal_conv(dtype)
        yield f"gated_conv {name}", lambda dtype=dtype: gated_conv(dtype)
        yield f"gated_modal_conv {name}", lambda dtype=dtype: gated_modal_conv(dtype)
        yield f"modal_conv {name}", lambda dtype=dtype: modal_conv(dtype)
        yield f"gradients {name}", lambda dtype=dtype: stream_gradients(DEVICE, BACKEND, dtype)
        yield f"state gradients {name}", lambda dtype=dtype: state_gradients(DEVICE, BACKEND, dtype)
        yield f"few taps gradients {name}", lambda dtype=dtype: few_taps_gradients(DEVICE, BACKEND, dtype)
    yield "causal_conv activations", activations
    yield "gated_conv gates", lambda: gates(ops.gated_conv, random(2, 9))
    yield "gated_modal_conv gates", lambda: gates(ops.gated_modal_conv, decaying(2, 16), random(2, 16))
    yield "gated_modal_conv long", long_modal
    yield from [("strides", strides), ("far strides", lambda: far_strides(DEVICE, BACKEND))]
    yield from [("one graph", one_graph), ("refusals", refusals)]


def main() -> None:
    """Runs the named cases, default all; the exit status is 1 if one failed."""
    failed, wanted = False, sys.argv[3:]
    for name, case in cases():
        if wanted and name not in wanted:
            continue
        torch.manual_seed(0)
        try:
            case()
            print(f"{name}: passed", flush=True)
        except Exception as error:  # one broken kernel must not hide the others
            failed = True
            print(f"{name}: {type(error).__name__}: {str(error)[:2000]}", flush=True)
            traceback.print_exc()
    sys.exit(failed)


if __name__ == "__main__":
    main()
