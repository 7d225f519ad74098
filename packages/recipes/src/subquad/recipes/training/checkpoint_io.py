"""How Lightning's checkpoints reach the disk: straight to their file."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO


class StraightToDisk(TorchCheckpointIO):
    """Writes a checkpoint to its path as it is serialised.

    Lightning's own way builds it in memory, copies that, and writes it by way of the folder for temporary files, which
    may be too small or lie on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes `checkpoint` to `path`.

        Raises:
          OSError: The disk is full, or the path cannot be written.
        """
        try:
            with Path(path).open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's words for a write that failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
