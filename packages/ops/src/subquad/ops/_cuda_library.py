"""The CUDA kernel library of this package: found, checked, and called through its C interface.

The library knows nothing of PyTorch: it takes addresses, sizes and a stream, so that one build serves every version of
PyTorch. `packages/ops/csrc/subquad_ops_cuda.h` is the other side of this file.
"""

import ctypes
import functools
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from subquad.ops import _checks
from subquad.ops._cuda_interface import ABI_VERSION, ACTIVATION_CODES, DTYPE_CODES, address, declare
from subquad.ops._environment import LIBRARY_VARIABLE, settings
from subquad.ops.axes import History, PerChannel, Sequence, Taps
from subquad.ops.errors import BackendUnavailable, ShapeMismatch

LIBRARY_FILE = "libsubquad_ops_cuda.so"  # beside this module where the wheel ships it
MIN_TAP, MAX_TAP = 2, 8

_HOW_TO_GET_IT = (
    f"build it with `./bazelw build //packages/ops/csrc:subquad_ops_cuda` and name the file in {LIBRARY_VARIABLE}, "
    "or choose another backend"
)
_ACTIVATIONS = (None, "silu")


class KernelUnavailable(BackendUnavailable):
    """A CUDA kernel cannot take this call; the text says why and what to do."""


class CudaLibrary:
    """The opened kernel library; its methods enqueue kernels on PyTorch's current stream."""

    def __init__(self, path: Path) -> None:
        """Opens the library at `path`.

        Raises:
          KernelUnavailable: There is no such file, it does not load, or it has another interface version.
        """
        self.path = path
        if not path.is_file():
            raise KernelUnavailable(f"the CUDA kernel library {path} does not exist; {_HOW_TO_GET_IT}")
        try:
            library = ctypes.CDLL(str(path))
            version = library.subquad_ops_abi_version()
        except (OSError, AttributeError) as error:
            raise KernelUnavailable(
                f"the CUDA kernel library {path} does not load: {error}; {_HOW_TO_GET_IT}"
            ) from error
        if version != ABI_VERSION:
            raise KernelUnavailable(
                f"the CUDA kernel library {path} has interface version {version}, this package needs {ABI_VERSION}; "
                f"{_HOW_TO_GET_IT}"
            )
        declare(library)
        self._library = library

    def causal_fir(
        self,
        x: Sequence,
        taps: Taps,
        *,
        bias: PerChannel | None = None,
        skip: PerChannel | None = None,
        initial_state: History | None = None,
        activation: Literal["silu"] | None = None,
    ) -> Sequence:
        """Convolves each channel with its group's short causal filter; forward only.

        ``y[b, c, t] = activation(sum(taps[g(c), k] * x[b, c, t - k] for k in range(tap)) + skip[c] * x[b, c, t]
        + bias[c])`` with ``g(c) = c // (channel / group)``; `initial_state` holds the samples before ``x``.

        Args:
          x: The sequence ``[batch, channel, length]``; float32, float16 or bfloat16 on a CUDA device.
          taps: The filters, tap 0 for the current sample; 2 to 8 taps; `group` divides `channel`.
          bias: Added to every sample of a channel; none by default.
          skip: The weight of the current sample beside the filter; none by default.
          initial_state: The ``tap - 1`` samples before ``x``, oldest first; zeros by default.
          activation: ``"silu"`` or none, applied to the sum.

        Returns:
          The filtered sequence in ``x.dtype``, summed in float32.

        Raises:
          KernelUnavailable: The kernel does not serve the device, a dtype, the activation or the tap count, or it did
            not start.
          ShapeMismatch, DtypeMismatch, DeviceMismatch: The arguments disagree.
        """
        _check_arguments(x, taps, bias, skip, initial_state, activation)
        batch, channel, length = x.shape
        group, tap = taps.shape
        x = x.contiguous()
        y = torch.empty_like(x)
        given = [p for p in (taps, bias, skip) if p is not None]
        shared = given[0].dtype if len({p.dtype for p in given}) == 1 else torch.float32
        parameters = [None if p is None else p.to(shared).contiguous() for p in (taps, bias, skip)]
        state = None if initial_state is None else initial_state.to(x.dtype).contiguous()
        self.enqueue(
            "subquad_ops_causal_fir", x, x.data_ptr(), *map(address, parameters), address(state), y.data_ptr(),
            batch, channel, length, group, tap,
            DTYPE_CODES[x.dtype], DTYPE_CODES[shared], ACTIVATION_CODES[activation or ""],
        )  # fmt: skip
        return y

    def enqueue(self, name: str, x: Tensor, *arguments: object) -> None:
        """Calls a function of the library on the device of x and torch's current stream, which is its last argument.

        Raises:
          KernelUnavailable: It refused its arguments, or the kernel did not start.
        """
        device = x.get_device()
        if device == torch.cuda.current_device():  # to enter a device, and to make a Stream, costs microseconds
            self.call(name, *arguments, _current_stream(device))
            return
        with torch.cuda.device(device):
            self.call(name, *arguments, _current_stream(device))

    def call(self, name: str, *arguments: object) -> None:
        """Calls a function of the library as it is.

        Raises:
          KernelUnavailable: It refused its arguments, or the kernel did not start.
        """
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            text = self._library.subquad_ops_status_text(status).decode()
            raise KernelUnavailable(f"the CUDA kernel {name} did not start: {text} (status {status})")


def _current_stream(device: int) -> int:
    """Returns the address of the current stream of a device, as Triton asks for it."""
    return torch._C._cuda_getCurrentRawStream(device)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


@functools.cache
def _open_once(named: str | None) -> CudaLibrary | KernelUnavailable:
    """Opens what the environment variable names; a failure is kept too, since every call on a GPU may ask."""
    try:
        return CudaLibrary(cuda_library_path())
    except KernelUnavailable as problem:
        return problem


def cuda_library_path() -> Path:
    """Says which file is the library: the one the environment variable names, else the one beside this module."""
    named = settings().cuda_library
    return Path(named) if named else Path(__file__).with_name(LIBRARY_FILE)


def load_cuda_library() -> CudaLibrary:
    """Opens the kernel library, once for each value of the environment variable.

    Raises:
      KernelUnavailable: It is not there or not usable; the message says what to do.
    """
    opened = _open_once(settings().cuda_library)
    if isinstance(opened, KernelUnavailable):
        raise opened
    return opened


def _check_arguments(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    initial_state: Tensor | None,
    activation: str | None,
) -> None:
    """Refuses, before any kernel runs, what the library would read wrongly: it sees addresses only."""
    _checks.floating("x", x)
    if x.dim() != 3:
        raise ShapeMismatch(f"x has {x.dim()} axes {tuple(x.shape)}; accepted: 3 (batch, channel, length)")
    batch, channel, _ = x.shape
    _checks.taps("taps", taps, x, channel)
    tap = taps.shape[1]
    _checks.shaped("bias", bias, (channel,), x)
    _checks.shaped("skip", skip, (channel,), x)
    _checks.shaped("initial_state", initial_state, (batch, channel, tap - 1), x)
    if activation not in _ACTIVATIONS:
        raise KernelUnavailable(f"activation is {activation!r}; the CUDA kernel serves None and 'silu'")
    if not MIN_TAP <= tap <= MAX_TAP:
        raise KernelUnavailable(f"taps has {tap} taps; the CUDA kernel serves {MIN_TAP} to {MAX_TAP}")
    for name, array in (("x", x), ("taps", taps), ("bias", bias), ("skip", skip), ("initial_state", initial_state)):
        if array is not None and array.dtype not in DTYPE_CODES:
            raise KernelUnavailable(f"{name} is {array.dtype}; the CUDA kernel serves float32, float16 and bfloat16")
    if x.device.type != "cuda":
        raise KernelUnavailable(f"x is on {x.device}; the CUDA kernel needs a CUDA device")
