"""Which parameters an optimiser should treat in a special way."""

import dataclasses
from typing import TypedDict

from torch import nn


@dataclasses.dataclass(frozen=True)
class ParameterTags:
    """How to optimise one parameter.

    Attributes:
      weight_decay: Whether weight decay applies.
      learning_rate_scale: Factor of the learning rate.
    """

    weight_decay: bool = True
    learning_rate_scale: float = 1.0


class ParameterGroup(TypedDict):
    """One parameter group, as optimisers of ``torch.optim`` take it."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float


def parameter_tags(model: nn.Module) -> dict[str, ParameterTags]:
    """Returns the tags of every parameter by its full name.

    Weight decay does not apply to parameters of fewer than two axes (biases, norms, skip weights) nor to those that
    their module lists in an attribute ``no_weight_decay``; a module may map names to factors in
    ``learning_rate_scales``.
    """
    tags = {}
    for module_name, module in model.named_modules():
        exempt = getattr(module, "no_weight_decay", frozenset())
        scales = getattr(module, "learning_rate_scales", {})
        for name, parameter in module.named_parameters(recurse=False):
            tags[f"{module_name}.{name}" if module_name else name] = ParameterTags(
                weight_decay=parameter.ndim > 1 and name not in exempt, learning_rate_scale=scales.get(name, 1.0)
            )
    return tags


def parameter_groups(model: nn.Module, *, learning_rate: float, weight_decay: float) -> list[ParameterGroup]:
    """Sorts the parameters that need gradients into groups for an optimiser, by their tags.

    Args:
      model: Any module; a parameter shared by several modules counts once, under its first name.
      learning_rate: Rate of parameters without a scale.
      weight_decay: Decay of parameters that it applies to; the others get 0.
    """
    tags = parameter_tags(model)
    groups: dict[ParameterTags, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(tags[name], []).append(parameter)
    return [
        ParameterGroup(
            params=parameters,
            lr=learning_rate * tag.learning_rate_scale,
            weight_decay=weight_decay if tag.weight_decay else 0.0,
        )
        for tag, parameters in groups.items()
    ]
