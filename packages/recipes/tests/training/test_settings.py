"""Every setting out of range is refused with field, value and accepted range."""

import pytest

from subquad.recipes.errors import RecipeError, SettingError
from subquad.recipes.training import DataSettings, LossSettings, OptimizerSettings, RunSettings


@pytest.mark.parametrize(
    ("build", "field", "value", "accepted"),
    [
        (DataSettings, "data.genomes", [], "a list of one file or more"),
        (DataSettings, "data.genomes", "lambda_phage", "a list of one file or more"),
        (DataSettings, "data.window", 15, "a whole number of at least 16"),
        (DataSettings, "data.held_out", 0.0, "a number above 0 and at most 0.5"),
        (DataSettings, "data.hold_out_by", "base", "'block' or 'record'"),
        (DataSettings, "data.held_out_block", 1, "a whole number of at least 16"),
        (LossSettings, "loss.lowercase_weight", 2.0, "a number from 0 to 1"),
        (LossSettings, "loss.normalization", "mean", "'normalized_weighted' or 'weighted'"),
        (OptimizerSettings, "optimizer.learning_rate", 0.0, "a finite number above 0"),
        (OptimizerSettings, "optimizer.learning_rate", float("inf"), "a finite number above 0"),
        (RunSettings, "run.initial_checkpoint", "", "a folder"),
        (OptimizerSettings, "optimizer.final_learning_rate", 1.0, "a number from 0 to 0.0003"),
        (OptimizerSettings, "optimizer.warmup_steps", -1, "a whole number of at least 0"),
        (OptimizerSettings, "optimizer.weight_decay", -0.1, "a finite number of at least 0"),
        (OptimizerSettings, "optimizer.beta1", 1.0, "a number from 0 to below 1"),
        (OptimizerSettings, "optimizer.clip", float("nan"), "a finite number above 0"),
        (RunSettings, "run.steps", 0, "a whole number of at least 1"),
        (RunSettings, "run.batch_size", True, "a whole number of at least 1"),
        (RunSettings, "run.micro_batch_size", 9, "a whole number from 1 to 8, which is run.batch_size"),
        (RunSettings, "run.micro_batch_size", 0, "a whole number from 1 to 8"),
        (RunSettings, "run.devices", 0, "a whole number of at least 1"),
        (RunSettings, "run.accelerator", "tpu", "'auto' or 'cpu' or 'gpu'"),
        (RunSettings, "run.precision", "fp4", "'32-true' or"),
        (RunSettings, "run.threads", 0, "a whole number of at least 1"),
    ],
)
def test_a_value_out_of_range_is_refused(build: type, field: str, value: object, accepted: str):
    with pytest.raises(SettingError) as caught:
        build(**{field.split(".")[1]: value})
    assert isinstance(caught.value, RecipeError)
    assert str(caught.value).startswith(f"{field}: got {value!r}; accepted is {accepted}")


def test_the_defaults_are_accepted():
    assert DataSettings().genomes == ("lambda_phage",)
    assert LossSettings().lowercase_weight == 0.1
    assert OptimizerSettings().beta2 == 0.95
    assert RunSettings().precision == "32-true"
