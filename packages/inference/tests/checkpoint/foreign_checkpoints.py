"""Makes small Savanna and Megatron-Bridge checkpoints of random weights, written from the tables of the format.

It shares no code with the readers. The layout: Savanna keeps block ``i`` under ``sequential.{i + 2}``, Megatron-Bridge
under ``decoder.layers.{i}``; the MLP's two inward matrices are one there. Distributed checkpoints are written by
torch's own writer, matrices in two pieces each as two ranks would have them.
"""

import dataclasses
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

PATTERN = "SDH*SDH*"
HIDDEN, INNER, GROUPS, STATES, VOCABULARY = 64, 96, 8, 16, 512
RUN_CONFIG = f"""
model:
  _target_: somewhere.HyenaModelProvider
  hybrid_override_pattern: "{PATTERN}"
  hidden_size: {HIDDEN}
  num_attention_heads: 4
  ffn_hidden_size: {INNER}
  num_groups_hyena_short: {GROUPS}
  num_groups_hyena_medium: {GROUPS}
  rotary_base: 10000
  seq_length: 4096
peft: null
"""


def savanna_tensors(*, medium_taps: int = 128, dtype: torch.dtype = torch.float32, norm: int = 11) -> dict[str, Tensor]:
    """Returns the tensors of a Savanna checkpoint under their names there."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int, spread: float = 1.0, around: float = 0.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * spread + around).to(dtype)

    found = {
        "sequential.0.word_embeddings.weight": draw(VOCABULARY, HIDDEN),
        f"sequential.{norm}.norm.weight": draw(HIDDEN, spread=0.1, around=1),
    }
    for index, letter in enumerate(PATTERN):
        block = f"sequential.{index + 2}."
        found[block + "input_layernorm.weight"] = draw(HIDDEN, spread=0.1, around=1)
        found[block + "pre_mlp_layernorm.weight"] = draw(HIDDEN, spread=0.1, around=1)
        found[block + "mixer.dense_projection.weight"] = draw(3 * HIDDEN, HIDDEN, spread=HIDDEN**-0.5)
        found[block + "mixer.dense.weight"] = draw(HIDDEN, HIDDEN, spread=HIDDEN**-0.5)
        found[block + "mixer.dense.bias"] = draw(HIDDEN, spread=0.1)
        found[block + "mlp.w1.weight"] = draw(INNER, HIDDEN, spread=HIDDEN**-0.5)
        found[block + "mlp.w2.weight"] = draw(INNER, HIDDEN, spread=HIDDEN**-0.5)
        found[block + "mlp.w3.weight"] = draw(HIDDEN, INNER, spread=INNER**-0.5)
        if letter == "*":
            found[block + "mixer.rotary_emb.inv_freq"] = draw(8)
            continue
        found[block + "mixer.hyena_proj_conv.short_conv_weight"] = draw(3 * HIDDEN, 3, spread=0.6)
        mixer = block + "mixer.mixer."
        if letter == "S":
            found[mixer + "short_conv.short_conv_weight"] = draw(GROUPS, 1, 7, spread=0.4)
            continue
        found[mixer + "conv_bias"] = draw(HIDDEN, spread=0.3)
        if letter == "D":
            rates = torch.logspace(-2, 2, GROUPS)[:, None]
            found[mixer + "filter.h"] = draw(GROUPS, medium_taps, spread=0.2)
            found[mixer + "filter.decay"] = torch.exp(-rates * torch.linspace(0, 1, medium_taps)[None]).to(dtype)
        else:
            rates = torch.rand(HIDDEN, STATES, generator=generator) * 0.09 + 0.01
            found[mixer + "filter.gamma"] = torch.log(rates).to(dtype)
            found[mixer + "filter.R"] = draw(HIDDEN, STATES, spread=0.1)
            found[mixer + "filter.p"] = draw(HIDDEN, STATES, spread=0.5, around=-1)
            found[mixer + "filter.t"] = torch.arange(16, dtype=dtype)
    return found


def mbridge_tensors(savanna: dict[str, Tensor], *, fused_norms: bool = True) -> dict[str, Tensor]:
    """Returns what Megatron-Bridge would hold of a Savanna checkpoint, under its names there."""
    found = {"embedding.word_embeddings.weight": savanna["sequential.0.word_embeddings.weight"]}
    found["decoder.final_norm.weight"] = next(v for n, v in savanna.items() if n.endswith(".norm.weight"))
    for index, letter in enumerate(PATTERN):
        old, new = f"sequential.{index + 2}.", f"decoder.layers.{index}."
        linear = "self_attention.linear_qkv." if letter == "*" else "mixer.dense_projection."
        plain = "input_layernorm.weight" if letter == "*" else "norm.weight"
        before = linear + "layer_norm_weight" if fused_norms else plain
        after = "mlp.linear_fc1.layer_norm_weight" if fused_norms else "pre_mlp_layernorm.weight"
        outward = "self_attention.linear_proj." if letter == "*" else "mixer.dense."
        found[new + before] = savanna[old + "input_layernorm.weight"]
        found[new + after] = savanna[old + "pre_mlp_layernorm.weight"]
        found[new + linear + "weight"] = savanna[old + "mixer.dense_projection.weight"]
        for end in ("weight", "bias"):
            found[new + outward + end] = savanna[old + "mixer.dense." + end]
        gate_and_up = [savanna[old + "mlp.w1.weight"], savanna[old + "mlp.w2.weight"]]
        found[new + "mlp.linear_fc1.weight"] = torch.cat(gate_and_up)
        found[new + "mlp.linear_fc2.weight"] = savanna[old + "mlp.w3.weight"]
        for name, value in savanna.items():
            ends = (".t", "inv_freq")
            if name.startswith((old + "mixer.mixer.", old + "mixer.hyena_proj_conv.")) and not name.endswith(ends):
                found[new + name.removeprefix(old)] = value
    return found


class InTwoPieces(dcp.DefaultSavePlanner):
    """Saves every matrix in two pieces, cut between its rows."""

    def create_local_plan(self) -> SavePlan:
        plan = super().create_local_plan()
        items = [piece for item in plan.items for piece in _pieces(item)]
        self.plan = dataclasses.replace(plan, items=items)
        return self.plan

    def resolve_data(self, write_item: WriteItem):
        data = super().resolve_data(dataclasses.replace(write_item, index=MetadataIndex(write_item.index.fqn)))
        if write_item.tensor_data is None or not isinstance(data, Tensor):
            return data
        chunk = write_item.tensor_data.chunk
        slices = (slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True))
        return data[tuple(slices)].clone()

    def lookup_object(self, index: MetadataIndex):
        return self.state_dict[index.fqn]


def _pieces(item: WriteItem) -> list[WriteItem]:
    data = item.tensor_data
    if data is None or len(data.size) < 2 or data.size[0] % 2:
        return [item]
    half = data.size[0] // 2
    made = []
    for number in range(2):
        offset = torch.Size((number * half, *(0 for _ in data.size[1:])))
        chunk = ChunkStorageMetadata(offset, torch.Size((half, *data.size[1:])))
        index = MetadataIndex(item.index.fqn, offset, number)
        tensor_data = dataclasses.replace(data, chunk=chunk)
        made.append(dataclasses.replace(item, index=index, type=WriteItemType.SHARD, tensor_data=tensor_data))
    return made


def write_mbridge(folder: Path, tensors: dict[str, object], *, run_config: str = RUN_CONFIG) -> Path:
    """Writes a Megatron-Bridge directory of one iteration and returns that iteration's folder."""
    iteration = folder / "iter_0000001"
    iteration.mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("1")
    dcp.save(dict(tensors), checkpoint_id=str(iteration), planner=InTwoPieces(), no_dist=True)
    torch.save({"iteration": 1}, iteration / "common.pt")
    (iteration / "run_config.yaml").write_text(run_config)
    return iteration
