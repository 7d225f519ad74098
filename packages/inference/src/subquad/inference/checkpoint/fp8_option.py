"""How a network with FP8 projections is run: as it was trained, with exact sums, or with plain projections."""

import copy
from typing import Any

import torch
from torch import nn

from subquad.inference.errors import FP8Unavailable, InvalidOption
from subquad.lazy_config import Config
from subquad.modules import FP8Linear

_BACKENDS = {"emulate": "hopper_sums", "exact": "torch"}
_CAPABILITY = 9  # of Hopper, whose sums the checkpoints were trained with


def plain_config(config: Config[Any]) -> Config[Any]:
    """Returns the config of the same network with plain projections."""
    config = copy.deepcopy(config)
    config.fp8_projections = False
    return config


def check_fp8_option(option: str, device: torch.device, *, used: bool) -> None:
    """Checks that the FP8 projections of a network may run on a device as they were asked to.

    Raises:
      InvalidOption: ``option`` is unknown, or says how FP8 projections add in a network that has none.
      FP8Unavailable: ``option`` is ``"auto"``, the network has FP8 projections, and the device does not add 8-bit
        products as the checkpoints were trained with.
    """
    if option not in ("auto", *_BACKENDS, "off"):
        raise InvalidOption("fp8_projections", option, "'auto', 'emulate', 'exact' or 'off'")
    if option in _BACKENDS and not used:
        raise InvalidOption("fp8_projections", option, "'auto' or 'off', since this network has no FP8 projections")
    if option != "auto" or not used:
        return
    if device.type != "cuda":
        raise FP8Unavailable(f"the device is {device}")
    capability = torch.cuda.get_device_capability(device)
    if capability[0] != _CAPABILITY:
        raise FP8Unavailable(
            f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}"
        )


def use_sums(model: nn.Module, option: str) -> None:
    """Lets every FP8 projection of a network add as ``option`` says, where that is not the device's own way."""
    for module in model.modules():
        if isinstance(module, FP8Linear) and option in _BACKENDS:
            module.backend = _BACKENDS[option]
