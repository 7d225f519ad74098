"""The CUDA library's attention step against its definition. Needs a GPU of capability 9.0 and the library."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from subquad import ops
from tools.testing.oracle import assert_as_exact_as

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("unchecked")]

# A cluster of 8 blocks a head, of 4, and none; heads of both sizes.
ROWS = ((1, 15, 128), (1, 32, 128), (3, 32, 128), (20, 7, 64), (1, 1, 64))


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda").bfloat16()


def _case(batch: int, heads: int, size: int, page: int, positions: list[int]) -> tuple[Tensor, ...]:
    """Rows in scattered pages; slots that no row has reached hold NaN."""
    count = max(positions) // page + 1
    pages = torch.randperm(batch * count, device="cuda").view(batch, count)
    position = torch.tensor([positions[row % len(positions)] for row in range(batch)], device="cuda")
    pools = [torch.full((batch * count * page, heads, size), torch.nan, device="cuda").bfloat16() for _ in range(2)]
    for row in range(batch):
        time = torch.arange(int(position[row]), device="cuda")
        slots = pages[row][time // page] * page + time % page
        for pool in pools:
            pool[slots] = _normal(len(slots), heads, size)
    inv_freq = 10.0 ** -torch.linspace(0, 4, size // 2, device="cuda")
    return _normal(batch, heads, 3, size), *pools, pages, position, inv_freq


def _copies(arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return arguments[0], arguments[1].clone(), arguments[2].clone(), *arguments[3:]


def _hold(arguments: tuple[Tensor, ...], **options: Any) -> None:
    """Holds output, keys and values to float64; torch's form reads every slot, so that zeros replace what is empty."""
    plain, wide = [_copies(arguments) for _ in range(2)]
    for form in (plain, wide):
        for pool in form[1:3]:
            pool.nan_to_num_(0.0)
    wide = tuple(x.double() if x.is_floating_point() else x for x in wide)
    own = _copies(arguments)
    got = ops.attention_step(*own, **options, backend="cuda")
    expected = ops.attention_step(*plain, **options, backend="torch")
    oracle = ops.attention_step(*wide, **options, backend="torch")
    active = options.get("active")
    rows = slice(None) if active is None else active
    assert_as_exact_as("attention_step", oracle[rows], expected[rows], got[rows])
    for mine, given, theirs in zip(own[1:3], arguments[1:3], plain[1:3], strict=True):
        assert torch.equal(mine.isnan().any(dim=(1, 2)) & given.isnan().any(dim=(1, 2)), mine.isnan().any(dim=(1, 2)))
        torch.testing.assert_close(mine.nan_to_num(0.0), theirs, rtol=0.01, atol=0.01)
        assert int((mine.isnan() != given.isnan()).any(dim=(1, 2)).sum()) == int(
            len(arguments[0]) if active is None else active.sum()
        )


@pytest.mark.parametrize("page", [32, 256])
@pytest.mark.parametrize(("batch", "heads", "size"), ROWS)
def test_attention_step(batch: int, heads: int, size: int, page: int) -> None:
    torch.manual_seed(heads)
    for positions in ([0], [1], [31, 5, 0], [32, 33, 63], [255, 256, 257], [1030, 17, 700], [8000, 4095]):
        _hold(_case(batch, heads, size, page, positions), page_size=page, position_scale=2.0)


def test_narrow_integers_and_rows_that_are_not_active() -> None:
    torch.manual_seed(0)
    qkv, keys, values, pages, position, inv_freq = _case(3, 4, 128, 32, [70, 9, 64])
    active = torch.tensor([True, False, True], device="cuda")
    narrow = (qkv, keys, values, pages.int(), position.int(), inv_freq)
    _hold(narrow, page_size=32, active=active)
    before = [keys.clone(), values.clone()]
    ops.attention_step(*narrow, page_size=32, active=torch.zeros_like(active), backend="cuda")
    for pool, kept in zip((keys, values), before, strict=True):
        assert torch.equal(pool.isnan(), kept.isnan())
        assert torch.equal(pool.nan_to_num(0.0), kept.nan_to_num(0.0))


def test_a_row_without_room_stores_nothing() -> None:
    torch.manual_seed(0)
    qkv, keys, values, pages, position, inv_freq = _case(2, 4, 128, 32, [63, 40])
    keys.nan_to_num_(1.0)
    values.nan_to_num_(1.0)
    before = [keys.clone(), values.clone()]
    for beyond, backend in itertools.product((64, 900), ("cuda", "triton")):
        time = torch.full_like(position, beyond)
        ops.attention_step(qkv, keys, values, pages, time, inv_freq, page_size=32, backend=backend)
        assert torch.equal(keys, before[0])
        assert torch.equal(values, before[1])


def test_large_scores_and_values_that_are_no_numbers() -> None:
    torch.manual_seed(0)
    qkv, keys, values, pages, position, inv_freq = _case(1, 8, 128, 256, [3000])
    _hold((qkv * 30, keys * 30, values, pages, position, inv_freq), page_size=256)
    values[pages[0, 3] * 256 + 5, 2] = torch.nan
    y = ops.attention_step(qkv, keys, values, pages, position, inv_freq, page_size=256, backend="cuda")
    assert y[0, 2].isnan().all()
    assert not y[0, [0, 1, 3, 4, 5, 6, 7]].isnan().any()


def test_far_tokens_in_one_graph() -> None:
    """Steps from 131,000 tokens on, replayed: the position moves on the device and each step sees the one before."""
    torch.manual_seed(0)
    arguments = _case(1, 15, 128, 256, [131_020])
    pools, position = [pool.clone() for pool in arguments[1:3]], arguments[4].clone()
    stream = _normal(12, 1, 15, 3, 128)
    qkv = stream[0].clone()

    def step() -> Tensor:
        y = ops.attention_step(qkv, *pools, arguments[3], position, arguments[5], page_size=256, backend="cuda")
        position.add_(1)
        return y

    first = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step()
    results = [first.clone()]
    for token in stream[1:]:
        qkv.copy_(token)
        graph.replay()
        results.append(y.clone())
    plain = [pool.nan_to_num(0.0) for pool in arguments[1:3]]
    wide = [pool.double() for pool in plain]
    for i, (token, got) in enumerate(zip(stream, results, strict=True)):
        where = (arguments[3], arguments[4] + i, arguments[5])
        expected = ops.attention_step(token, *plain, *where, page_size=256, backend="torch")
        oracle = ops.attention_step(token.double(), *wide, *where[:2], where[2].double(), page_size=256)
        assert_as_exact_as("attention_step", oracle, expected, got)


def test_what_the_kernel_does_not_take_goes_to_the_next_backend() -> None:
    arguments = _case(2, 4, 128, 32, [40, 3])
    assert ops.explain("attention_step", *arguments, page_size=32).backend == "cuda"
    halves = tuple(x.half() if x.dtype == torch.bfloat16 else x for x in arguments)
    apart = (arguments[0], arguments[1].transpose(0, 1).contiguous().transpose(0, 1), *arguments[2:])
    for given, page, backend in ((arguments, 8, "triton"), (halves, 32, "triton"), (apart, 32, "torch")):
        assert ops.explain("attention_step", *given, page_size=page).backend == backend
        with pytest.raises(ops.BackendUnavailable, match=r"accepted|multiple of 32"):
            ops.attention_step(*given, page_size=page, backend="cuda")


def test_a_compiled_step_equals_an_eager_one() -> None:
    arguments = _case(1, 8, 128, 32, [100])

    def step(*given: Tensor) -> Tensor:
        return ops.attention_step(*given, page_size=32, backend="cuda")

    eager = step(*_copies(arguments))
    assert torch.equal(torch.compile(step, fullgraph=True)(*_copies(arguments)), eager)
