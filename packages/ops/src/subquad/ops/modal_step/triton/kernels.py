"""The kernel of modal_step: one program a batch row and a few channels."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's compiler reads these functions, not Python's: its types are not what the annotations of its module say.

import triton
import triton.language as tl

from subquad.ops.selective_scan.triton.exponential import exact_exp


@triton.jit
def modal_step_kernel(
    x, log_poles, residues, state, skip, active, y, channels, states,
    CHANNELS: tl.constexpr, STATES: tl.constexpr, SKIP: tl.constexpr, ACTIVE: tl.constexpr,
):  # fmt: skip
    """Advances the states of CHANNELS channels and sums them with the residues."""
    batch = tl.program_id(1)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    s = tl.arange(0, STATES)
    present = channel < channels
    inside = present[:, None] & (s < states)[None, :]
    row = batch.to(tl.int64) * channels + channel
    sample = tl.load(x + row, mask=present, other=0.0).to(tl.float32)
    mode = channel[:, None] * states + s[None, :]
    pole = exact_exp(tl.load(log_poles + mode, mask=inside, other=0.0).to(tl.float32))
    residue = tl.load(residues + mode, mask=inside, other=0.0).to(tl.float32)
    place = state + row[:, None] * states + s[None, :]
    advanced = pole * tl.load(place, mask=inside, other=0.0).to(tl.float32) + sample[:, None]
    write = inside
    if ACTIVE:
        write = write & (tl.load(active + batch + 0 * channel) != 0)[:, None]
    tl.store(place, advanced.to(state.dtype.element_ty), mask=write)
    total = tl.sum(residue * advanced, axis=1)
    if SKIP:
        total += tl.load(skip + channel, mask=present, other=0.0).to(tl.float32) * sample
    tl.store(y + row, total.to(y.dtype.element_ty), mask=present)
