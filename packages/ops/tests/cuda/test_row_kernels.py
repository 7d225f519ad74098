"""The CUDA library's kernels over rows against their definitions. Needs a GPU and the library."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad import ops
from subquad.ops import _cuda_backend, _cuda_rows
from tools.testing.oracle import assert_as_exact_as, assert_close

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("unchecked")]

DEVICE = torch.device("cuda")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# A warp and each size of a block, their last and first sizes, sizes that no piece divides, those of 1B, 7B and 40B.
CHANNELS = (1, 7, 24, 512, 513, 520, 1920, 2049, 4096, 4100, 8191, 8192, 8200, 11008, 12288, 12296, 22528, 24576)
FORMS = ("standard", "vortex")
GUARD, FILL = 256, 0xA5


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers on the device."""
    return torch.randn(shape, device=DEVICE).to(dtype)


def among_nan(x: Tensor) -> Tensor:
    """The same numbers as a view into NaN: before and behind each row, and each array."""
    room = torch.full(
        (*(size + 2 for size in x.shape[:-1]), x.shape[-1] + 16), math.nan, dtype=x.dtype, device=x.device
    )
    view = room[(*(slice(1, -1) for _ in x.shape[:-1]), slice(8, -8))]
    return view.copy_(x)


def shifted(x: Tensor) -> Tensor:
    """The same numbers beginning where no piece of 16 bytes does."""
    room = torch.full((x.numel() + 1,), math.nan, dtype=x.dtype, device=x.device)
    return room[1:].view(x.shape).copy_(x)


def wide(value: Any) -> Any:
    """The same in float64, inside tuples too."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    return type(value)(*map(wide, value)) if isinstance(value, tuple) else value


def results(operator: Callable[..., Any], *inputs: Any, **options: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields each result of the definition in float64, of the torch form, and of the kernel."""
    made = [
        operator(*map(wide, inputs), **options, backend="torch"),
        operator(*inputs, **options, backend="torch"),
        operator(*inputs, **options, backend="cuda"),
    ]
    yield from zip(*((m if isinstance(m, tuple) else (m,)) for m in made), strict=True)


def hold(operator: Callable[..., Any], *inputs: Any, **options: Any) -> None:
    """Asserts that the kernel is as exact as the torch form."""
    for oracle, plain, got in results(operator, *inputs, **options):
        assert got.is_contiguous()
        assert_as_exact_as(operator.__name__, oracle, plain, got)


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts every result of a kernel between guards, and asserts behind the test that they are as they were."""
    empty, rooms = torch.empty, []

    def between_guards(shape: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        room = torch.full((size + 2 * GUARD,), FILL, dtype=torch.uint8, device=device)
        rooms.append(room)
        return room[GUARD : GUARD + size].view(dtype).view(shape)

    class Torch:
        empty = staticmethod(between_guards)
        float32, contiguous_format = torch.float32, torch.contiguous_format

        @staticmethod
        def empty_like(x: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
            return between_guards(x.shape, dtype=dtype or x.dtype, device=x.device)

    monkeypatch.setattr(_cuda_rows, "torch", Torch)
    yield
    assert torch.empty is empty
    for room in rooms:
        assert bool((room[:GUARD] == FILL).all()), "something was written before a result"
        assert bool((room[-GUARD:] == FILL).all()), "something was written behind a result"


def rows_for(channels: int) -> tuple[int, ...]:
    """A few rows, and where they are short more than a block has."""
    return (3, 7) if channels <= 520 else (1, 3)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rms_norm(dtype: torch.dtype, channels: int) -> None:
    x, addend = (random(*rows_for(channels), channels, dtype=dtype) for _ in range(2))
    scale = random(channels, dtype=dtype)
    for form in FORMS:
        hold(ops.rms_norm, x, scale, form=form, eps=1e-3)
        hold(ops.rms_norm_of_sum, x, addend, scale, form=form)
    hold(ops.rms_norm, x, scale.float())
    for other in DTYPES:
        hold(ops.rms_norm_of_sum, x, addend.to(other), scale.float())


@pytest.mark.parametrize("channels", [24, 513, 4096, 11008])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rms_norm_of_any_strides_reads_nothing_beside_its_rows(dtype: torch.dtype, channels: int) -> None:
    x, addend = (random(3, 5, channels, dtype=dtype) for _ in range(2))
    scale = random(channels, dtype=dtype)
    for view in (among_nan, shifted):
        hold(ops.rms_norm_of_sum, view(x), view(addend), view(scale))
        hold(ops.rms_norm_of_sum, x, view(addend), scale)
        hold(ops.rms_norm_of_sum, view(x), addend.float(), scale)
        hold(ops.rms_norm_of_sum, x, view(addend.float()), view(scale.float()))
    hold(ops.rms_norm, x.transpose(0, 1), scale)
    hold(ops.rms_norm, random(3, channels, 2, dtype=dtype)[..., 1], scale)
    hold(ops.rms_norm, random(3, 1, channels, dtype=dtype).expand(3, 4, channels), scale)


def test_the_norm_is_made_from_the_sum_before_it_is_rounded() -> None:
    x, addend, scale = random(5, 4096).bfloat16(), random(5, 4096).bfloat16(), random(4096).bfloat16()
    y, total = ops.rms_norm_of_sum(x, addend, scale, backend="cuda")
    assert torch.equal(total, x + addend)
    assert torch.equal(y, ops.rms_norm(x.float() + addend.float(), scale, backend="cuda").bfloat16())


@pytest.mark.parametrize("channels", [1, 7, 256, 300, 1024, 11008, 40000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gated_product(dtype: torch.dtype, channels: int) -> None:
    both = random(2, 3, 2 * channels, dtype=dtype)
    gate, value = random(2, 3, channels, dtype=dtype), random(2, 3, channels, dtype=dtype)
    for activation in (None, "gelu"):
        hold(ops.gated_product, both, activation=activation)
        hold(ops.gated_product, *both.chunk(2, dim=-1), activation=activation)
        hold(ops.gated_product, gate, value, activation=activation)
        hold(ops.gated_product, among_nan(gate), among_nan(value), activation=activation)
        hold(ops.gated_product, shifted(gate), value, activation=activation)
        hold(ops.gated_product, gate.transpose(0, 1), value.transpose(0, 1), activation=activation)


# One tile and parts of it in every direction, one row, more tiles than blocks, sizes of 1B and 7B.
GATED_LINEARS = ((1, 64, 128), (127, 8, 8), (129, 72, 136), (300, 200, 264), (1000, 512, 3000), (2304, 1920, 5120))


@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), GATED_LINEARS, ids=str)
def test_gated_linear(rows: int, inputs: int, outputs: int, activation: str | None) -> None:
    x = random(rows, inputs, dtype=torch.bfloat16)
    weights = [random(outputs, inputs, dtype=torch.bfloat16) * inputs**-0.5 for _ in range(2)]
    hold(ops.gated_linear, x, *weights, activation=activation)
    hold(ops.gated_linear, among_nan(x), *weights, activation=activation)
    hold(ops.gated_linear, shifted(x), *map(shifted, weights), activation=activation)
    hold(ops.gated_linear, x[None], *(among_nan(w) for w in weights), activation=activation)


def test_gated_linear_of_many_tiles_gives_the_same_bits_each_time_and_for_each_row_alone() -> None:
    x = random(8000, 1024, dtype=torch.bfloat16)
    weights = [random(5120, 1024, dtype=torch.bfloat16) / 32 for _ in range(2)]
    y = ops.gated_linear(x, *weights, backend="cuda")
    for _ in range(20):
        assert torch.equal(y, ops.gated_linear(x, *weights, backend="cuda"))
    assert torch.equal(y[4321:7000], ops.gated_linear(x[4321:7000], *weights, backend="cuda"))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.gated_linear(x, *weights, backend="cuda")
    graph.replay()
    assert torch.equal(captured, y)


def test_auto_takes_gated_linear_from_many_rows_on() -> None:
    for inputs, fewest in ((4096, _cuda_backend.FEWEST_ROWS), (64, _cuda_backend.FEWEST_ROWS_OF_FEW_INPUTS)):
        weights = [random(64, inputs, dtype=torch.bfloat16) for _ in range(2)]
        x = random(fewest, inputs, dtype=torch.bfloat16)
        assert ops.explain("gated_linear", x, *weights).backend == "cuda"
        explained = ops.explain("gated_linear", x[1:], *weights)
        assert explained.backend == "torch"
        assert f"cuda: {fewest - 1} rows; two products were faster below {fewest}" in explained.reason
    compiled = torch.compile(lambda *arguments: ops.gated_linear(*arguments), fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x, *weights), ops.gated_linear(x, *weights, backend="cuda"))
    assert ops.explain("gated_linear", x.requires_grad_(), *weights).backend == "torch"


def ring_between_nan(batch: int, channels: int, past: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A contiguous ring of normal numbers, and the room of NaN in which it lies."""
    count = batch * channels * past
    room = torch.full((count + 2 * GUARD,), math.nan, dtype=dtype, device=DEVICE)
    return room[GUARD : GUARD + count].view(batch, channels, past).copy_(random(batch, channels, past)), room


@pytest.mark.parametrize("taps", [2, 3, 4, 7, 9, 10, 33, 34, 97, 128, 129])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fir_step(dtype: torch.dtype, taps: int) -> None:
    past = taps - 1
    for channels, groups, batch in ((1, 1, 1), (33, 11, 7), (1030, 1030, 3)):
        x, position = random(batch, channels, dtype=dtype), torch.arange(batch, device=DEVICE) * 37 + past - 1
        extra = {
            "bias": random(channels, dtype=dtype),
            "skip": random(channels),
            "active": torch.arange(batch, device=DEVICE) % 3 != 1,
        }
        for weights in (random(groups, taps, dtype=dtype), random(groups, taps)):
            for index, options in ((torch.int64, extra), (torch.int32, {})):
                ring, room = ring_between_nan(batch, channels, past, dtype)
                rings = [ring.clone(), ring.double()]
                got = ops.fir_step(x, weights, ring, position.to(index), **options, backend="cuda")
                plain = ops.fir_step(x, weights, rings[0], position, **options, backend="torch")
                oracle = ops.fir_step(
                    *map(wide, (x, weights, rings[1], position)),
                    **{k: wide(v) for k, v in options.items()},
                    backend="torch",
                )
                rows = options.get("active", slice(None))
                assert_as_exact_as(f"{channels} channels", oracle[rows], plain[rows], got[rows])
                assert torch.equal(ring, rings[0])
                assert room[:GUARD].isnan().all()
                assert room[-GUARD:].isnan().all()


def test_fir_step_takes_a_ring_that_is_a_view_and_a_ring_of_another_dtype() -> None:
    x, taps, position = random(2, 6, dtype=torch.bfloat16), random(6, 7, dtype=torch.bfloat16), torch.tensor([3, 50])
    room = random(2, 6, 12, dtype=torch.bfloat16)
    rings = [room.clone()[..., ::2] for _ in range(2)]
    made = [ops.fir_step(x, taps, r, position.cuda(), backend=b) for r, b in zip(rings, ("cuda", "torch"), strict=True)]
    assert_close(*made, 1e-2)
    assert torch.equal(*rings)
    assert ops.explain("fir_step", x, taps, rings[0], position.cuda()).backend == "cuda"
    assert ops.explain("fir_step", x, taps, rings[0].float(), position.cuda()).backend == "triton"


def frequencies(size: int) -> Tensor:
    """Those of a network's heads."""
    return 1e4 ** -(torch.arange(0, size, 2, device=DEVICE) / size)


@pytest.mark.parametrize("size", [2, 6, 16, 24, 64, 128, 256, 1200])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotary(dtype: torch.dtype, size: int) -> None:
    turns = frequencies(size)
    for length, heads in ((1, 3), (9, 1), (13, 5)):
        qkv = random(2, length, heads, 3, size, dtype=dtype)
        position = torch.tensor([[7], [90]], device=DEVICE) + torch.arange(length, device=DEVICE)
        for at in (position, position[1:], position.int(), position.t().contiguous().t()):
            hold(ops.rotary, qkv[:, :, :, 0], at, turns, scale=3.0)
        hold(ops.rotary, among_nan(qkv[:, :, :, 1]), position, turns)
        hold(ops.rotary, shifted(qkv[:, :, :, 1]), position, turns.double())


@pytest.mark.parametrize("size", [2, 6, 24, 64, 128])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kept_in", [*DTYPES, torch.float64], ids=str)
def test_rotary_into_fills_its_part_of_a_cache_and_nothing_else(
    dtype: torch.dtype, kept_in: torch.dtype, size: int
) -> None:
    turns = frequencies(size)
    for length, heads, view in ((1, 3, among_nan), (13, 5, shifted)):
        qkv = view(random(2, length, heads, 3, size, dtype=dtype))
        position = torch.tensor([[7], [90]], device=DEVICE) + torch.arange(length, device=DEVICE)
        caches = [random(2, 4, length + 2, heads, size, dtype=kept_in) for _ in range(2)]
        keys, values = caches[0][:, 1, 1:-1], caches[1][:, 1, 1:-1]
        before = [cache.clone() for cache in caches]
        q = ops.rotary_into(qkv, position, turns, keys, values, backend="cuda")
        assert torch.equal(q, ops.rotary(qkv[:, :, :, 0], position, turns, backend="cuda"))
        oracle, plain = (
            ops.rotary(x[:, :, :, 1], position, turns.to(x.dtype), backend="torch") for x in (qkv.double(), qkv.float())
        )
        assert_as_exact_as("keys", oracle, plain.to(kept_in), keys)
        assert torch.equal(values, qkv[:, :, :, 2].to(kept_in))
        before[0][:, 1, 1:-1], before[1][:, 1, 1:-1] = keys, values
        assert all(torch.equal(a, b) for a, b in zip(caches, before, strict=True))


def test_far_positions_turn_by_the_angle_that_float32_gives() -> None:
    x, position = random(1, 50, 2, 128), 1_000_000 + torch.arange(50, device=DEVICE)[None]
    got, plain = (ops.rotary(x, position, frequencies(128), backend=b) for b in ("cuda", "torch"))
    assert_close(got, plain, 1e-6)


@pytest.mark.parametrize("past", [1, 2, 6, 127])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rings_are_turned_as_on_a_cpu(dtype: torch.dtype, past: int) -> None:
    for channels in (1, 5, 300):
        history = random(2, channels, past, dtype=dtype)
        for position in (torch.tensor([0, 5]), torch.tensor([past, 12345], dtype=torch.int32)):
            there = position.to(DEVICE)
            _cuda_rows.turn_ring(history, made := torch.empty_like(history), there, 0, True)
            expected = ops.ring_from_history(history.cpu(), position)
            assert torch.equal(made.cpu(), expected)
            _cuda_rows.turn_ring(made, back := torch.empty_like(history), there, 0, False)
            assert torch.equal(back, history)
            for other in DTYPES:
                room = torch.full((2, channels + 2, past), math.nan, dtype=other, device=DEVICE)
                source = among_nan(history.transpose(1, 2)).transpose(1, 2)
                _cuda_rows.turn_ring(source, room[:, 1:-1], there, 7, True)
                expected = ops.ring_from_history(history.cpu(), position + 7).to(other)
                assert torch.equal(room[:, 1:-1].cpu(), expected)
                assert bool(room[:, 0].isnan().all())
                assert bool(room[:, -1].isnan().all())


def hold_rounded(make: Callable[[str], ops.RoundedRows]) -> None:
    """Asserts the codes of the torch form, but for a few numbers that lie in the middle between two."""
    got, expected = make("cuda"), make("torch")
    assert_close(got.inverse, expected.inverse, 1e-5)
    assert got.codes.is_contiguous()
    ours, theirs = got.codes.double(), expected.codes.double()
    distance = (ours - theirs).abs()
    assert float((distance > 0).double().mean()) <= max(2e-3, 1.0 / distance.numel())
    assert not (distance > torch.clamp(theirs.abs() / 8, min=2.0**-9)).any()


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounded_rows(dtype: torch.dtype, channels: int) -> None:
    x, other = (3 * random(*rows_for(channels), channels, dtype=dtype) for _ in range(2))
    x[0, 0] = 0
    for given in (x, among_nan(x)):
        hold_rounded(lambda b, x=given: ops.rounded_rows(x, backend=b))
        for activation in (None, "gelu"):
            hold_rounded(lambda b, x=given, a=activation: ops.rounded_product(x, other, activation=a, backend=b))
        for form in FORMS:
            norm = ops.StepNorm(random(channels, dtype=dtype), 1e-3, form)
            for addend in (None, other, among_nan(other), other.float()):
                hold_rounded(lambda b, x=given, o=addend, n=norm: ops.rounded_norm(x, n, addend=o, backend=b)[0])
    total = ops.rounded_norm(x, norm, addend=other, backend="cuda")[1]
    assert torch.equal(total, (x.float() + other.float()).to(dtype))


@pytest.mark.parametrize(("channels", "length"), [(1, 1), (16, 5), (130, 40), (256, 64), (300, 33), (515, 70)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounded_columns(dtype: torch.dtype, channels: int, length: int) -> None:
    x = 3 * random(2, channels, length, dtype=dtype)
    x[0, :, 0] = 0
    ragged = torch.full((2, channels, -(-length // 16) * 16), math.nan, dtype=dtype, device=DEVICE)[..., :length]
    ragged.copy_(x)  # pieces of 16 bytes, the last of which a row does not fill
    for given in (x, ragged, among_nan(x), shifted(x), x.transpose(1, 2).contiguous().transpose(1, 2)):
        hold_rounded(lambda b, x=given: ops.rounded_rows(x, layout="BHL", backend=b))


@pytest.mark.parametrize("layout", ["BLH", "BHL"])
def test_what_has_no_place_among_the_codes(layout: Any) -> None:
    x = torch.ones(4, 32, device=DEVICE)
    x[0], x[1, 3], x[2, 3], x[3, 3] = 0, math.inf, 3e38, 1e-40
    rows = ops.rounded_rows(x[None] if layout == "BLH" else x.t()[None], layout=layout, backend="cuda")
    codes, inverse = rows.codes[0].float(), rows.inverse[0]
    assert codes[0].tolist() == [0.0] * 32
    assert float(inverse[0]) == 1.0
    assert bool(codes[1, 3].isnan())  # infinity times a scale of zero, as in torch
    assert float(codes[2].max()) == 448.0
    assert float(codes[3].max()) == 448.0
    assert float(codes[3, 3]) == 0.0


def test_nan_stays_nan() -> None:
    x = random(2, 40)
    x[1, 5] = math.nan
    codes = ops.rounded_rows(x, backend="cuda").codes.float()
    assert codes.isnan().sum() == 1
    assert bool(codes[1, 5].isnan())


CALLS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "rms_norm": lambda: (random(6, 500), random(500)),
    "gated_product": lambda: (random(6, 500),),
    "rounded_rows": lambda: (random(6, 500),),
    "rotary": lambda: (random(2, 6, 3, 64), torch.arange(6, device=DEVICE)[None], frequencies(64)),
}


@pytest.mark.parametrize("name", CALLS)
def test_auto_takes_the_library_where_no_gradient_is_wanted(name: str) -> None:
    arguments = CALLS[name]()
    assert ops.explain(name, *arguments).backend == "cuda"
    if name != "rounded_rows":
        arguments[0].requires_grad_()
        assert ops.explain(name, *arguments).backend == "triton"
        with pytest.raises(ops.BackendUnavailable, match="a gradient is wanted; accepted: calls without"):
            getattr(ops, name)(*arguments, backend="cuda")


@pytest.mark.parametrize("name", CALLS)
def test_no_rows_are_no_error(name: str) -> None:
    x, *parameters = CALLS[name]()
    assert ops.explain(name, x[:0], *parameters).backend == "torch"
    with pytest.raises(ops.BackendUnavailable, match="the call is empty"):
        getattr(ops, name)(x[:0], *parameters, backend="cuda")


def _first(result: Any) -> Tensor:
    return result.codes.float() * result.inverse[..., None] if isinstance(result, ops.RoundedRows) else result


@pytest.mark.parametrize("name", CALLS)
def test_a_captured_call_replays_with_new_input(name: str) -> None:
    operator, arguments = getattr(ops, name), CALLS[name]()
    operator(*arguments, backend="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = operator(*arguments, backend="cuda")
    arguments[0].normal_()
    graph.replay()
    assert torch.equal(_first(y), _first(operator(*arguments, backend="cuda")))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_runs_on_the_current_stream(name: str) -> None:
    operator, (x, *parameters) = getattr(ops, name), CALLS[name]()
    expected = _first(operator(x, *parameters, backend="cuda"))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late = torch.zeros_like(x).copy_(x)
        y = operator(late, *parameters, backend="cuda")
    stream.synchronize()
    assert torch.equal(_first(y), expected)


@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_call_equals_an_eager_one(name: str) -> None:
    operator, (x, *parameters) = getattr(ops, name), CALLS[name]()
    compiled = torch.compile(lambda x: operator(x, *parameters, backend="cuda"), fullgraph=True, backend="aot_eager")
    assert torch.equal(_first(compiled(x)), _first(operator(x, *parameters, backend="cuda")))


def test_rings_go_through_the_library_and_into_a_graph() -> None:
    history, position = random(2, 30, 6).bfloat16(), torch.tensor([3, 11], device=DEVICE)
    ring = torch.zeros(2, 30, 6, device=DEVICE)
    ops.fill_ring(ring, history, position, 5)
    expected = ops.ring_from_history(history.cpu(), position.cpu() + 5).float()
    assert torch.equal(ring.cpu(), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.fill_ring(ring, history, position, 5)
        back = ops.history_from_ring(ring, position + 5)
    history.normal_()
    graph.replay()
    assert torch.equal(back, history.float())


def test_more_numbers_than_32_bits_count() -> None:
    rows, channels = 2**19 + 8, 4096
    x, scale = torch.ones(rows, channels, device=DEVICE, dtype=torch.bfloat16), random(channels).bfloat16()
    x[-3:] = random(3, channels)
    for operator, arguments in ((ops.rms_norm, (scale,)), (ops.gated_product, ())):
        y = operator(x, *arguments, backend="cuda")
        assert torch.equal(y[-3:], operator(x[-3:].clone(), *arguments, backend="cuda"))
        del y
    codes = ops.rounded_rows(x, backend="cuda").codes
    assert torch.equal(codes[-3:].float(), ops.rounded_rows(x[-3:].clone(), backend="cuda").codes.float())
