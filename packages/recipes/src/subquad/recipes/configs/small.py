"""A small StripedHyena 2 on phage lambda: learns more than base frequencies in a few minutes on two CPU cores."""

from subquad.lazy_config import Config, LazyConfig
from subquad.modules import striped_hyena2_preset
from subquad.recipes.training import DataSettings, LossSettings, OptimizerSettings, RunSettings, TrainingConfig


def config() -> Config[TrainingConfig]:
    """Returns the tree; change a field with `key=value` on the command line, as in `run.steps=500`."""
    return LazyConfig(TrainingConfig)(
        model=striped_hyena2_preset("small"),
        data=LazyConfig(DataSettings)(genomes=["lambda_phage"], window=512, held_out=0.1, both_strands=True),
        loss=LazyConfig(LossSettings)(),
        optimizer=LazyConfig(OptimizerSettings)(
            learning_rate=2e-3, final_learning_rate=2e-5, warmup_steps=50, weight_decay=0.1
        ),
        run=LazyConfig(RunSettings)(steps=600, batch_size=8, validate_every=100, save_every=100),
    )
