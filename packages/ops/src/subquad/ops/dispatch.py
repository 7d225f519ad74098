"""Which backend takes a call, and why.

Every operator describes a call as a ``Call``; a backend offers an ``Implementation`` per operator, whose ``refusal``
says why it cannot take that call (None: it can). ``backend="torch"`` is the operator's own portable form;
``"triton"``, ``"cuda"``, ``"vendor"``, ``"mamba"``, ``"scaled_mm"`` and ``"hopper_sums"`` are built in and imported
only when a call on their device comes; any other name is looked up in the entry point group ``subquad.ops.backends``,
whose value is a function without arguments that returns Implementations. ``"auto"`` goes through the rules below,
measured, and never through third-party backends.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from subquad.ops._devices import on_its_device
from subquad.ops.errors import ArgumentOutOfRange, BackendUnavailable, OpsError, ShapeMismatch

OPERATORS = (
    "attention_step",
    "causal_conv",
    "fft_conv",
    "fir_step",
    "fp8_linear",
    "gated_conv",
    "gated_conv_step",
    "gated_linear",
    "gated_linear_step",
    "gated_modal_conv",
    "gated_product",
    "gated_modal_step",
    "greedy_step",
    "linear_step",
    "modal_conv",
    "modal_step",
    "rearrange",
    "rms_norm",
    "rotary",
    "rounded_rows",
    "selective_scan",
)
WITH_STATE = (
    "causal_conv_with_state",
    "gated_conv_with_state",
    "gated_modal_conv_with_state",
    "modal_conv_with_state",
    "selective_scan_with_state",
)
ENTRY_POINT_GROUP = "subquad.ops.backends"
BUILT_IN = ("triton", "cuda", "vendor", "mamba", "scaled_mm", "hopper_sums")

# On CUDA, backends in the order in which "auto" tries them; what is not listed runs in torch.
AUTO_ON_CUDA: dict[str, tuple[str, ...]] = {
    "attention_step": ("cuda", "triton"),
    "causal_conv": ("cuda", "triton"),
    "fft_conv": ("cuda",),
    "fir_step": ("cuda", "triton"),
    "fp8_linear": ("scaled_mm",),
    "gated_conv": ("cuda", "triton"),
    "gated_conv_step": ("cuda", "triton"),
    "gated_linear": ("cuda",),
    "gated_linear_step": ("cuda", "triton"),
    "gated_modal_conv": ("cuda", "triton"),
    "gated_product": ("cuda", "triton"),
    "gated_modal_step": ("cuda", "triton"),
    "greedy_step": ("triton",),
    "linear_step": ("cuda", "triton"),
    "modal_conv": ("cuda", "triton"),
    "modal_step": ("triton",),
    "rms_norm": ("cuda", "triton"),
    "rotary": ("cuda", "triton"),
    "selective_scan": ("mamba", "triton"),
    "rounded_rows": ("cuda", "triton"),
}
# And the libraries of others that it tries after ours.
LIBRARIES_ON_CUDA: dict[str, tuple[str, ...]] = {
    "causal_conv": ("vendor",),
    "fft_conv": ("vendor",),
}


_TRANSFORMED = "torch.func or forward-mode differentiation transforms the call"


@dataclass(frozen=True)
class Call:
    """What a rule may know about a call."""

    operator: str
    dtype: torch.dtype
    device: str  # "cpu", "cuda", …
    batch: int
    channels: int  # of the output
    length: int
    taps: int  # filter taps, or the state size of a modal filter
    projection_taps: int = 0
    inputs: int = 0  # of a linear layer's product
    space: tuple[int, ...] = ()  # sizes of the axes of space, where an operator may have several
    space_taps: tuple[int, ...] = ()  # and of the filter along them
    transform: int = 0  # side of the square transform that the image kernels take for two axes; 0 where none holds them
    options: frozenset[str] = frozenset()  # names of the optional arguments in use
    gradient: bool = False
    capturing: bool = False
    index: int = 0  # of the device, among those of its kind


@dataclass(frozen=True)
class Implementation:
    """One backend's form of one operator.

    ``run`` takes the operator's arguments, already checked and channel-first, without ``layout`` and ``backend``, and
    returns what the operator's ``_with_state`` form returns (the output alone where there is none). ``output`` does the
    same and returns the output alone, where the state would cost something. ``unmeasured`` says why "auto" leaves a
    call that ``run`` could take to the next in its order: nobody measured it, or the next was faster. ``plainly`` does
    what ``run`` does where ``runs_plainly`` holds, without asking, whichever device is the current one; a built-in
    backend that says so for an operator refuses by its Call alone, and is never gone.
    """

    backend: str
    operator: str
    refusal: Callable[[Call], str | None]
    run: Callable[..., Any]
    output: Callable[..., Tensor] | None = None
    unmeasured: Callable[[Call], str | None] | None = None
    plainly: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Explanation:
    """The backend that a call takes, and the reason."""

    backend: str
    reason: str


def gradient_wanted(*tensors: Tensor | None) -> bool:
    """Says whether autograd will record a call on these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def capturing(x: Tensor) -> bool:
    """Says whether the current CUDA stream is recording a graph."""
    return x.is_cuda and not torch.compiler.is_compiling() and torch.cuda.is_current_stream_capturing()


def transformed() -> bool:
    """Says whether a transform of ``torch.func``, or forward-mode differentiation, is at work.

    Its tensors look like any others, yet have no memory of their own, take no ``out=`` and no hooks.
    """
    return not torch.compiler.is_compiling() and transformed_eagerly()


def transformed_eagerly() -> bool:
    """Says the same where nothing compiles the call."""
    return peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def runs_plainly(x: Tensor, *others: Tensor | None) -> bool:
    """Says whether nothing traces, records or transforms a call, so that memory may be read, reused and overwritten.

    A kernel is then launched past torch's dispatcher, which saves some 30 microseconds of the processor's time a call.
    """
    if type(x) is not Tensor or torch.compiler.is_compiling():
        return False
    return not gradient_wanted(x, *others) and not transformed()


def choose(call: Call, backend: str) -> tuple[Implementation | None, Explanation]:
    """Chooses the implementation of a call (None: the operator's own torch form).

    Raises:
      BackendUnavailable: the named backend cannot take the call.
      ArgumentOutOfRange: no backend has that name.
    """
    if backend == "torch":
        return None, Explanation("torch", "it was asked for")
    if backend == "auto":
        return _automatic(call)
    offered, problem = _offers(backend, call.operator)
    refusal = problem if offered is None else offered.refusal(call)
    if backend in BUILT_IN and transformed():
        refusal = f"{_TRANSFORMED}, which only the torch form can follow"
    if offered is None or refusal is not None:
        raise BackendUnavailable(f"backend {backend!r} cannot take this {call.operator}: {refusal}")
    return offered, Explanation(backend, "it was asked for")


def _automatic(call: Call) -> tuple[Implementation | None, Explanation]:
    if call.device != "cuda":
        return None, Explanation("torch", f"the tensors are on {call.device}")
    if transformed():
        return None, Explanation("torch", _TRANSFORMED)
    reasons = []
    for name in (*AUTO_ON_CUDA.get(call.operator, ()), *LIBRARIES_ON_CUDA.get(call.operator, ())):
        offered, problem = _offers(name, call.operator)
        refusal = problem if offered is None else offered.refusal(call)
        if offered is not None and refusal is None and offered.unmeasured is not None:
            refusal = offered.unmeasured(call)
        if offered is not None and refusal is None:
            return offered, _first(name)
        reasons.append(f"{name}: {refusal}")
    return None, Explanation("torch", "; ".join(reasons) or "no faster form is known for this operator on CUDA")


@functools.cache
def _first(backend: str) -> Explanation:
    return Explanation(backend, "first in the measured order for CUDA that takes this call")


def _offers(backend: str, operator: str) -> tuple[Implementation | None, str | None]:
    """Returns a backend's implementation of an operator, or None and why there is none."""
    problem, implementations = load_backend(backend)
    if problem is not None:
        return None, problem
    for implementation in implementations:
        if implementation.operator == operator:
            return implementation, None
    return None, f"it has no {operator}; it has {', '.join(i.operator for i in implementations)}"


def load_backend(backend: str) -> tuple[str | None, tuple[Implementation, ...]]:
    """Returns why a backend cannot run here (None: it can) and its implementations.

    The built-in ones are imported by statements, not by name, so that torch.compile can follow.

    Raises:
      ArgumentOutOfRange: no backend has that name.
    """
    if backend == "triton":
        from subquad.ops import _triton_backend as module
    elif backend == "cuda":
        from subquad.ops import _cuda_backend as module
    elif backend == "vendor":
        from subquad.ops import _vendor_backend as module
    elif backend == "mamba":
        from subquad.ops import _mamba_backend as module
    elif backend == "scaled_mm":
        from subquad.ops import _scaled_mm_backend as module
    elif backend == "hopper_sums":
        from subquad.ops import _hopper_sums_backend as module
    else:
        return None, _third_party(backend)
    if torch.compiler.is_compiling():
        problem = module.unavailable()
        return problem, () if problem is not None else module.implementations()
    try:
        return None, _usable(module.unavailable, module.implementations)
    except BackendUnavailable as refusal:
        return str(refusal), ()


@functools.cache
def _usable(
    unavailable: Callable[[], str | None], implementations: Callable[[], tuple[Implementation, ...]]
) -> tuple[Implementation, ...]:
    """Lists what a built-in backend offers, and keeps it: asking again would cost more than launching a kernel.

    Raises:
      BackendUnavailable: it cannot run here; that is asked anew at each call.
    """
    problem = unavailable()
    if problem is not None:
        raise BackendUnavailable(problem)
    return tuple(_on_the_device_of_its_input(offered) for offered in implementations())


def _on_the_device_of_its_input(offered: Implementation) -> Implementation:
    if offered.backend == "cuda":  # our library is told the device
        return offered
    output = None if offered.output is None else on_its_device(offered.output)
    return replace(offered, run=on_its_device(offered.run), output=output)


def _third_party(backend: str) -> tuple[Implementation, ...]:
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    for point in points:
        if point.name == backend:
            return tuple(point.load()())
    accepted = ["auto", "torch", *BUILT_IN, *sorted(point.name for point in points)]
    raise ArgumentOutOfRange(f"backend is {backend!r}; accepted: {', '.join(accepted)}")


def third_party_backends() -> tuple[str, ...]:
    """Lists the names in the entry point group ``subquad.ops.backends``."""
    return tuple(sorted(point.name for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)))


def explain(op_name: str, *tensors: Any, **arguments: Any) -> Explanation:
    """Says which backend a call would take and why, without running it.

    Args:
      op_name: a public operator, such as ``"gated_modal_conv"``, or its form that returns a state.
      tensors: its tensors, as in the call.
      arguments: its keyword arguments, as in the call.

    Raises:
      ArgumentOutOfRange: there is no such operator, or no backend of that name.
      BackendUnavailable: a backend was named that cannot take this call; says why.
      ShapeMismatch: a tensor has not the number of axes that the operator takes.

    Example:
      >>> explain("causal_conv", torch.zeros(1, 4, 8), torch.zeros(4, 3)).backend
      'torch'
    """
    operator = op_name.removesuffix("_with_state") if op_name in WITH_STATE else op_name
    if operator not in OPERATORS:
        raise ArgumentOutOfRange(f"op_name is {op_name!r}; accepted: {', '.join((*OPERATORS, *WITH_STATE))}")
    backend = arguments.pop("backend", "auto")
    module = importlib.import_module(f"subquad.ops.{operator}.{operator}")
    if op_name == "selective_scan_with_state":
        arguments["keeps_state"] = True  # not every backend can
    try:
        call = module.describe(*tensors, **arguments)
    except (IndexError, ValueError) as error:
        if isinstance(error, OpsError):
            raise
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors if isinstance(t, Tensor))
        raise ShapeMismatch(f"the tensors have shapes {shapes}; {op_name} takes other numbers of axes") from error
    return choose(call, backend)[1]


def gradients_by_recomputing(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor | None, ...],
    upstream: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:
    """Returns the gradient of each input by running a torch form again under autograd.

    Args:
      function: maps the inputs to as many tensors as there are in ``upstream``.
      inputs: as saved for backward; None stays None.
      upstream: gradients of the results.
    """
    leaves = [None if x is None else x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
    with torch.enable_grad():
        results = function(*leaves)
    pairs = [(r, u) for r, u in zip(results, upstream, strict=True) if u is not None]
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    found = iter(torch.autograd.grad([r for r, _ in pairs], wanted, [u.to(r) for r, u in pairs], allow_unused=True))
    return tuple(None if leaf is None or not leaf.requires_grad else next(found) for leaf in leaves)
