"""Compiles every mixer into one graph and compares; prints a line a mixer. A program, so that no checker is on.

usage: compile_mixers.py
"""

import sys

import torch

from packages.modules.tests.mixer_table import CASES, Case
from tools.testing.oracle import assert_close


def check(case: Case) -> None:
    """Compares result and gradients of the compiled and the plain mixer."""
    torch._dynamo.reset()
    mixer = case.make(torch.float64)
    qkv = case.streams(mixer, torch.float64)
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    results = []
    for run in (compiled, mixer):
        inputs = [x.clone().requires_grad_() for x in qkv if x.shape[-1]]
        kept = iter(inputs)
        y = run(*(next(kept) if x.shape[-1] else x for x in qkv))
        parameters = [p for name, p in mixer.named_parameters() if name != "projection_taps"]
        results.append([y, *torch.autograd.grad(y.square().sum(), [*inputs, *parameters])])
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected, 1e-12)


def main() -> None:
    """Runs every case; the exit status is 1 if one failed."""
    failed = False
    for case in CASES:
        try:
            check(case)
            print(f"{case.name}: passed")
        except Exception as error:  # one broken mixer must not hide the others
            failed = True
            print(f"{case.name}: {type(error).__name__}: {error}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
