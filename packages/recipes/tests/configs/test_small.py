"""The shipped configuration builds, and is what its name says."""

from subquad.lazy_config import from_yaml, instantiate, to_yaml
from subquad.recipes.configs.small import config
from subquad.recipes.training import TrainingConfig


def test_it_builds_a_small_network():
    settings = instantiate(config())
    assert isinstance(settings, TrainingConfig)
    assert 100_000 < sum(parameter.numel() for parameter in settings.model.parameters()) < 1_000_000


def test_it_survives_yaml():
    tree = config()
    assert to_yaml(from_yaml(to_yaml(tree))) == to_yaml(tree)
