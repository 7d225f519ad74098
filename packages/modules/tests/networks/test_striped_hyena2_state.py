"""Reading in chunks, token by token, from any position, in any row: always the full forward."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from packages.modules.tests.support import golden_model, lively_model, random_ids
from subquad.modules import InputMismatch, StateCapacityExceeded, StripedHyena2, StripedHyena2State, round_linears
from subquad.modules.mixers.paged_key_values import PagedKeyValueState
from subquad.ops.fp8_linear.fp8_linear import values_of
from tools.testing.oracle import assert_as_exact_as, assert_close, relative_error


@torch.inference_mode()
def read(model: StripedHyena2, ids: Tensor, state: StripedHyena2State, chunks: list[int]) -> Tensor:
    """Reads ids in chunks; a chunk of 1 goes through ``step``."""
    logits = []
    for part in ids.split(chunks, dim=1):
        if part.shape[1] == 1:
            logits.append(model.step(part[:, 0], state).unsqueeze(1))
        else:
            logits.append(model.unembed(model.encode(part, state)))
    return torch.cat(logits, dim=1)


def test_decode_equals_forward_for_every_prompt_length_in_float64() -> None:
    model, ids, prompts = lively_model(), random_ids(1, 136), range(1, 131)
    state = model.init_state(len(prompts), max_length=136)  # a row for each
    with torch.inference_mode():
        whole = model(ids)[0]
        for row, prompt in enumerate(prompts):
            got = model.unembed(model.encode(ids[:, :prompt], state.row(row)))[0]
            assert_close(got, whole[:prompt], relative=1e-12)
        for token in range(3):
            at = torch.tensor(prompts) + token
            for got, expected in zip(model.step(ids[0, at], state), whole[at], strict=True):
                assert_close(got, expected, relative=1e-12)


def test_decode_equals_forward_for_prompts_around_filters_and_blocks_in_float32() -> None:
    model, ids = golden_model(), random_ids(1, 136, seed=1)
    with torch.inference_mode():
        whole = model(ids)
    for prompt in (*range(1, 9), 31, 32, 33, 63, 64, 65, 95, 97, *range(126, 131)):
        state = model.init_state(1, max_length=136)
        got = read(model, ids[:, : prompt + 2], state, [prompt, 1, 1])
        assert_close(got, whole[:, : prompt + 2], relative=5e-6)


ODD_CHUNKS = [[1] * 6 + [134], [5, 1, 126, 8], [130, 2, 8], [3, 3, 134], [139, 1], [31, 2, 64, 1, 9, 33]]
EVEN_CHUNKS = [[size] * (140 // size) + [140 % size] for size in (1, 7, 64, 128, 129)]


@pytest.mark.parametrize("chunks", [*ODD_CHUNKS, *([n for n in sizes if n] for sizes in EVEN_CHUNKS)])
def test_any_chunking_equals_forward(chunks: list[int]) -> None:
    model, ids = lively_model(seed=2), random_ids(2, 140, seed=3)
    with torch.inference_mode():
        whole = model(ids)
    assert_close(read(model, ids, model.init_state(2, max_length=140), chunks), whole, relative=1e-12)


@pytest.mark.parametrize("rounded", [False, True], ids=["plain", "one byte"])
@pytest.mark.parametrize("last", "SDH*")
@torch.inference_mode()
def test_the_last_position_alone_and_the_state_behind_it_equal_those_of_all(last: str, rounded: bool) -> None:
    model, ids = lively_model(seed=8, pattern="SH*D" + last), random_ids(2, 90, seed=9)
    if rounded:
        round_linears(model)
    states = [model.init_state(2, max_length=90) for _ in range(2)]
    rows = []
    model.blocks[-1].mlp.l3.register_forward_pre_hook(lambda _, given: rows.append(values_of(given[0]).shape[1]))
    for part in ids.split([1, 70, 19], dim=1):
        every, alone = model.encode(part, states[0]), model.encode_last(part, states[1])
        assert_close(alone, every[:, -1], relative=1e-12)
    assert rows == [1, 1, 70, 1, 19, 1]
    assert states[0].position.tolist() == states[1].position.tolist() == [90, 90]
    for one, other in zip(states[0].layers, states[1].layers, strict=True):
        for name, value in one.tensors().items():
            assert torch.equal(other.tensors()[name], value)
    with pytest.raises(InputMismatch, match="no token"):
        model.encode_last(ids[:, :0], states[1])


@pytest.mark.parametrize("rounded", [False, True], ids=["plain", "one byte"])
@pytest.mark.parametrize("last", "SDH*")
@pytest.mark.parametrize("fused", [None, False])
@torch.inference_mode()
def test_sequences_of_different_lengths_read_together_equal_each_alone(last: str, rounded: bool, fused: bool) -> None:
    model = lively_model(seed=10, pattern="H*SD" + last, use_subquadratic_ops=fused)
    for block in model.blocks:
        for linear in (block.outward, block.mlp.l3):
            if linear.bias is not None:
                linear.bias.copy_(torch.linspace(-1, 1, 64))  # which a block adds to padding too
    if rounded:
        round_linears(model)
    lengths = [1, 140, 2, 7, 128, 131, 33]
    ids = random_ids(len(lengths), 140, seed=11)
    state = model.init_state(len(lengths), max_length=150)
    got = model.encode_short(ids, state, lengths)
    pool = model.init_state(9, max_length=150)
    rows = [8, 3, 0, 5, 1, 2, 6]
    pool.take_rows(state, rows, lengths)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        alone = model.init_state(1, max_length=150)
        assert_close(got[index], model.encode_last(ids[index : index + 1, 140 - length :], alone)[0], relative=1e-12)
        token = random_ids(1, 1, seed=length)[:, 0]
        assert_close(model.step(token, pool.row(row)), model.step(token, alone), relative=1e-12)
    assert pool.position.tolist() == [3, 129, 132, 141, 0, 8, 34, 0, 2]
    with pytest.raises(InputMismatch, match=r"lengths are \[1, 141\]; accepted are 1 to 140 for each of 2 rows"):
        model.encode_short(ids[:2], model.init_state(2, max_length=150), [1, 141])


def test_rows_at_different_positions_each_equal_their_own_forward() -> None:
    model, ids = lively_model(seed=4), random_ids(3, 60, seed=5)
    state = model.init_state(3, max_length=60)
    starts = [1, 17, 40]
    with torch.inference_mode():
        whole = model(ids)
        for row, start in enumerate(starts):
            model.encode(ids[row : row + 1, :start], state.row(row))
        assert state.position.tolist() == starts
        for offset in range(4):
            token = torch.stack([ids[row, start + offset] for row, start in enumerate(starts)])
            logits = model.step(token, state)
            for row, start in enumerate(starts):
                assert_close(logits[row], whole[row, start + offset], relative=1e-12)
        chunk = torch.stack([ids[row, start + 4 : start + 14] for row, start in enumerate(starts)])
        logits = model.unembed(model.encode(chunk, state))
    for row, start in enumerate(starts):
        assert_close(logits[row], whole[row, start + 4 : start + 14], relative=1e-12)


def test_inactive_rows_keep_their_state() -> None:
    model, ids = lively_model(seed=6), random_ids(3, 30, seed=7)
    state = model.init_state(3, max_length=30)
    with torch.inference_mode():
        whole = model(ids)
        model.encode(ids[:, :9], state)
        before = {
            (i, name): value[1].clone() for i, s in enumerate(state.layers) for name, value in s.tensors().items()
        }
        for t in range(9, 14):
            model.step(ids[:, t], state, active=torch.tensor([True, False, True]))
        for (i, name), value in before.items():
            assert torch.equal(state.layers[i].tensors()[name][1], value), (i, name)
        assert state.position.tolist() == [14, 9, 14]
        token = torch.stack([ids[0, 14], ids[1, 9], ids[2, 14]])
        logits = model.step(token, state)
    for row, t in enumerate([14, 9, 14]):
        assert_close(logits[row], whole[row, t], relative=1e-12)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_bitwise_independent_of_its_neighbours(dtype: torch.dtype) -> None:
    model, ids = golden_model(dtype), random_ids(4, 50, seed=8)
    results = []
    for lengths in ([20, 3, 31, 8], [20, 40, 1, 2]):
        state = model.init_state(4, max_length=50)
        for row, length in enumerate(lengths):
            model.encode(ids[row : row + 1, :length], state.row(row))
        tokens = [torch.tensor([ids[0, 20 + t], 65 + t * lengths[1], 84, 67]) for t in range(5)]
        results.append(torch.stack([model.step(token, state)[0] for token in tokens]))
    assert torch.equal(results[0], results[1])


@torch.inference_mode()
def test_views_share_storage_and_a_reset_row_starts_anew() -> None:
    model, ids = lively_model(seed=9), random_ids(4, 20, seed=10)
    state = model.init_state(4, max_length=20)
    model.encode(ids[1:3], state.rows(1, 2))
    assert state.position.tolist() == [0, 20, 20, 0]
    state.reset(torch.tensor([2]))
    assert state.position.tolist() == [0, 20, 0, 0]
    got = model.unembed(model.encode(ids[2:3], state.row(2)))
    assert_close(got, model(ids[2:3]), relative=1e-12)


class _Calls(TorchDispatchMode):
    """Notes the operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def _recurrent(state: StripedHyena2State) -> list[Tensor]:
    layers = [layer for layer in state.layers if not isinstance(layer, PagedKeyValueState)]
    return [state.position, *(tensor for layer in layers for tensor in layer.tensors().values())]


@pytest.mark.parametrize("by", ["row", "slice", "tensor", "all"])
def test_a_reset_empties_the_rows_that_are_meant_and_no_other(by: str) -> None:
    model, ids = lively_model(), random_ids(3, 20)
    state = model.init_state(3, max_length=40)
    read(model, ids, state, [20])
    before = [tensor.clone() for tensor in _recurrent(state)]
    assert all(tensor[row].any() for tensor in before for row in range(3))
    match by:
        case "row":
            state.row(1).reset()
        case "slice":
            state.reset(slice(1, 2))
        case "tensor":
            state.reset(torch.tensor([1]))
        case _:
            state.reset()
    for tensor, old in zip(_recurrent(state), before, strict=True):
        assert not tensor[1].any()
        assert torch.equal(tensor[::2], torch.zeros_like(old[::2]) if by == "all" else old[::2])


def test_a_row_is_reset_by_one_operation_for_each_type() -> None:
    row = lively_model().to(torch.bfloat16).init_state(2, max_length=40).row(1)
    assert {tensor.dtype for tensor in _recurrent(row)} == {torch.bfloat16, torch.float32, torch.int64}
    with _Calls() as calls:
        row.reset()
    assert calls.names == ["_foreach_zero_"] * 3


def test_the_first_blocks_ask_nobody_where_they_are_if_they_are_told() -> None:
    model, ids = lively_model(), random_ids(2, 30)
    told, asked = (model.init_state(2, max_length=40) for _ in range(2))
    with torch.inference_mode():
        for start in (0, 16):
            part = ids[:, start : start + 16]
            with _Calls() as calls:
                x = model.encode_blocks(part, 3, told, starts=[start] * 2)
            assert "_local_scalar_dense" not in calls.names
            assert torch.equal(x, model.encode_blocks(part, 3, asked))


@torch.inference_mode()
def test_a_copied_state_continues_like_its_source() -> None:
    model, ids = lively_model(seed=11), random_ids(1, 20, seed=12)
    state = model.init_state(3, max_length=20)
    model.encode(ids[:, :12], state.row(0))
    state.rows(1, 2).copy_(state.row(0))
    logits = model.step(ids[0, 12].expand(3), state)
    whole = model(ids[:, :13])[0, 12]
    for row in range(3):
        assert_close(logits[row], whole, relative=1e-12)


def test_a_state_that_is_too_small_is_refused_before_anything_changes() -> None:
    model, ids = golden_model(), random_ids(2, 9)
    state = model.init_state(2, max_length=8)
    with pytest.raises(StateCapacityExceeded, match=r"row 0 holds 0 tokens and gets 9 more; its max_length is 8"):
        model.encode(ids, state)
    model.encode(ids[:, :8], state)
    with pytest.raises(StateCapacityExceeded, match=r"row 1 holds 8 tokens and gets 1 more"):
        model.step(ids[:, 8], state, active=torch.tensor([False, True]))
    assert state.position.tolist() == [8, 8]


def test_a_batch_that_does_not_fit_the_state_is_refused() -> None:
    model = golden_model()
    state = model.init_state(2, max_length=8)
    with pytest.raises(InputMismatch, match="ids have 3 rows, the state has 2"):
        model.step(torch.tensor([1, 2, 3]), state)
    with pytest.raises(InputMismatch, match="rows 1 to 2 were asked for; the state has rows 0 to 1"):
        state.rows(1, 2)
    with pytest.raises(InputMismatch, match="no token"):
        model.encode(torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(InputMismatch, match="does not fit into one of 2 rows"):
        state.copy_(model.init_state(3, max_length=8))


@torch.inference_mode()
def test_a_thousand_steps_do_not_drift() -> None:
    model, ids = golden_model(), random_ids(1, 1010, seed=13)
    state = model.init_state(1, max_length=1010)
    whole = model(ids)
    model.encode(ids[:, :10], state)
    step = model.prepare_step(state)
    errors = [relative_error(step(ids[:, t])[0], whole[0, t]) for t in range(10, 1010)]
    assert max(errors[:100]) < 1e-5
    assert max(errors[-100:]) < 1e-5


@pytest.mark.parametrize("kind", ["plain", "one byte", "p_gamma", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 3])
@torch.inference_mode()
def test_a_prepared_step_gives_the_bits_of_step_while_rows_come_and_go(kind: str, rows: int) -> None:
    form = "p_gamma" if kind == "p_gamma" else "poles"
    model = lively_model(pattern="SDH*S", filter_parameters=form).float()
    if kind == "one byte":
        round_linears(model)
    if kind == "bfloat16":
        model = model.bfloat16()
    prompts, active = random_ids(rows, 20), torch.ones(rows, dtype=torch.bool)
    states = [model.init_state(rows, max_length=600, page_count=3 * rows) for _ in range(2)]
    for state in states:
        for row in range(rows):
            state.hold_pages(row, [row, 2 * rows + row, rows + row])
            model.encode(prompts[row : row + 1, : 6 * row + 2], state.row(row))
    step = model.prepare_step(states[0], active=active)
    for seed, pattern in enumerate(
        [[True, True, True], [True, False, True], [False, True, False], [True, True, False]]
    ):
        active.copy_(torch.tensor(pattern[:rows]))
        for ids in random_ids(rows, 4, seed=seed).unbind(1):
            got, expected = step(ids), model.step(ids, states[1], active=active)
            assert torch.equal(got[active], expected[active])
    for mine, other in zip(*(state.layers for state in states), strict=True):
        assert all(torch.equal(mine.tensors()[name], tensor) for name, tensor in other.tensors().items())
    assert torch.equal(states[0].position, states[1].position)


@torch.inference_mode()
def test_a_row_gives_the_same_bits_in_any_row_and_company() -> None:
    model, ids = golden_model(), random_ids(4, 12)
    found = []
    for row, others in [(0, []), (2, [0, 1, 3]), (3, [1])]:
        state, active = model.init_state(4, max_length=32), torch.zeros(4, dtype=torch.bool)
        active[[row, *others]] = True
        step = model.prepare_step(state, active=active)
        tokens = ids.clone()
        tokens[row] = ids[0]
        found.append([step(token)[row] for token in tokens.unbind(1)])
    assert all(torch.equal(one, other) for got in found[1:] for one, other in zip(found[0], got, strict=True))


def test_a_prepared_step_refuses_what_step_refuses_and_calls_what_took_its_place() -> None:
    model = golden_model()
    state = model.init_state(1, max_length=2)
    step = model.prepare_step(state)
    with torch.inference_mode():
        with pytest.raises(InputMismatch, match="2 rows, the state has 1"):
            step(torch.tensor([1, 2]))
        with pytest.raises(InputMismatch, match="accepted are integers"):
            step(torch.tensor([1.0]))
        step(torch.tensor([1]))
        step(torch.tensor([2]))
        with pytest.raises(StateCapacityExceeded, match="max_length is 2"):
            step(torch.tensor([3]))
    model.step = lambda ids, state, *, active=None: ids  # type: ignore[method-assign]
    with torch.inference_mode():
        assert model.prepare_step(state)(torch.tensor([7])).tolist() == [7]


def test_a_prepared_step_computes_what_step_does_under_autocast_and_where_gradients_are_recorded() -> None:
    model, ids = golden_model(), random_ids(2, 3)
    states = [model.init_state(2, max_length=8) for _ in range(2)]
    step = model.prepare_step(states[0])
    for token in ids.unbind(1):
        assert torch.equal(step(token), model.step(token, states[1]))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(step(ids[:, 0]), model.step(ids[:, 0], states[1]))


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64", "one byte", "autocast"])
@torch.inference_mode()
def test_logits_of_a_step_are_the_products_of_the_vectors_that_were_made(kind: str, prepared: bool) -> None:
    model = pass_through(lively_model(pattern="SDH*"))
    model = model.to(getattr(torch, kind) if "float" in kind else torch.bfloat16)
    if kind == "one byte":
        round_linears(model)
    state, weight, ids = model.init_state(5, max_length=8), model.embedding_layer.weight, random_ids(5, 1)[:, 0]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        found = model.prepare_step(state)(ids) if prepared else model.step(ids, state)
    expected = model.norm(weight[ids]).double() @ weight.double().t()
    assert found.dtype == (torch.float64 if kind == "float64" else torch.float32)
    assert_as_exact_as("logits", expected, expected.to(found.dtype), found)


def pass_through(model: StripedHyena2) -> StripedHyena2:
    """Makes every block return what it was given."""
    for name, value in model.blocks.named_parameters():
        if name.endswith((".weight", ".bias")):
            value.zero_()
    return model
