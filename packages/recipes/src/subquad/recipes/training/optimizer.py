"""The optimiser and its schedule."""

import torch
from torch import nn

from subquad.modules import warmup_cosine
from subquad.recipes.training.settings import OptimizerSettings


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Splits the parameters into those that decay and those that do not.

    A parameter is exempt if it has fewer than two axes, or if the module that owns it lists its name in the class
    attribute `no_weight_decay`, as filters and short convolutions do.

    Args:
      model: Parameters without gradient are left out.
      weight_decay: The decay of the first group; that of the second is 0.
    """
    exempt = exempt_parameters(model)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [p for name, p in trained if name not in exempt], "weight_decay": weight_decay},
        {"params": [p for name, p in trained if name in exempt], "weight_decay": 0.0},
    ]


def exempt_parameters(model: nn.Module) -> set[str]:
    """Names the parameters that weight decay leaves alone."""
    tagged = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(module, "no_weight_decay", ())
    }
    return {name for name, parameter in model.named_parameters() if name in tagged or parameter.ndim < 2}


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Builds AdamW with the two groups of `parameter_groups`."""
    groups = parameter_groups(model, settings.weight_decay)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=1e-8)


def build_schedule(
    optimizer: torch.optim.Optimizer, settings: OptimizerSettings, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Builds the schedule of `learning_rate_at`, stepped once per optimiser step."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_at(step, settings, steps) / settings.learning_rate
    )


def learning_rate_at(step: int, settings: OptimizerSettings, steps: int) -> float:
    """Returns the learning rate of step `step` (from 0) of a run of `steps`.

    Linear from `learning_rate / warmup_steps` over the warm-up, then
    `final + (peak - final) * (1 + cos(pi * progress)) / 2`.
    """
    final = settings.final_learning_rate / settings.learning_rate
    warmup = min(settings.warmup_steps, steps)
    return settings.learning_rate * warmup_cosine(step, total_steps=max(1, steps), warmup_steps=warmup, final=final)
