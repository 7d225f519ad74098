"""Run in a fresh environment that holds the wheel and what it requires, nothing else."""

import importlib.metadata
import importlib.util
from datetime import timedelta

from subquad.lazy_config import LazyConfig, apply_overrides, expr, from_yaml, instantiate, to_yaml

config = LazyConfig(timedelta)(hours=2, minutes=expr("hours * 15"))
config = apply_overrides(from_yaml(to_yaml(config), allowed=["datetime"]), ["hours=4"])
assert str(instantiate(config)) == "5:00:00"
assert importlib.metadata.version("subquad-lazy-config")
for absent in ("torch", "omegaconf", "subquad.ops"):
    assert importlib.util.find_spec(absent) is None, f"{absent} must not come with this wheel"
print("subquad-lazy-config works")
