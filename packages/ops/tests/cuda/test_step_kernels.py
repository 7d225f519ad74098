"""The CUDA library's decode kernels against their definitions. Needs a GPU of capability 9.0 and the library."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from packages.ops.tests.cuda.decode_cases import hold, matrix, norm_of, random_values, rounded, wide
from subquad import ops
from tools.testing.oracle import assert_as_exact_as

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("unchecked")]

# Sizes of the smallest rows, of rows that end within a piece and a slot, of 1B and of 7B, and of more rows than warps.
SIZES = ((8, 5), (264, 7), (1920, 512), (4096, 1056), (5120, 133), (11264, 64), (520, 12000))
NORMS = (None, "vortex", "standard")


@pytest.mark.parametrize("form", NORMS)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_linear_step(inputs: int, outputs: int, form: str | None) -> None:
    if form is not None and inputs > 8192:
        pytest.skip("the norm of so many inputs is refused")
    torch.manual_seed(inputs)
    x, weight, norm = random_values(1, inputs), matrix(outputs, inputs), norm_of(form, inputs)
    bias, residual = random_values(outputs), random_values(1, outputs)
    hold(ops.linear_step, x, weight, norm=norm)
    hold(ops.linear_step, x, weight, norm=norm, bias=bias.float(), residual=residual)
    if inputs % 16 == 0 and form is None:
        hold(ops.linear_step, x, rounded(weight), bias=bias, residual=residual)


@pytest.mark.parametrize("form", NORMS)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_gated_linear_step(inputs: int, outputs: int, form: str | None) -> None:
    if form is not None and inputs > 8192:
        pytest.skip("the norm of so many inputs is refused")
    torch.manual_seed(inputs)
    x, norm = random_values(1, inputs), norm_of(form, inputs)
    gate, value = matrix(outputs, inputs), matrix(outputs, inputs)
    for activation in ("gelu", None):
        hold(ops.gated_linear_step, x, gate, value, norm=norm, activation=activation)
    if inputs % 16 == 0 and form is None:
        hold(ops.gated_linear_step, x, rounded(gate), rounded(value), activation="gelu")


def test_rounded_weights_behind_a_norm() -> None:
    x, norm = random_values(1, 4096), ops.StepNorm(random_values(4096, dtype=torch.float32), 1e-6, "standard")
    weight = rounded(matrix(1024, 4096))
    whole = weight.codes.float() / weight.scale[:, None]
    exactly = ops.linear_step(x.double(), whole.double(), norm=wide(norm), backend="torch")
    got = ops.linear_step(x, weight, norm=norm, backend="cuda")
    assert_as_exact_as("linear_step", exactly, exactly.bfloat16(), got)


def _mixers(channels: int) -> list[tuple[Callable[..., Tensor], tuple[Tensor, ...], Tensor]]:
    poles = -0.5 * torch.rand(channels, 16, device="cuda")
    taps: list[tuple[Callable[..., Tensor], tuple[Tensor, ...], Tensor]] = [
        (ops.gated_conv_step, (random_values(channels // 8, size),), random_values(1, channels, size - 1))
        for size in (2, 7, 128)
    ]
    residues, modes = (
        random_values(channels, 16, dtype=torch.float32),
        random_values(1, channels, 16, dtype=torch.float32),
    )
    return [*taps, (ops.gated_modal_step, (poles, residues), modes)]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("form", NORMS)
@pytest.mark.parametrize(("channels", "inputs"), [(8, 16), (640, 1920), (1384, 520)])
def test_gated_steps(channels: int, inputs: int, form: str | None, kind: int) -> None:
    torch.manual_seed(channels)
    step, parameters, memory = _mixers(channels)[kind]
    short, ring, skip = random_values(3 * channels, 3), random_values(1, 3 * channels, 2), random_values(channels)
    projection = ops.StepProjection(matrix(3 * channels, inputs), norm_of(form, inputs))
    states = [[ring.clone(), memory.clone()] for _ in range(2)] + [[ring.double(), memory.double()]]
    results: list[list[Tensor]] = [[], [], []]
    for token in range(12):
        x, position = random_values(1, inputs), torch.tensor([token + 120], device="cuda")
        active = torch.tensor([token != 5], device="cuda")
        options = {"projection": projection, "skip": skip, "active": active}
        before = [state.clone() for state in states[0]]
        results[0].append(step(x, short, *parameters, *states[0], position, **options, backend="cuda"))
        results[1].append(step(x, short, *parameters, *states[1], position, **options, backend="torch"))
        results[2].append(
            step(
                *map(wide, (x, short, *parameters)),
                *states[2],
                position,
                **{name: wide(value) for name, value in options.items()},
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
    projection = ops.StepProjection(rounded(matrix(3 * channels, inputs)))
    for step, parameters, memory in _mixers(channels):
        short, x = random_values(3 * channels, 3), random_values(1, inputs)
        position = torch.tensor([9], device="cuda", dtype=torch.int32)
        states = [[random_values(1, 3 * channels, 2) * 0, memory.clone()] for _ in range(2)]
        got, plain = (
            step(x, short, *parameters, *own, position, projection=projection, backend=backend)
            for own, backend in zip(states, ("cuda", "torch"), strict=True)
        )
        assert_as_exact_as(step.__name__, plain.double(), plain, got)


def test_a_chain_of_early_starts_reads_nothing_too_early() -> None:
    """Sixty dependent products in one graph, replayed: each starts before the one in front of it ends."""
    torch.manual_seed(0)
    inputs, inner = 1920, 5120
    layers = [(matrix(inner, inputs), matrix(inner, inputs), matrix(inputs, inner)) for _ in range(20)]
    norm = ops.StepNorm(torch.ones(inputs, device="cuda").bfloat16(), 1e-6, "standard")
    bias = random_values(inputs)

    def run(x: Tensor, backend: str) -> Tensor:
        for gate, value, out in layers:
            y = ops.gated_linear_step(x, gate, value, norm=norm, activation="gelu", backend=backend)
            x = ops.linear_step(y, out, bias=bias, residual=x, backend=backend)
            x = ops.linear_step(x, layers[0][2][:, :inputs].contiguous(), norm=norm, residual=x, backend=backend)
        return x

    given = random_values(1, inputs)
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
            exact = [weight.double() for weight in (gate, value, out, layers[0][2][:, :inputs])]
            y = ops.gated_linear_step(exactly, exact[0], exact[1], norm=wide(norm), activation="gelu")
            exactly = ops.linear_step(y, exact[2], bias=bias.double(), residual=exactly)
            exactly = ops.linear_step(exactly, exact[3], norm=wide(norm), residual=exactly)
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
    short, ring = random_values(3 * channels, 3), random_values(1, 3 * channels, 2)
    projection = ops.StepProjection(matrix(3 * channels, inputs), norm_of("vortex", inputs))
    x, position = random_values(48, 1, inputs), torch.arange(120, 168, device="cuda")[:, None]

    def take(token: int) -> Tensor:
        return step(x[token], short, *parameters, ring, memory, position[token], projection=projection, backend=backend)

    _hold_in_a_row(take, [ring, memory])


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize(("batch", "heads", "size"), [(1, 15, 128), (1, 32, 128), (20, 8, 64)])
def test_attention_steps_in_a_row_see_the_token_before(batch: int, heads: int, size: int, backend: str) -> None:
    torch.manual_seed(heads)
    qkv, turns = random_values(48, batch, heads, 3, size), torch.rand(size // 2, device="cuda")
    keys, values = random_values(2, batch * 256, heads, size).unbind()
    pages = torch.arange(batch, device="cuda")[:, None]
    position = torch.arange(120, 168, device="cuda")[:, None].expand(48, batch).contiguous()

    def take(token: int) -> Tensor:
        return ops.attention_step(
            qkv[token], keys, values, pages, position[token], turns, page_size=256, backend=backend
        )

    _hold_in_a_row(take, [keys, values])


def test_what_the_kernels_do_not_take_goes_to_the_next_backend() -> None:
    weight = matrix(16, 24)
    assert ops.explain("linear_step", random_values(1, 24), weight).backend == "cuda"
    for x, other, taken in (
        (random_values(65, 24), weight, "torch"),
        (random_values(9, 24), weight, "triton"),
        (random_values(1, 24).float(), weight.float(), "triton"),
        (random_values(1, 20), matrix(16, 20), "triton"),
        (random_values(1, 24), rounded(weight), "triton"),
    ):
        assert ops.explain("linear_step", x, other).backend == taken
        if x.shape[0] != 9:
            with pytest.raises(ops.BackendUnavailable, match="accepted"):
                ops.linear_step(x, other, backend="cuda")


def test_a_compiled_step_equals_an_eager_one() -> None:
    x, weight = random_values(1, 512), matrix(640, 512)
    compiled = torch.compile(lambda x: ops.linear_step(x, weight, backend="cuda"), fullgraph=True)
    assert torch.equal(compiled(x), ops.linear_step(x, weight, backend="cuda"))
