"""Traces every mixer, and a network, with a length that is not known; prints a line for each. No checker is on.

usage: any_length_mixers.py
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim, export

from packages.modules.tests.mixer_table import CASES, Case
from packages.modules.tests.support import TINY, random_ids
from subquad.modules import RegisterAttention, StripedHyena2
from tools.testing.oracle import assert_close

LENGTHS = (150, 33, 3, 700)  # each but the first by the graph of the second, forms and transforms differ


class Plain(nn.Module):
    """A mixer without its optional arguments, as ``torch.export`` wants to be told of each."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mixes."""
        return self.mixer(q, k, v)


def spaces(case: Case) -> list[tuple[int, ...]]:
    """The sizes to try, the one to trace with first."""
    if len(case.space) == 1:
        return [(length,) for length in LENGTHS]
    return [case.space, *(tuple(size + more for size in case.space) for more in (3, 1, 8))]


def streams(mixer: nn.Module, space: tuple[int, ...]) -> list[Tensor]:
    """Draws q, k and v."""
    widths = getattr(mixer, "stream_channels", (16, 16, 16))
    return [torch.randn(2, *space, width, dtype=torch.float64) for width in widths]


def exported(case: Case) -> None:
    """One exported graph gives what the mixer gives, at every size."""
    mixer = case.make(torch.float64)
    first, *others = (streams(mixer, space) for space in spaces(case))
    free = {axis + 1: Dim(f"size_{axis}", min=3, max=4096) for axis in range(len(case.space))}
    program = export(Plain(mixer), tuple(first), dynamic_shapes=(free,) * 3).module()
    for qkv in (first, *others):
        assert_close(program(*qkv), mixer(*qkv), 1e-12)


def compiled(case: Case) -> None:
    """Two graphs serve all sizes, in result and gradients: one of the first size, one of every other."""
    torch._dynamo.reset()
    mixer = case.make(torch.float64)
    counted = CompileCounterWithBackend("aot_eager")
    graph = torch.compile(mixer, backend=counted, fullgraph=True)
    parameters = [p for name, p in mixer.named_parameters() if name != "projection_taps"]
    for space in spaces(case):
        qkv = streams(mixer, space)
        results = []
        for run in (graph, mixer):
            inputs = [x.clone().requires_grad_(x.shape[-1] > 0) for x in qkv]
            y = run(*inputs)
            wanted = [*(x for x in inputs if x.requires_grad), *parameters]
            results.append([y, *torch.autograd.grad(y.square().sum(), wanted)])
        for got, expected in zip(*results, strict=True):
            assert_close(got, expected, 1e-11)
    assert counted.frame_count == 2, f"{counted.frame_count} graphs for {len(spaces(case))} sizes"


def network() -> None:
    """The same of a network, whose layers choose by the length too."""
    torch.manual_seed(0)
    model = StripedHyena2(**TINY).double().eval()
    program = export(model, (random_ids(2, 150),), dynamic_shapes=({1: Dim("length", min=3, max=4096)},)).module()
    torch._dynamo.reset()
    counted = CompileCounterWithBackend("aot_eager")
    graph = torch.compile(model, backend=counted, fullgraph=True)
    for length in LENGTHS:
        ids = random_ids(2, length)
        for run in (program, graph):
            assert_close(run(ids), model(ids), 1e-10)
    assert counted.frame_count == 2, f"{counted.frame_count} graphs for {len(LENGTHS)} lengths"


def checks() -> dict[str, Callable[[], None]]:
    """What is checked, by name."""
    found: dict[str, Callable[[], None]] = {"network": network}
    for case in CASES:
        if case.kind is not RegisterAttention:  # made for one grid
            found[f"{case.name} exported"] = lambda case=case: exported(case)
            found[f"{case.name} compiled"] = lambda case=case: compiled(case)
    return found


def main() -> None:
    """Runs every check; the exit status is 1 if one failed."""
    failed = False
    for name, check in checks().items():
        try:
            check()
            print(f"{name}: passed", flush=True)
        except Exception as error:  # one broken mixer must not hide the others
            failed = True
            print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
