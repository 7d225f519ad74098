# ruff: noqa: E501 (a table: one refused call a line)
"""Bad arguments raise typed errors that name both values, before any kernel runs."""

from collections.abc import Callable

import pytest
import torch

from subquad import ops
from subquad.ops import ArgumentOutOfRange, DeviceMismatch, DtypeMismatch, ShapeMismatch, vendor_names

pytestmark = pytest.mark.usefixtures("unchecked")

X, TAPS = torch.randn(2, 4, 9), torch.randn(4, 3)
Z, PROJECTION, MODES = torch.randn(2, 12, 9), torch.randn(12, 3), torch.randn(4, 16)
STEP, RING, POSITION = torch.randn(2, 4), torch.randn(2, 4, 2), torch.zeros(2, dtype=torch.int64)
QKV, AT, TURNS = torch.randn(2, 5, 3, 4), torch.arange(5)[None], torch.ones(2)

CASES: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: ops.causal_conv(X[0], TAPS), ShapeMismatch, "x has 2 axes (4, 9); a sequence has 3 (BHL)"),
    (lambda: ops.causal_conv(X.long(), TAPS), DtypeMismatch, "x is torch.int64; accepted: float32, float64"),
    (lambda: ops.causal_conv(X, TAPS[:3]), ShapeMismatch, "taps has 3 rows, x has 4 channels; rows must divide them"),
    (lambda: ops.causal_conv(X, TAPS[:, :0]), ShapeMismatch, "taps has 0 taps; accepted: 1 or more"),
    (lambda: ops.causal_conv(X, TAPS.to("meta")), DeviceMismatch, "taps is on meta, x on cpu; move one of them"),
    (lambda: ops.causal_conv(X, TAPS, bias=torch.ones(5)), ShapeMismatch, "bias has shape (5,); x (2, 4, 9) needs (4,)"),
    (lambda: ops.causal_conv(X, TAPS, activation="relu"), ArgumentOutOfRange, "activation is 'relu'; accepted: None, 'silu', 'gelu'"),
    (lambda: ops.causal_conv(X, TAPS, layout="HBL"), ArgumentOutOfRange, "layout is 'HBL'; accepted: 'BHL', 'BLH'"),
    (lambda: ops.causal_conv(X, TAPS, initial_state=X), ShapeMismatch, "initial_state has shape (2, 4, 9); x (2, 4, 9) needs (2, 4, 2)"),
    (lambda: ops.gated_conv(X, TAPS, TAPS), ShapeMismatch, "z has 4 channels; accepted: a multiple of 3"),
    (lambda: ops.gated_conv(Z, PROJECTION, TAPS[:3]), ShapeMismatch, "mixer_taps has 3 rows, the gated stream has 4 channels"),
    (lambda: ops.gated_modal_conv(Z, PROJECTION, MODES[:2], MODES[:2]), ShapeMismatch, "log_poles has 2 channels, the gated stream has 4"),
    (lambda: ops.modal_conv(X, MODES, MODES[:, :8]), ShapeMismatch, "residues has shape (4, 8); log_poles (4, 16) needs (4, 16)"),
    (lambda: ops.modal_conv(X, MODES, MODES, chunk_size=0), ArgumentOutOfRange, "chunk_size is 0; accepted: 1 or more samples"),
    (lambda: ops.modal_filter(MODES, MODES, -1), ArgumentOutOfRange, "length is -1; accepted: 0 or more"),
    (lambda: ops.fft_conv(X, TAPS[:1]), ShapeMismatch, "taps has 1 channels, x has 4; they must agree"),
    (lambda: ops.fft_conv(X, TAPS.expand(3, 4, 3)), ShapeMismatch, "taps has batch 3, x has 2; accepted: 1 or the same"),
    (lambda: ops.fft_conv(X, TAPS, boundary=("zero", "zero")), ShapeMismatch, "boundary names 2 axes, x has 1 of space"),
    (lambda: ops.fft_conv(X, TAPS, boundary="reflect"), ArgumentOutOfRange, "boundary is 'reflect'; accepted: 'zero', 'circular'"),
    (lambda: ops.fft_conv(X, TAPS, boundary="circular", causal=True), ArgumentOutOfRange, "causal is True with boundary ('circular',)"),
    (lambda: ops.fft_conv(X[0], TAPS), ShapeMismatch, "x has 2 axes (4, 9); accepted: 3, 4 or 5"),
    (lambda: ops.fir_step(STEP, TAPS, RING[..., :1], POSITION), ShapeMismatch, "ring has shape (2, 4, 1); x (2, 4) needs (2, 4, 2)"),
    (lambda: ops.fir_step(STEP, TAPS, RING, POSITION.float()), DtypeMismatch, "position is torch.float32; accepted: int64, int32"),
    (lambda: ops.fir_step(STEP, TAPS, RING, POSITION[:1]), ShapeMismatch, "position has shape (1,); x (2, 4) needs (2,)"),
    (lambda: ops.ring_from_history(RING[0], POSITION), ShapeMismatch, "history has 2 axes (4, 2); accepted: 3 (batch, channel, past)"),
    (lambda: ops.ring_from_history(RING, POSITION[:1]), ShapeMismatch, "position has shape (1,); history (2, 4, 2) needs (2,)"),
    (lambda: ops.history_from_ring(RING, POSITION.float()), DtypeMismatch, "position is torch.float32; accepted: int64, int32"),
    (lambda: ops.history_from_ring(RING.long(), POSITION), DtypeMismatch, "ring is torch.int64; accepted: float32, float64"),
    (lambda: ops.fill_ring(RING, RING, POSITION.to("meta")), DeviceMismatch, "position is on meta, ring on cpu; move one of them"),
    (lambda: ops.fft_conv(X, TAPS, boundary=None), ArgumentOutOfRange, "boundary is None; accepted: 'zero', 'circular'"),
    (lambda: ops.explain("causal_conv", X, TAPS[0]), ShapeMismatch, "the tensors have shapes (2, 4, 9), (3,); causal_conv takes other numbers of axes"),
    (lambda: ops.explain("rearrange", STEP), ShapeMismatch, "the tensors have shapes (2, 4); rearrange takes other numbers of axes"),
    (lambda: ops.modal_step(STEP, MODES, MODES, RING), ShapeMismatch, "state has shape (2, 4, 2); x (2, 4) needs (2, 4, 16)"),
    (lambda: ops.modal_step(X, MODES, MODES, RING), ShapeMismatch, "x has 3 axes (2, 4, 9); a step has 2 (batch, channel)"),
    (lambda: ops.rms_norm(X, torch.ones(4)), ShapeMismatch, "scale has shape (4,); x (2, 4, 9) needs (9,)"),
    (lambda: ops.rms_norm(X, torch.ones(9), form="layer"), ArgumentOutOfRange, "form is 'layer'; accepted: 'standard', 'vortex'"),
    (lambda: ops.rms_norm(X, torch.ones(9), eps=-1.0), ArgumentOutOfRange, "eps is -1.0; accepted: 0 or more"),
    (lambda: ops.rms_norm_of_sum(X, Z, torch.ones(9)), ShapeMismatch, "addend has shape (2, 12, 9); x (2, 4, 9) needs (2, 4, 9)"),
    (lambda: ops.gated_product(X), ShapeMismatch, "x has shape (2, 4, 9); without other its last axis holds gate and value: even"),
    (lambda: ops.gated_product(X, Z), ShapeMismatch, "other has shape (2, 12, 9); x (2, 4, 9) needs (2, 4, 9)"),
    (lambda: ops.gated_product(X, X.double()), DtypeMismatch, "other is torch.float64, x torch.float32; they must agree"),
    (lambda: ops.gated_product(STEP, activation="silu"), ArgumentOutOfRange, "activation is 'silu'; accepted: None, 'gelu'"),
    (lambda: ops.rotary(X, AT, TURNS), ShapeMismatch, "x has 3 axes (2, 4, 9); accepted: 4 (batch, length, head, size)"),
    (lambda: ops.rotary(QKV[..., :3], AT, TURNS), ShapeMismatch, "x has heads of 3 channels; a rotation needs an even number"),
    (lambda: ops.rotary(QKV, AT, TURNS[:1]), ShapeMismatch, "inv_freq has shape (1,); x (2, 5, 3, 4) needs (2,)"),
    (lambda: ops.rotary(QKV, AT[:, :4], TURNS), ShapeMismatch, "position has shape (1, 4); x (2, 5, 3, 4) needs (2, 5) or (1, 5)"),
    (lambda: ops.rotary(QKV, AT.float(), TURNS), DtypeMismatch, "position is torch.float32; accepted: int64, int32"),
    (lambda: ops.rotary(QKV, AT, TURNS, scale=0.0), ArgumentOutOfRange, "scale is 0.0; accepted: more than 0"),
    (lambda: ops.rotary_into(QKV, AT, TURNS, QKV, QKV), ShapeMismatch, "qkv has shape (2, 5, 3, 4); accepted: batch, length, head, 3, size"),
    (lambda: ops.rotary_into(QKV[..., None, :].expand(2, 5, 3, 3, 4), AT, TURNS, QKV, QKV[:1]), ShapeMismatch, "values has shape (1, 5, 3, 4); qkv (2, 5, 3, 3, 4) needs (2, 5, 3, 4)"),
    (lambda: ops.rearrange(STEP), ShapeMismatch, "x has 2 axes (2, 4); accepted: 3"),
    (lambda: ops.causal_conv(X.numpy(), TAPS), DtypeMismatch, "x is a ndarray and no tensor; accepted: float32"),
    (lambda: ops.causal_conv(X, TAPS, bias=1.0), DtypeMismatch, "bias is a float and no tensor; accepted: float32"),
    (lambda: ops.causal_conv(X, TAPS, chunk_size=2.0), ArgumentOutOfRange, "chunk_size is 2.0; accepted: 1 or more channels, or None"),
    (lambda: ops.modal_conv(X, MODES, MODES, chunk_size=2.0), ArgumentOutOfRange, "chunk_size is 2.0; accepted: 1 or more samples, or None"),
    (lambda: ops.causal_conv(X[:1], TAPS, cu_seqlens=[0, 9]), DtypeMismatch, "cu_seqlens is a list and no tensor; accepted: int64, int32"),
    (lambda: ops.modal_filter(MODES, MODES, 5.0), ArgumentOutOfRange, "length is 5.0; accepted: 0 or more"),
    (lambda: ops.gated_conv(Z, PROJECTION, TAPS, initial_state=Z[:1]), ShapeMismatch, "initial_state is a Tensor; accepted: the two tensors that"),
    (lambda: ops.gated_modal_conv(Z, PROJECTION, MODES, MODES, initial_state=(Z,)), ShapeMismatch, "initial_state is a tuple of 1; accepted: the two"),
    (lambda: ops.selective_scan(X, X, STEP.sum(), X[:, None], X[:, None]), ShapeMismatch, "decay has 0 axes (); accepted: 2 (channel, state)"),
    (lambda: vendor_names.causal_conv1d(X.mT, TAPS[0], channel_last=True), ShapeMismatch, "weight has 1 axes (3,); accepted: 2"),
    (lambda: ops.fir_step(STEP, TAPS, RING[:1].expand(2, 4, 2), POSITION), ShapeMismatch, "ring has shape (2, 4, 2) and strides (0, 2, 1): elements share memory"),
    (lambda: ops.fill_ring(RING[:1].expand(2, 4, 2), RING, POSITION), ShapeMismatch, "ring has shape (2, 4, 2) and strides (0, 2, 1): elements share memory"),
    (lambda: ops.modal_step(STEP, MODES, MODES, MODES.expand(2, 4, 16)), ShapeMismatch, "memory of its own, as state.contiguous() has"),
    (lambda: ops.gated_conv_step(Z[..., 0], PROJECTION, TAPS, Z[:1, :, :2].expand(2, 12, 2), RING, POSITION), ShapeMismatch, "projection_ring has shape"),
    (lambda: ops.gated_conv_step(Z[..., 0], PROJECTION, TAPS, Z[:, :, :2], RING[:1].expand(2, 4, 2), POSITION), ShapeMismatch, "mixer_ring has shape"),
    (lambda: ops.gated_modal_step(Z[..., 0], PROJECTION, MODES, MODES, Z[:, :, :2], MODES.expand(2, 4, 16), POSITION), ShapeMismatch, "state has shape"),
    (lambda: ops.rotary_into(QKV[..., None, :].expand(2, 5, 3, 3, 4), AT, TURNS, QKV[:1].expand(2, 5, 3, 4), QKV), ShapeMismatch, "keys has shape"),
    (lambda: ops.explain("conv_with_state"), ArgumentOutOfRange, "op_name is 'conv_with_state'; accepted: attention_step"),
    (lambda: ops.rearrange(X, "lhb"), ArgumentOutOfRange, "order is 'lhb'; accepted: 'bhl_to_lbh', 'lbh_to_bhl'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), CASES, ids=[text[:40] for _, _, text in CASES])
def test_a_bad_argument_is_named_with_its_value_and_the_accepted_one(
    call: Callable[[], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        call()
    assert text in str(raised.value)
    assert isinstance(raised.value, ops.OpsError)
