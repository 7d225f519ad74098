"""A network with random weights, made where it is to run: seconds for seven billion parameters on a GPU."""

import torch

from subquad.modules import ChannelShards, StripedHyena2, StripedHyena2Preset, WholeChannels, round_linears


@torch.no_grad()
def random_network(
    preset: StripedHyena2Preset, *, device: str | torch.device, dtype: torch.dtype, shards: ChannelShards | None = None
) -> StripedHyena2:
    """Returns a network of a size with weights whose activations stay finite; token 0 is never the most likely.

    With ``shards`` the part of one rank: what all ranks hold is the same on each, all else is drawn by each for itself.
    """
    shards = WholeChannels() if shards is None else shards
    network = StripedHyena2(
        pattern=preset.pattern,
        hidden_size=preset.hidden_size,
        num_heads=preset.num_heads,
        inner_size=preset.inner_size,
        filter_groups=preset.filter_groups,
        rotary_base=preset.rotary_base,
        rotary_scale=preset.rotary_scale,
        shards=shards,
        device="meta",
        dtype=dtype,
    ).to_empty(device=device)
    torch.manual_seed(0)
    _fill("embedding", network.embedding_layer.weight, 1, 1)
    torch.manual_seed(1 + shards.rank)
    for name, parameter in network.named_parameters():
        if "embedding" not in name:
            _fill(name, parameter, len(preset.pattern), shards.size)
    for module in network.modules():
        if hasattr(module, "inv_freq"):
            module.reset_parameters()  # pyright: ignore[reportCallIssue]
    network.embedding_layer.weight[0] = 0
    return network.eval()


def random_part(
    preset: StripedHyena2Preset,
    dtype: torch.dtype,
    rounded: bool,
    shards: ChannelShards,
    device: torch.device,
) -> StripedHyena2:
    """Returns the part of one rank, with weights of one byte where they are to be rounded; says when it is there."""
    network = random_network(preset, device=device, dtype=dtype, shards=shards)
    if rounded:
        round_linears(network)
    print(f"rank {shards.rank} of {shards.size}: {stored_bytes(network) / 1e9:.3f} GB on {device}", flush=True)
    return network


def stored_bytes(network: torch.nn.Module) -> int:
    """Bytes of the parameters, rounded ones included."""
    stored = (*network.parameters(), *network.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in stored)


def _fill(name: str, parameter: torch.Tensor, depth: int, ranks: int) -> None:
    """Draws one parameter in place; outputs are sums over the ranks, so that their inputs are those of all ranks."""
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
        parameter.normal_(std=2 / (depth * (ranks * channels) ** 0.5))
    else:
        parameter.normal_(std=(2 / (5 * channels)) ** 0.5)
