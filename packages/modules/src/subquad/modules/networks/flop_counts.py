"""How many floating-point operations a whole network does, module by module, from the sizes it meets on a real pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from subquad.modules.blocks.condition_mixer import QKVConditionMixer
from subquad.modules.blocks.striped_hyena2 import StripedHyena2Block
from subquad.modules.errors import InputMismatch
from subquad.modules.networks.striped_hyena2 import StripedHyena2
from subquad.modules.parts.rounded_linear import RoundedLinear

_Rule = Callable[[Any, Tensor, Tensor], int]


def flop_counts(model: nn.Module, *inputs: Tensor, **named_inputs: Any) -> dict[str, int]:
    """Counts the operations of one forward pass on the given inputs; their sum is the network's.

    A multiply-add is two. Counted are linear layers, ``torch.nn`` convolutions and every module with a
    ``flop_count(size)`` (mixers, MLPs, short convolutions), in their own words; norms, activations, sums and
    softmaxes are not, as in profilers. The pass runs without gradients, and recomputation by gradient checkpointing
    does not count.

    Args:
      model: Any module; StripedHyena 2 as well as those built of blocks.
      inputs: What the model is called with, batch first; the counts are of the whole batch.
      named_inputs: Keyword arguments of the call.

    Returns:
      Operations by the name of the counted module, in the order of the calls.

    Raises:
      InputMismatch: A mixer was used in another way than by calling it, so that its operations cannot be seen.
    """
    counts: dict[str, int] = {}
    missing: set[str] = set()
    handles = []

    def attach(name: str, module: nn.Module) -> None:
        rule = _rule_of(module)
        if rule is not None:
            missing.add(name)
            handles.append(module.register_forward_hook(_hook(name, rule, counts)))
        if rule is None or isinstance(module, StripedHyena2):
            for child, part in module.named_children():
                attach(f"{name}.{child}" if name else child, part)

    attach("", model)
    try:
        with torch.no_grad():
            model(*inputs, **named_inputs)
    finally:
        for handle in handles:
            handle.remove()
    unseen = sorted(name for name in missing - set(counts) if hasattr(model.get_submodule(name), "flop_count"))
    if unseen:
        raise InputMismatch(f"the pass did not call {', '.join(unseen)}, whose operations the count would lack")
    return counts


def _hook(name: str, rule: _Rule, counts: dict[str, int]) -> Callable[..., None]:
    def count(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        counts[name] = counts.get(name, 0) + rule(module, args[0], output)

    return count


def _rule_of(module: nn.Module) -> _Rule | None:
    """Returns how to count a module from its first input and its output; None to look into its children."""
    if isinstance(module, StripedHyena2):
        return lambda m, ids, logits: 2 * m.hidden_size * logits.numel()
    if isinstance(module, StripedHyena2Block):
        return lambda m, x, y: x.shape[0] * _striped_block(m, x.shape[1])
    if hasattr(module, "flop_count") and not isinstance(module, QKVConditionMixer):
        return lambda m, x, y: x.shape[0] * m.flop_count(_size(x))
    if isinstance(module, nn.Linear | RoundedLinear):
        return lambda m, x, y: 2 * m.in_features * y.numel()
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return lambda m, x, y: 2 * m.weight[0].numel() * y.numel()
    return None


def _size(x: Tensor) -> int | tuple[int, ...]:
    """Returns the length of a sequence, or the size of a grid."""
    size = tuple(x.shape[1:-1])
    return size[0] if len(size) == 1 else size


def _striped_block(block: Any, length: int) -> int:
    """Counts a block of StripedHyena 2 on one sequence: all linear layers, the short convolution, the mixer."""
    linears = (part for part in block.modules() if isinstance(part, nn.Linear | RoundedLinear))
    weights = sum(part.in_features * part.out_features for part in linears)
    taps = getattr(block, "projection_taps", None)
    weights += 0 if taps is None else taps.numel()
    return 2 * weights * length + block.mixer.flop_count(length)
