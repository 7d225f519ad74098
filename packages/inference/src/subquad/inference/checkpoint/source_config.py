"""Which network a checkpoint to be converted holds."""

from pathlib import Path
from typing import Any

from subquad.inference.checkpoint.mbridge_config import mbridge_config
from subquad.inference.checkpoint.vortex_config import vortex_config
from subquad.inference.errors import InvalidOption
from subquad.lazy_config import Config


def source_config(source: str | Path, read: str, config: str | None) -> tuple[Config[Any] | None, dict[str, Any]]:
    """Returns the config for `convert_checkpoint`, None for a native source, and more fields for the metadata.

    Args:
      source: The checkpoint.
      read: Its format.
      config: A preset's name, a Vortex YAML file or a native checkpoint of the same network, or None.

    Raises:
      InvalidOption: ``config`` is given for a native source, or missing where the source does not describe its network.
      CheckpointConfigError: See `vortex_config` and `mbridge_config`.
    """
    if read == "native":
        if config is not None:
            raise InvalidOption("--config", config, "only for a source that is not native, which describes its network")
        return None, {}
    if config is not None:
        return vortex_config(config)
    if read == "mbridge":
        return mbridge_config(Path(source))
    accepted = "a Vortex YAML file, a native checkpoint of the same network, or a size such as 1b_base, 7b or 40b"
    raise InvalidOption("--config", None, accepted)
