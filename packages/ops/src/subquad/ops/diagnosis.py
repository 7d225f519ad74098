"""What ``subquad doctor`` prints."""

import importlib.metadata
import platform
from collections.abc import Iterator

import torch

from subquad.ops import _vendor_backend
from subquad.ops.dispatch import BUILT_IN, load_backend, third_party_backends

_DISTRIBUTIONS = (
    "torch",
    "triton",
    "subquad-ops",
    "subquadratic-ops-torch-cu13",
    "nvidia-cudnn-frontend",
    "nvidia-cudnn-cu13",
    "mamba-ssm",
)


def diagnose() -> Iterator[str]:
    """Yields the lines of the report: versions, devices, backends."""
    yield f"python {platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in _DISTRIBUTIONS:
        yield f"{name} {_version(name)}"
    yield f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    yield from _gpus()
    yield "backend torch: usable (all operators, every device)"
    for name in (*BUILT_IN, *third_party_backends()):
        yield f"backend {name}: {_usability(name)}"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _gpus() -> Iterator[str]:
    if not torch.cuda.is_available():
        yield f"gpu: none usable (torch built for CUDA {torch.version.cuda or 'no, CPU only'})"
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        capability = f"{properties.major}.{properties.minor}"
        yield f"gpu {index}: {properties.name}, compute capability {capability}, {memory:.0f} GiB"


def _usability(backend: str) -> str:
    try:
        problem, implementations = load_backend(backend)
    except Exception as error:  # a third party's import may raise anything; the report must still be printed
        return f"not usable: {type(error).__name__}: {error}"
    if problem is not None:
        return f"not usable: {problem}"
    lacking = _vendor_backend.missing() if backend == "vendor" else ()
    return "; ".join((f"usable ({', '.join(sorted(i.operator for i in implementations))})", *lacking))
