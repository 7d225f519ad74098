"""The axis words of every tensor in Subquad, and the named tensor types made from them.

Axes: batch, length, channel, head, state, tap, height, width, group, vocabulary. A sequence is channel-first
(``layout="BHL"``, ``[batch, channel, length]``) unless a call says ``layout="BLH"``. Tap 0 of every filter multiplies
the current sample. A history holds the last samples of a stream, oldest first; a ring holds the same samples with the
one of absolute time ``t`` in slot ``t % (tap - 1)``.
"""

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

Layout = Literal["BHL", "BLH"]
Activation = Literal["silu", "gelu"]
Boundary = Literal["zero", "circular"]

Sequence = Float[Tensor, "batch _ _"]  # [batch, channel, length], or [batch, length, channel] with layout="BLH"
Grid = Float[Tensor, "..."]  # [batch, channel, *space], or [batch, *space, channel] with layout="BLH"; filters alike
Taps = Float[Tensor, "group tap"]  # row channel // (channels / group); tap 0 multiplies the current sample
ProjectionTaps = Float[Tensor, "row projection_tap"]  # of the 3 rows a channel of a gated operator
Rows = Float[Tensor, "*rows channel"]  # any axes, channels last
PerChannel = Float[Tensor, " channel"]
History = Float[Tensor, "_ channel past"]  # [batch or packed sequence, channel, tap - 1], oldest first
Modes = Float[Tensor, "channel state"]  # log poles or residues
ModalState = Float[Tensor, "batch channel state"]
Step = Float[Tensor, "batch channel"]  # one sample of each stream
Position = Int[Tensor, " batch"]  # tokens that a row has already seen
Boundaries = Int[Tensor, " sequences_and_one"]  # offsets of packed sequences
Active = Bool[Tensor, " batch"]
ProjectedHeads = Float[Tensor, "batch head 3 size"]  # query, key and value of one token a row
HeadStep = Float[Tensor, "batch head size"]
Slots = Float[Tensor, "slot head size"]  # keys or values; page p holds slots p * page_size to (p + 1) * page_size - 1
PageNumbers = Int[Tensor, "batch page"]
Frequencies = Float[Tensor, " half"]
Weight = Float[Tensor, "output input"]  # of a linear layer
Vectors = Float[Tensor, "batch input"]  # one vector of each stream, before a linear layer
Products = Float[Tensor, "batch output"]
ManyVectors = Float[Tensor, "*rows input"]  # any axes, inputs last
ManyProducts = Float[Tensor, "*rows output"]
ProjectedStep = Float[Tensor, "batch _"]  # three rows a channel of one token, or the vectors that they are made of
ProjectionRing = Float[Tensor, "batch _ projection_past"]  # of the three rows a channel
Logits = Float[Tensor, "batch vocabulary"]
TokenIds = Int[Tensor, " batch"]
TokenTable = Float[Tensor, "batch 3"]  # id, log-probability, whether the logits were finite
