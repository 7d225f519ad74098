"""The two forms of long and medium filters: training parameters, and poles with finished taps."""

import copy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from subquad.inference.checkpoint.native import expected_tensors
from subquad.inference.checkpoint.report import SAME, MappedTensor, joined
from subquad.inference.checkpoint.source import TensorSource, made_entry, striped_hyena2_of
from subquad.inference.checkpoint.stream import TensorEntry
from subquad.inference.errors import CheckpointTensorError

_Made = tuple[TensorEntry, list[MappedTensor]]


def as_poles(source: TensorSource) -> TensorSource:
    """Finishes filters: ``log_poles = -exp(p) * exp(gamma)`` in float32, medium taps ``h * decay``.

    Nothing of the network's output is lost but the rounding of medium taps to the type of the weights.
    """
    return _in_form(source, "poles")


def as_p_gamma(source: TensorSource) -> TensorSource:
    """Goes back to training parameters, which poles do not determine: ``gamma = 0``, ``p = log(-log_poles)``, decay 1.

    Raises:
      CheckpointTensorError: A pole does not decay; it has no such parameters.
    """
    return _in_form(source, "p_gamma")


def _in_form(source: TensorSource, form: str) -> TensorSource:
    if source.network.filter_parameters == form:
        return source
    config = copy.deepcopy(source.config)
    config.filter_parameters = form
    expected = expected_tensors(striped_hyena2_of(config, source.dtype, source.where))
    entries: dict[str, TensorEntry] = {}
    report: list[MappedTensor] = []
    for name, described in expected.items():
        make = _finished if form == "poles" else _opened
        entries[name], rows = make(source, name, described)
        report += rows
    return replace(source, config=config, entries=entries, report=joined(source.report, report))


def _finished(source: TensorSource, name: str, form: tuple[torch.Size, torch.dtype]) -> _Made:
    stem, _, leaf = name.rpartition(".")
    if leaf == "log_poles":
        p, gamma = source.entries[f"{stem}.p"], source.entries[f"{stem}.gamma"]
        how = [MappedTensor(e.name, name, "log_poles = -exp(p) * exp(gamma)") for e in (p, gamma)]
        return made_entry(name, form, partial(_poles, p, gamma)), how
    decay = source.entries.get(f"{stem}.decay")
    if leaf == "h" and decay is not None:
        taps = source.entries[name]
        how = [MappedTensor(e.name, name, "h * decay") for e in (taps, decay)]
        return made_entry(name, form, partial(_decayed, taps, decay)), how
    return source.entries[name], [MappedTensor(name, name, SAME)]


def _opened(source: TensorSource, name: str, form: tuple[torch.Size, torch.dtype]) -> _Made:
    stem, _, leaf = name.rpartition(".")
    poles = source.entries.get(f"{stem}.log_poles")
    if leaf == "p" and poles is not None:
        how = "lossy: p = log(-log_poles), gamma = 0"
        return made_entry(name, form, partial(_p_of, source.where, poles)), [MappedTensor(poles.name, name, how)]
    if leaf == "gamma" and poles is not None:
        how = "lossy: gamma = 0"
        return made_entry(name, form, partial(torch.zeros, form[0])), [MappedTensor(poles.name, name, how)]
    if leaf == "decay":
        how = "lossy: decay = 1, h holds the finished taps"
        return made_entry(name, form, partial(torch.ones, form[0])), [MappedTensor(f"{stem}.h", name, how)]
    entry = source.entries[name]
    how = SAME if entry.dtype == form[1] else f"widened to {str(form[1]).removeprefix('torch.')}"
    return made_entry(name, form, entry.produce), [MappedTensor(name, name, how)]


def _poles(p: TensorEntry, gamma: TensorEntry) -> Tensor:
    return (-torch.exp(p.produce()) * torch.exp(gamma.produce()))[..., None]


def _decayed(taps: TensorEntry, decay: TensorEntry) -> Tensor:
    return taps.produce() * decay.produce()[:, None, :]


def _p_of(where: str, entry: TensorEntry) -> Tensor:
    poles = entry.produce()
    if growing := int((poles >= 0).sum()):
        raise CheckpointTensorError(
            f"{where}: {entry.name} has {growing} poles that are 0 or more; p = log(-log_poles) needs negative ones"
        )
    return torch.log(-poles[..., 0].double())
