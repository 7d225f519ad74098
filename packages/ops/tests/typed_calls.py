"""One good call of every public operator, by the names of its arguments, and what may be wrong with the type of one."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from subquad import ops

CHANNELS, LENGTH, TAPS, STATES = 4, 9, 3, 5


def _streams() -> dict[str, dict[str, Any]]:
    x, taps, vector = torch.randn(2, CHANNELS, LENGTH), torch.randn(CHANNELS, TAPS), torch.randn(CHANNELS)
    z, projection = torch.randn(2, 3 * CHANNELS, LENGTH), torch.randn(3 * CHANNELS, TAPS)
    poles, residues = -torch.rand(CHANNELS, STATES), torch.randn(CHANNELS, STATES)
    history, modal = torch.randn(2, CHANNELS, TAPS - 1), torch.randn(2, CHANNELS, STATES)
    weights = torch.randn(2, 1, STATES, LENGTH)
    bounds = torch.tensor([0, 4, LENGTH])
    gated = {"z": z, "projection_taps": projection, "skip": vector}
    return {
        "causal_conv": {"x": x, "taps": taps, "bias": vector, "skip": vector, "initial_state": history},
        "causal_conv packed": {"x": x[:1], "taps": taps, "cu_seqlens": bounds},
        "gated_conv": {**gated, "mixer_taps": taps},
        "modal_conv": {"x": x, "log_poles": poles, "residues": residues, "skip": vector, "initial_state": modal},
        "modal_filter": {"log_poles": poles, "residues": residues, "length": 7},
        "gated_modal_conv": {**gated, "log_poles": poles, "residues": residues},
        "fft_conv": {"x": x, "taps": taps, "skip": vector},
        "selective_scan": {
            "x": x,
            "step_size": x.abs(),
            "decay": poles,
            "input_weights": weights,
            "output_weights": weights,
            "skip": vector,
            "initial_state": modal,
        },
    }


def _rows() -> dict[str, dict[str, Any]]:
    x, scale, weight = torch.randn(2, 5, 8), torch.randn(8), torch.randn(6, 8)
    heads, times, turns = torch.randn(2, 5, 3, 4), torch.arange(5)[None], torch.ones(2)
    return {
        "rearrange": {"x": x},
        "vendor_names.causal_conv1d": {"x": x, "weight": torch.randn(5, 3)},
        "vendor_names.fft_causal_conv1d": {"x": x, "weight": torch.randn(5, 3)},
        "vendor_names.fft_conv1d": {"x": x, "weight": torch.randn(5, 3)},
        "vendor_names.fft_conv2d": {"x": torch.randn(2, 5, 4, 4), "weight": torch.randn(5, 3, 3)},
        "convention_names.fftconv1d_fp32_blh": {"x": x.mT, "kernel": torch.randn(3, 5)},
        "rms_norm": {"x": x, "scale": scale},
        "rms_norm_of_sum": {"x": x, "addend": x, "scale": scale},
        "gated_product": {"x": x, "other": x},
        "gated_linear": {"x": x, "gate_weight": weight, "value_weight": weight},
        "rotary": {"x": heads, "position": times, "inv_freq": turns},
        "rotary_into": {
            "qkv": torch.randn(2, 5, 3, 3, 4),
            "position": times,
            "inv_freq": turns,
            "keys": heads.clone(),
            "values": heads.clone(),
        },
    }


def _steps() -> dict[str, dict[str, Any]]:
    x, taps, vector = torch.randn(2, CHANNELS), torch.randn(CHANNELS, TAPS), torch.randn(CHANNELS)
    z, projection = torch.randn(2, 3 * CHANNELS), torch.randn(3 * CHANNELS, TAPS)
    poles, residues = -torch.rand(CHANNELS, STATES), torch.randn(CHANNELS, STATES)
    ring, modal = torch.randn(2, CHANNELS, TAPS - 1), torch.randn(2, CHANNELS, STATES)
    rows = {"position": torch.tensor([3, 4]), "active": torch.tensor([True, False])}
    front = {"projection_taps": projection, "projection_ring": torch.randn(2, 3 * CHANNELS, TAPS - 1)}
    pool, weight = torch.randn(12, 2, 4), torch.randn(6, CHANNELS)
    return {
        "fir_step": {"x": x, "taps": taps, "ring": ring.clone(), "bias": vector, "skip": vector, **rows},
        "ring_from_history": {"history": ring, "position": rows["position"]},
        "history_from_ring": {"ring": ring, "position": rows["position"]},
        "fill_ring": {"ring": ring.clone(), "history": ring, "position": rows["position"]},
        "modal_step": {
            "x": x,
            "log_poles": poles,
            "residues": residues,
            "state": modal.clone(),
            "skip": vector,
            "active": rows["active"],
        },
        "gated_conv_step": {"x": z, **front, "mixer_taps": taps, "mixer_ring": ring.clone(), "skip": vector, **rows},
        "gated_modal_step": {
            "x": z,
            **front,
            "log_poles": poles,
            "residues": residues,
            "state": modal.clone(),
            "skip": vector,
            **rows,
        },
        "attention_step": {
            "qkv": torch.randn(2, 2, 3, 4),
            "keys": pool.clone(),
            "values": pool.clone(),
            "pages": torch.tensor([[0, 1], [2, 0]]),
            "inv_freq": torch.ones(2),
            "page_size": 4,
            **rows,
        },
        "linear_step": {"x": x, "weight": weight, "residual": torch.randn(2, 6)},
        "gated_linear_step": {"x": x, "gate_weight": weight, "value_weight": weight},
        "greedy_step": {"logits": x, "ids": torch.zeros(2, dtype=torch.int64), "active": rows["active"]},
    }


def good_calls() -> dict[str, dict[str, Any]]:
    """Arguments of a call that runs, by operator; a word behind the operator tells two calls apart."""
    torch.manual_seed(0)
    return {**_streams(), **_rows(), **_steps()}


def call(name: str, arguments: dict[str, Any]) -> object:
    """Makes a call."""
    module, _, function = name.partition(" ")[0].rpartition(".")
    return getattr(import_module(f"subquad.ops.{module}") if module else ops, function)(**arguments)


def _nested(t: Tensor) -> Tensor:
    return torch.nested.nested_tensor([t, t])


FAULTS: dict[str, Callable[[Tensor], object]] = {
    "a list": lambda t: t.tolist(),
    "an array": lambda t: t.numpy(),
    "nothing": lambda t: None,
    "integers or floats": lambda t: t.long() if t.is_floating_point() else t.float(),
    "complex": lambda t: t.to(torch.complex64),
    "sparse": lambda t: t.to_sparse() if t.dim() else None,
    "nested": _nested,
    "nested, jagged": lambda t: torch.nested.nested_tensor([t, t], layout=torch.jagged) if t.dim() else None,
    "quantized": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "of more axes": lambda t: t[None, None, None, None],
}
OPTIONAL = {"bias", "skip", "initial_state", "active", "other", "residual", "cu_seqlens"}
ROWS = {("rms_norm", "x"), ("gated_linear", "x")}  # of any axes
ANY_NUMBERS = {("rearrange", "x")}


def refused(name: str, argument: str, fault: str) -> bool:
    """Says whether a call with that fault is to be refused; the others are good ones."""
    if (name, argument) in ROWS or ("." in name and argument != "x"):  # whose axes the operator names its own way
        return fault != "of more axes"
    if (name, argument) in ANY_NUMBERS:
        return fault not in ("integers or floats", "complex", "quantized")
    return fault != "nothing" or argument not in OPTIONAL
