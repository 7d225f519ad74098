"""The reference engine of Evo 2 (``vtx`` 1.1.0, where it can be imported), as its own generation loop drives it."""

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import sys
import tempfile
import types
from typing import Any

import torch

from subquad.modules import StripedHyena2Preset

_LETTERS = {"hcs_layer_idxs": "S", "hcm_layer_idxs": "D", "hcl_layer_idxs": "H", "attn_layer_idxs": "*"}


def problem() -> str | None:
    """Says why the reference engine cannot run here, or None."""
    for name in ("vortex", "einops"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed; pip install --no-deps vtx==1.1.0 einops==0.8.1"
    return None


def settings(preset: StripedHyena2Preset, *, longest: int, kernels: bool) -> dict[str, Any]:
    """Returns the reference engine's configuration of a size."""
    channels = preset.hidden_size
    layers = {key: [i for i, c in enumerate(preset.pattern) if c == letter] for key, letter in _LETTERS.items()}
    flags = ("use_hcs_kernel", "use_hcm_kernel", "use_hcl_kernel") if kernels else ()
    off = (
        "use_flash_attn use_flash_rmsnorm use_flash_depthwise use_flashfft use_fp8_input_projections print_activations "
        "log_intermediate_values short_filter_bias column_split_hyena hyena_flip_x1x2 qkv_proj_bias"
    )
    on = (
        "interleave evo2_style_activations tie_embeddings mha_out_proj_bias hyena_out_proj_bias column_split final_norm"
    )
    return {
        **layers,
        **dict.fromkeys(off.split(), False),
        **dict.fromkeys([*on.split(), "inference_mode", *flags], True),
        "model_name": "benchmark",
        "vocab_size": 512,
        "hidden_size": channels,
        "num_filters": channels,
        "num_layers": len(preset.pattern),
        "num_attention_heads": preset.num_heads,
        "inner_mlp_size": preset.inner_size,
        "hcl_filter_groups": channels,
        "hcm_filter_groups": preset.filter_groups,
        "hcs_filter_groups": preset.filter_groups,
        "hcm_filter_length": 128,
        "hcs_filter_length": 7,
        "hyena_filter_groups": 1,
        "short_filter_length": 3,
        "state_size": 16,
        "eps": 1e-6,
        "rotary_emb_base": preset.rotary_base,
        "proj_groups": 1,
        "make_vocab_size_divisible_by": 8,
        "inner_size_multiple_of": 16,
        "model_parallel_size": 1,
        "pipe_parallel_size": 1,
        "max_seqlen": longest,
        "max_batch_size": 1,
        "prefill_style": "fft",
        "mlp_activation": "gelu",
    }


class ReferenceEngine:
    """Runs the cases on the reference engine."""

    def __init__(
        self, preset: StripedHyena2Preset, *, device: str, dtype: torch.dtype, longest: int, kernels: bool
    ) -> None:
        self.name = "vtx 1.1.0 kernels" if kernels else "vtx 1.1.0"
        self._device = device
        _prepare_import(device)
        model = importlib.import_module("vortex.model.model")
        dotdict = importlib.import_module("vortex.model.utils").dotdict
        with torch.device(device), _quiet():
            network = model.StripedHyena(dotdict(settings(preset, longest=longest, kernels=kernels)))
        torch.manual_seed(0)
        for name, parameter in network.named_parameters():
            if "log_poles" in name:
                parameter.data.uniform_(-0.1, -1e-3)
            elif parameter.dim() > 1:
                parameter.data.normal_(std=0.02)
        if dtype == torch.bfloat16:
            network.to_bfloat16_except_pr_lc()
        else:
            network = network.to(dtype)
        self._network = network.to(device).eval()

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes over the tensors of a Vortex checkpoint."""
        self._network.custom_load_state_dict(tensors)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns its tensors under the names of a published checkpoint."""
        return dict(self._network.state_dict())

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns ``[batch, length, vocabulary]`` for int64 tokens ``[batch, length]``."""
        return self._network(ids.to(self._device))[0]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the parameters."""
        return sum(p.numel() * p.element_size() for p in self._network.parameters())

    @torch.inference_mode()
    def generate(self, prompts: list[str], tokens: int) -> None:
        """Reads the prompts and makes so many tokens for each, greedily; the prompts have one length."""
        ids = self._ids(prompts)
        with _quiet():
            state = self._network.initialize_inference_params(max_seqlen=ids.shape[1] + tokens + 8)
        state["mha"].max_batch_size = len(prompts)
        position, made = 0, []
        while len(made) < tokens:
            logits = self._network(ids, inference_params_dict=state)[0][:, -1]
            position += ids.shape[1]
            for part in state.values():
                part.seqlen_offset = position
            ids = logits.argmax(-1, keepdim=True)
            made.append(ids)
        torch.cat(made, 1).tolist()

    @torch.inference_mode()
    def score(self, sequences: list[str]) -> None:
        """Scores the sequences side by side."""
        ids = self._ids(sequences)
        logits = self._network(ids)[0][:, :-1].float()
        chosen = logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
        chosen.sum(-1).tolist()

    def _ids(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([list(text.encode()) for text in texts], device=self._device)


def _prepare_import(device: str) -> None:
    """Stands in for what the reference imports but this way of running it never calls."""
    logging.getLogger("vortex").setLevel(logging.ERROR)
    if "flash_attn_2_cuda" not in sys.modules and importlib.util.find_spec("flash_attn_2_cuda") is None:
        sys.modules.setdefault("flash_attn_2_cuda", types.ModuleType("flash_attn_2_cuda"))
    _import_in_a_folder_of_its_own("vortex.logging")
    if device != "cpu":
        return
    rotary = types.ModuleType("vortex.ops.embedding.rotary")
    rotary.apply_rotary = _rotate  # type: ignore[attr-defined]
    sys.modules.setdefault("vortex.ops.embedding.rotary", rotary)
    torch.cuda.device = lambda *_: contextlib.nullcontext()  # type: ignore[assignment, misc]


def _import_in_a_folder_of_its_own(name: str) -> None:
    """Imports a module that opens a log file in the working directory, away from the directory of the caller."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            importlib.import_module(name)
        finally:
            os.chdir(before)


def _rotate(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, seqlen_offsets: int = 0, **options: Any
) -> torch.Tensor:
    """Its rotary kernel in torch, for the CPU: half-split rotation from one offset, in place where asked."""
    length, half = x.shape[1], cos.shape[-1]
    c, s = (table[seqlen_offsets : seqlen_offsets + length][None, :, None] for table in (cos, sin))
    low, high = x[..., :half].clone(), x[..., half : 2 * half].clone()
    out = x if options.get("inplace") else x.clone()
    out[..., :half] = low * c - high * s
    out[..., half : 2 * half] = low * s + high * c
    return out


@contextlib.contextmanager
def _quiet() -> Any:
    """Keeps the reference's prints and progress bars away."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
