"""What conversion writes as Vortex is read by the reference engine, which then gives the logits that ours gives."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from packages.inference.benchmarks import reference_engine
from packages.inference.benchmarks.reference_engine import ReferenceEngine, settings
from packages.inference.tests.checkpoint.foreign_checkpoints import mbridge_tensors, savanna_tensors, write_mbridge
from packages.inference.tests.conftest import TINY, tiny_network
from subquad.inference import load_checkpoint, save_checkpoint
from subquad.inference.checkpoint import convert_checkpoint, vortex_config
from subquad.lazy_config import LazyConfig
from subquad.modules import StripedHyena2, StripedHyena2Preset

CONFIG = LazyConfig(StripedHyena2)(**TINY)
PRESET = StripedHyena2Preset(
    TINY["pattern"], TINY["hidden_size"], TINY["num_heads"], TINY["inner_size"], TINY["filter_groups"]
)


def write_native(path: Path) -> None:
    save_checkpoint(path, tiny_network(), CONFIG)


def write_savanna(path: Path) -> None:
    torch.save({"module": {f"module.{name}": t for name, t in savanna_tensors(medium_taps=160).items()}}, path)


def write_bridge(path: Path) -> None:
    write_mbridge(path, mbridge_tensors(savanna_tensors(medium_taps=160)))


@pytest.mark.parametrize(
    ("source", "write"), [("native", write_native), ("savanna", write_savanna), ("mbridge", write_bridge)]
)
def test_the_reference_engine_gives_our_logits(
    source: str, write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    native = tmp_path / "native"
    if source == "native":
        write(native)
    else:
        write(tmp_path / "source")
        convert_checkpoint(tmp_path / "source", native, read=source, write="native", config=CONFIG)
    convert_checkpoint(native, tmp_path / "vortex.pt", read="native", write="vortex")
    written = yaml.safe_load((tmp_path / "vortex.yml").read_text())  # by hand nothing has to be added
    monkeypatch.setattr(reference_engine, "settings", lambda *_, **__: written)
    reference = ReferenceEngine(PRESET, device="cpu", dtype=torch.float32, longest=512, kernels=False)
    reference.load(torch.load(tmp_path / "vortex.pt", weights_only=True))
    ids = torch.randint(65, 85, (2, 300), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = load_checkpoint(native, dtype="float64").model(ids)
    error = (reference.logits(ids).double() - ours).norm() / ours.norm()
    assert error < 5e-6, f"relative error {error:.2e}"
    assert list(Path().iterdir()) == [], "the reference engine writes its log where it is imported"


def test_a_file_and_a_config_that_the_reference_engine_reads_are_read_whole_and_give_its_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reference = ReferenceEngine(PRESET, device="cpu", dtype=torch.float32, longest=512, kernels=False)
    torch.save(reference.tensors(), tmp_path / "published.pt")
    reference.load(torch.load(tmp_path / "published.pt", weights_only=True))  # in memory it orders rows its own way
    (tmp_path / "published.yml").write_text(yaml.safe_dump(settings(PRESET, longest=512, kernels=False)))
    config, metadata = vortex_config(str(tmp_path / "published.yml"))
    assert (config.pattern, metadata["max_sequence_tokens"]) == (TINY["pattern"], 512)
    report = convert_checkpoint(tmp_path / "published.pt", tmp_path / "n", read="vortex", write="native", config=config)
    assert {row.source for row in report} == set(reference.tensors())
    ids = torch.randint(65, 85, (2, 300), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = load_checkpoint(tmp_path / "n", dtype="float64").model(ids)
    error = (reference.logits(ids).double() - ours).norm() / ours.norm()
    assert error < 5e-6, f"relative error {error:.2e}"
