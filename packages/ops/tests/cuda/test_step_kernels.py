"""The CUDA library's decode kernels against their definitions. Needs a GPU of capability 9.0 and the library."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad import ops
from tools.testing.oracle import assert_as_exact_as

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("unchecked")]

# Sizes of the smallest rows, of rows that end within a piece and a slot, of 1B and of 7B, and of more rows than warps.
SIZES = ((8, 5), (264, 7), (1920, 512), (4096, 1056), (5120, 133), (11264, 64), (520, 12000))
NORMS = (None, "vortex", "standard")


def _random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


def _matrix(outputs: int, inputs: int) -> Tensor:
    return (torch.randn(outputs, inputs, device="cuda") / inputs**0.5).bfloat16()


def _rounded(weight: Tensor) -> ops.RoundedWeight:
    scales = ops.row_scales(weight)
    return ops.RoundedWeight(ops.round_to_e4m3(weight, scales), scales[:, 0].contiguous())


def _norm(form: Any, inputs: int) -> ops.StepNorm | None:
    return None if form is None else ops.StepNorm(_random(inputs), 1e-3, form)


def _wide(value: Any) -> Any:
    if isinstance(value, ops.RoundedWeight):
        return value
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    return type(value)(*map(_wide, value)) if isinstance(value, tuple) else value


def _hold(operator: Callable[..., Tensor], *inputs: Any, **options: Any) -> None:
    got = operator(*inputs, **options, backend="cuda")
    plain = operator(*inputs, **options, backend="torch")
    oracle = operator(*map(_wide, inputs), **{name: _wide(value) for name, value in options.items()}, backend="torch")
    assert_as_exact_as(operator.__name__, oracle, plain, got)


@pytest.mark.parametrize("form", NORMS)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_linear_step(inputs: int, outputs: int, form: str | None) -> None:
    if form is not None and inputs > 8192:
        pytest.skip("the norm of so many inputs is refused")
    torch.manual_seed(inputs)
    x, weight, norm = _random(1, inputs), _matrix(outputs, inputs), _norm(form, inputs)
    bias, residual = _random(outputs), _random(1, outputs)
    _hold(ops.linear_step, x, weight, norm=norm)
    _hold(ops.linear_step, x, weight, norm=norm, bias=bias.float(), residual=residual)
    if inputs % 16 == 0 and form is None:
        _hold(ops.linear_step, x, _rounded(weight), bias=bias, residual=residual)


@pytest.mark.parametrize("form", NORMS)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_gated_linear_step(inputs: int, outputs: int, form: str | None) -> None:
    if form is not None and inputs > 8192:
        pytest.skip("the norm of so many inputs is refused")
    torch.manual_seed(inputs)
    x, norm = _random(1, inputs), _norm(form, inputs)
    gate, value = _matrix(outputs, inputs), _matrix(outputs, inputs)
    for activation in ("gelu", None):
        _hold(ops.gated_linear_step, x, gate, value, norm=norm, activation=activation)
    if inputs % 16 == 0 and form is None:
        _hold(ops.gated_linear_step, x, _rounded(gate), _rounded(value), activation="gelu")


def test_rounded_weights_behind_a_norm() -> None:
    x, norm = _random(1, 4096), ops.StepNorm(_random(4096, dtype=torch.float32), 1e-6, "standard")
    weight = _rounded(_matrix(1024, 4096))
    whole = weight.codes.float() / weight.scale[:, None]
    exactly = ops.linear_step(x.double(), whole.double(), norm=_wide(norm), backend="torch")
    got = ops.linear_step(x, weight, norm=norm, backend="cuda")
    assert_as_exact_as("linear_step", exactly, exactly.bfloat16(), got)


def _mixers(channels: int) -> list[tuple[Callable[..., Tensor], tuple[Tensor, ...], Tensor]]:
    poles = -0.5 * torch.rand(channels, 16, device="cuda")
    taps: list[tuple[Callable[..., Tensor], tuple[Tensor, ...], Tensor]] = [
        (ops.gated_conv_step, (_random(channels // 8, size),), _random(1, channels, size - 1)) for size in (2, 7, 128)
    ]
    residues, modes = _random(channels, 16, dtype=torch.float32), _random(1, channels, 16, dtype=torch.float32)
    return [*taps, (ops.gated_modal_step, (poles, residues), modes)]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("form", NORMS)
@pytest.mark.parametrize(("channels", "inputs"), [(8, 16), (640, 1920), (1384, 520)])
def test_gated_steps(channels: int, inputs: int, form: str | None, kind: int) -> None:
    torch.manual_seed(channels)
    step, parameters, memory = _mixers(channels)[kind]
    short, ring, skip = _random(3 * channels, 3), _random(1, 3 * channels, 2), _random(channels)
    projection = ops.StepProjection(_matrix(3 * channels, inputs), _norm(form, inputs))
    states = [[ring.clone(), memory.clone()] for _ in range(2)] + [[ring.double(), memory.double()]]
    results: list[list[Tensor]] = [[], [], []]
    for token in range(12):
        x, position = _random(1, inputs), torch.tensor([token + 120], device="cuda")
        active = torch.tensor([token != 5], device="cuda")
        options = {"projection": projection, "skip": skip, "active": active}
        before = [state.clone() for state in states[0]]
        results[0].append(step(x, short, *parameters, *states[0], position, **options, backend="cuda"))
        results[1].append(step(x, short, *parameters, *states[1], position, **options, backend="torch"))
        results[2].append(
            step(
                *map(_wide, (x, short, *parameters)),
                *states[2],
                position,
                **{name: _wide(value) for name, value in options.items()},
                backend="torch",
            )
        )
        if token == 5:
            assert all(torch.equal(a, b) for a, b in zip(states[0], before, strict=True))
            for parts in results:
                parts.pop()
    got, plain, oracle = (torch.cat(parts) for parts in results)
    assert_as_exact_as(step.__name__, oracle, plain, got)
    for one, other, true in zip(*states, strict=True):
        assert_as_exact_as(f"{step.__name__} state", true, other, one)


def test_a_rounded_projection_and_a_mixer_of_each_kind() -> None:
    channels, inputs = 64, 512
    projection = ops.StepProjection(_rounded(_matrix(3 * channels, inputs)))
    for step, parameters, memory in _mixers(channels):
        short, x = _random(3 * channels, 3), _random(1, inputs)
        position = torch.tensor([9], device="cuda", dtype=torch.int32)
        states = [[_random(1, 3 * channels, 2) * 0, memory.clone()] for _ in range(2)]
        got, plain = (
            step(x, short, *parameters, *own, position, projection=projection, backend=backend)
            for own, backend in zip(states, ("cuda", "torch"), strict=True)
        )
        assert_as_exact_as(step.__name__, plain.double(), plain, got)


def test_a_chain_of_early_starts_reads_nothing_too_early() -> None:
    """Sixty dependent products in one graph, replayed: each starts before the one in front of it ends."""
    torch.manual_seed(0)
    inputs, inner = 1920, 5120
    layers = [(_matrix(inner, inputs), _matrix(inner, inputs), _matrix(inputs, inner)) for _ in range(20)]
    norm = ops.StepNorm(torch.ones(inputs, device="cuda").bfloat16(), 1e-6, "standard")
    bias = _random(inputs)

    def run(x: Tensor, backend: str) -> Tensor:
        for gate, value, out in layers:
            y = ops.gated_linear_step(x, gate, value, norm=norm, activation="gelu", backend=backend)
            x = ops.linear_step(y, out, bias=bias, residual=x, backend=backend)
            x = ops.linear_step(x, layers[0][2][:, :inputs].contiguous(), norm=norm, residual=x, backend=backend)
        return x

    given = _random(1, inputs)
    eager = run(given, "cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(given, "cuda")
    for _ in range(20):
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(captured, eager)
    with torch.no_grad():
        exactly = given.double()
        for gate, value, out in layers:
            wide = [matrix.double() for matrix in (gate, value, out, layers[0][2][:, :inputs])]
            y = ops.gated_linear_step(exactly, wide[0], wide[1], norm=_wide(norm), activation="gelu")
            exactly = ops.linear_step(y, wide[2], bias=bias.double(), residual=exactly)
            exactly = ops.linear_step(exactly, wide[3], norm=_wide(norm), residual=exactly)
    assert_as_exact_as("chain", exactly, run(given, "torch"), eager)


def _hold_in_a_row(step: Callable[[int], Tensor], states: list[Tensor]) -> None:
    """Steps with nothing between them, launched one by one and replayed, give what they give when each is awaited."""
    begin = [state.clone() for state in states]

    def start() -> None:
        for state, value in zip(states, begin, strict=True):
            state.copy_(value)

    def run(wait: bool) -> list[Tensor]:
        results = []
        for token in range(48):
            results.append(step(token))
            if wait:
                torch.cuda.synchronize()
        return results

    expected = [y.clone() for y in run(wait=True)] + [state.clone() for state in states]
    graph = torch.cuda.CUDAGraph()
    start()
    with torch.cuda.graph(graph):
        captured = run(wait=False)
    for turn in range(20):
        start()
        torch.cuda.synchronize()
        found = captured
        if turn % 2:
            graph.replay()
        else:
            found = run(wait=False)
        for index, (one, other) in enumerate(zip([*found, *states], expected, strict=True)):
            assert torch.equal(one, other), f"turn {turn}: result {index} of {len(expected)}"


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize(("channels", "inputs"), [(640, 1920), (1384, 520), (4096, 4096)])
def test_gated_steps_in_a_row_see_the_sample_before(channels: int, inputs: int, kind: int, backend: str) -> None:
    torch.manual_seed(channels)
    step, parameters, memory = _mixers(channels)[kind]
    short, ring = _random(3 * channels, 3), _random(1, 3 * channels, 2)
    projection = ops.StepProjection(_matrix(3 * channels, inputs), _norm("vortex", inputs))
    x, position = _random(48, 1, inputs), torch.arange(120, 168, device="cuda")[:, None]

    def take(token: int) -> Tensor:
        return step(x[token], short, *parameters, ring, memory, position[token], projection=projection, backend=backend)

    _hold_in_a_row(take, [ring, memory])


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize(("batch", "heads", "size"), [(1, 15, 128), (1, 32, 128), (20, 8, 64)])
def test_attention_steps_in_a_row_see_the_token_before(batch: int, heads: int, size: int, backend: str) -> None:
    torch.manual_seed(heads)
    qkv, turns = _random(48, batch, heads, 3, size), torch.rand(size // 2, device="cuda")
    keys, values = _random(2, batch * 256, heads, size).unbind()
    pages = torch.arange(batch, device="cuda")[:, None]
    position = torch.arange(120, 168, device="cuda")[:, None].expand(48, batch).contiguous()

    def take(token: int) -> Tensor:
        return ops.attention_step(
            qkv[token], keys, values, pages, position[token], turns, page_size=256, backend=backend
        )

    _hold_in_a_row(take, [keys, values])


def test_what_the_kernels_do_not_take_goes_to_the_next_backend() -> None:
    weight = _matrix(16, 24)
    assert ops.explain("linear_step", _random(1, 24), weight).backend == "cuda"
    for x, matrix in (
        (_random(2, 24), weight),
        (_random(1, 24).float(), weight.float()),
        (_random(1, 20), _matrix(16, 20)),
        (_random(1, 24), _rounded(weight)),
    ):
        assert ops.explain("linear_step", x, matrix).backend == "triton"
        with pytest.raises(ops.BackendUnavailable, match="accepted"):
            ops.linear_step(x, matrix, backend="cuda")


def test_a_compiled_step_equals_an_eager_one() -> None:
    x, weight = _random(1, 512), _matrix(640, 512)
    compiled = torch.compile(lambda x: ops.linear_step(x, weight, backend="cuda"), fullgraph=True)
    assert torch.equal(compiled(x), ops.linear_step(x, weight, backend="cuda"))
