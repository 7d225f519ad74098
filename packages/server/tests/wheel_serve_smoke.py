"""Shows that the wheel with its extra [serve] serves a checkpoint and answers its own client."""

import subprocess
import sys
import tempfile
from pathlib import Path

from subquad.inference import save_checkpoint
from subquad.lazy_config import from_yaml, instantiate
from subquad.server import GenomicsClient

TINY = """
_target_: subquad.modules.networks.striped_hyena2:StripedHyena2
pattern: SDH*
hidden_size: 64
num_heads: 4
inner_size: 96
filter_groups: 8
"""

with tempfile.TemporaryDirectory() as folder:
    config = from_yaml(TINY)
    save_checkpoint(Path(folder) / "tiny", instantiate(config), config)
    serve = [sys.executable, "-m", "subquad.server", "serve", f"{folder}/tiny", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        with GenomicsClient(address, timeout=60) as client:
            (sample,) = client.generate("ACGT", max_new_tokens=8, ignore_end_of_document=True).result()
            assert len(sample.ids) == 8
            assert client.score(["ACGTACGT"])[0].scored_tokens == 7
        server.terminate()
    assert server.returncode == 0
print("served, generated, scored and drained")
