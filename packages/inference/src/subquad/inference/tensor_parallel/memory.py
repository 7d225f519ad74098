"""How much memory the ranks of a network held."""

import resource

import torch
import torch.distributed as dist


def peak_bytes(device: torch.device) -> list[int]:
    """Returns for every rank the most bytes of tensors on its CUDA device; all ranks must ask together.

    On a CPU the most memory that the process ever held, which ``reset_peak_bytes`` does not change.
    """
    if device.type == "cuda":
        own = torch.cuda.max_memory_allocated(device)
    else:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peaks = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    peaks[dist.get_rank()] = own
    dist.all_reduce(peaks)
    return peaks.tolist()


def reset_peak_bytes(device: torch.device) -> None:
    """Begins to count anew on this rank's CUDA device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
