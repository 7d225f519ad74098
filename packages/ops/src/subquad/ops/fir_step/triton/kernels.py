"""The kernel of fir_step: one program a batch row and a few channels."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl


@triton.jit
def fir_step_kernel(
    x, taps, ring, position, bias, skip, active, y, channels, channels_per_row, past,
    CHANNELS: tl.constexpr, SLOTS: tl.constexpr, BIAS: tl.constexpr, SKIP: tl.constexpr, ACTIVE: tl.constexpr,
):  # fmt: skip
    """Dots the ring of each channel with the taps turned to its position, then overwrites the oldest slot."""
    batch = tl.program_id(1)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    present = channel < channels
    row = batch.to(tl.int64) * channels + channel
    current = tl.load(x + row, mask=present, other=0.0)
    sample = current.to(tl.float32)
    weights = taps + (channel // channels_per_row) * (past + 1)
    total = tl.load(weights, mask=present, other=0.0).to(tl.float32) * sample
    if SLOTS > 0:
        oldest = (tl.load(position + batch) % past).to(tl.int32)
        slot = tl.arange(0, SLOTS)
        inside = present[:, None] & (slot < past)[None, :]
        lag = tl.where(slot < oldest, oldest - slot, oldest - slot + past)
        stored = tl.load(ring + row[:, None] * past + slot[None, :], mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(weights[:, None] + lag[None, :], mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(stored * weight, axis=1)
        write = inside & (slot == oldest)[None, :]
        if ACTIVE:
            write = write & (tl.load(active + batch + 0 * channel) != 0)[:, None]
        value = tl.broadcast_to(current.to(ring.dtype.element_ty)[:, None], (CHANNELS, SLOTS))
        tl.store(ring + row[:, None] * past + slot[None, :], value, mask=write)
    if SKIP:
        total += tl.load(skip + channel, mask=present, other=0.0).to(tl.float32) * sample
    if BIAS:
        total += tl.load(bias + channel, mask=present, other=0.0).to(tl.float32)
    tl.store(y + row, total.to(y.dtype.element_ty), mask=present)
