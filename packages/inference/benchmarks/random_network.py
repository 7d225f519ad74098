"""A network with random weights, made where it is to run: seconds for seven billion parameters on a GPU."""

import torch

from subquad.modules import StripedHyena2, StripedHyena2Preset


@torch.no_grad()
def random_network(preset: StripedHyena2Preset, *, device: str, dtype: torch.dtype) -> StripedHyena2:
    """Returns a network of a size with weights whose activations stay finite; token 0 is never the most likely."""
    network = StripedHyena2(
        pattern=preset.pattern,
        hidden_size=preset.hidden_size,
        num_heads=preset.num_heads,
        inner_size=preset.inner_size,
        filter_groups=preset.filter_groups,
        rotary_base=preset.rotary_base,
        rotary_scale=preset.rotary_scale,
        device="meta",
        dtype=dtype,
    ).to_empty(device=device)
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        _fill(name, parameter, len(preset.pattern))
    for module in network.modules():
        if hasattr(module, "inv_freq"):
            module.reset_parameters()  # pyright: ignore[reportCallIssue]
    network.embedding_layer.weight[0] = 0
    return network.eval()


def _fill(name: str, parameter: torch.Tensor, depth: int) -> None:
    """Draws one parameter in place."""
    channels = parameter.shape[-1]
    if name.endswith("scale"):
        parameter.fill_(1.0)
    elif name.endswith("log_poles"):
        parameter.uniform_(-0.1, -1e-3)
    elif name.endswith("residues"):
        parameter.normal_(std=0.025)
    elif name.endswith("taps"):
        parameter.normal_(std=parameter.shape[-1] ** -0.5)
    elif parameter.dim() == 1:
        parameter.uniform_(-0.1, 0.1)
    elif "embedding" in name:
        parameter.normal_(std=0.02)
    elif "l3" in name or "out_" in name:
        parameter.normal_(std=2 / (depth * channels**0.5))
    else:
        parameter.normal_(std=(2 / (5 * channels)) ** 0.5)
