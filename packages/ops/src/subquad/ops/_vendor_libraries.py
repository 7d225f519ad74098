"""The vendor's two libraries: their versions, what each needs, and their functions.

``subquadratic_ops_torch`` (``pip install "subquad-ops[vendor]"``) has the FFT convolutions. ``cudnn`` is
nvidia-cudnn-frontend over the cuDNN that the process has loaded; it has the causal convolution of few taps and the
gated one, to which subquadratic_ops_torch delegates both, and an FFT convolution. It is enough without the other.
What is found is kept for the life of the process: asking the import system would cost more than a kernel.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
from typing import Any

import torch

_SUBQUADRATIC = "subquadratic_ops_torch"
_DISTRIBUTIONS = ("subquadratic-ops-torch-cu13", "subquadratic-ops-torch-cu12", "subquadratic-ops-torch")
_OLDEST, _BELOW = (0, 3), (0, 4)
_INSTALL = 'pip install "subquad-ops[vendor]"'

_CUDNN_FUNCTIONS = ("causal_conv1d_forward", "b2b_causal_conv1d_forward")
_CUDNN_FFT_FUNCTIONS = ("fft_causal_conv1d_forward", "long_fft_causal_conv1d_forward")
_CUDNN_OLDEST, _CUDNN_OLDEST_WITH_FFT = 92400, 92600
_INSTALL_CUDNN = f'{_INSTALL} or pip install nvidia-cudnn-frontend "nvidia-cudnn-cu13>=9.26"'


def version() -> str | None:
    """Returns the installed version of subquadratic-ops-torch, or None."""
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _no_device() -> str | None:
    return None if torch.cuda.is_available() else "there is no CUDA device"


@functools.cache
def without_subquadratic() -> str | None:
    """Says why subquadratic_ops_torch cannot run in this process and what to install, or None."""
    if importlib.util.find_spec(_SUBQUADRATIC) is None:
        return f"{_SUBQUADRATIC} is not installed; {_INSTALL}"
    found = version() or "unknown"
    parts = tuple(int(part) for part in found.split(".")[:2]) if found[0].isdigit() else _OLDEST
    if not _OLDEST <= parts < _BELOW:
        return f"{_SUBQUADRATIC} has version {found}; accepted: 0.3.x; {_INSTALL}"
    problem = _no_device()
    if problem is None:
        try:
            importlib.import_module(f"{_SUBQUADRATIC}.fft_conv1d")
        except Exception as error:  # it loads a library of 285 MB and may fail in many ways; none of them is ours
            return f"{_SUBQUADRATIC} cannot be imported ({type(error).__name__}: {error}); {_INSTALL}"
    return problem


@functools.cache
def without_cudnn() -> str | None:
    """Says why cuDNN's causal convolutions cannot run in this process and what to install, or None."""
    return _cudnn_problem(_CUDNN_FUNCTIONS, _CUDNN_OLDEST)


@functools.cache
def without_cudnn_fft() -> str | None:
    """Says why cuDNN's FFT convolution cannot run in this process and what to install, or None."""
    return _cudnn_problem((*_CUDNN_FUNCTIONS, *_CUDNN_FFT_FUNCTIONS), _CUDNN_OLDEST_WITH_FFT)


def _cudnn_problem(functions: tuple[str, ...], oldest: int) -> str | None:
    if importlib.util.find_spec("cudnn") is None:
        return f"nvidia-cudnn-frontend is not installed; {_INSTALL_CUDNN}"
    problem = _no_device()
    if problem is not None:
        return problem
    try:
        found = int(cudnn().backend_version())
        importlib.import_module("cudnn.ops.causal_conv1d")  # registers torch.ops.cudnn
    except Exception as error:  # it loads libcudnn and may fail in many ways; none of them is ours
        return f"nvidia-cudnn-frontend cannot be used ({type(error).__name__}: {error}); {_INSTALL_CUDNN}"
    if found < oldest:
        accepted = f"{oldest // 10000}.{oldest // 100 % 100}"
        return f"cuDNN {found // 10000}.{found // 100 % 100} is loaded; accepted: {accepted} or newer; {_INSTALL_CUDNN}"
    lacking = [name for name in functions if not hasattr(cudnn(), name)]
    if lacking:
        return f"nvidia-cudnn-frontend has no {', '.join(lacking)}; accepted: 1.27 or newer; {_INSTALL_CUDNN}"
    return None


def cudnn() -> Any:
    """Returns the frontend's module, whose functions take addresses and sizes."""
    return importlib.import_module("cudnn")
