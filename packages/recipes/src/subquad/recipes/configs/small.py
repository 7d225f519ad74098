"""A small StripedHyena 2 on phage lambda: learns more than Markov models know in a minute or two on two CPU cores.

48,502 bases are little: with more steps, a larger window or a larger network it learns them by heart instead.
"""

from subquad.lazy_config import Config, LazyConfig
from subquad.modules import StripedHyena2
from subquad.recipes.training import (
    DataSettings,
    LoraSettings,
    LossSettings,
    OptimizerSettings,
    RunSettings,
    TrainingConfig,
)


def config() -> Config[TrainingConfig]:
    """Returns the tree; change a field with `key=value` on the command line, as in `run.steps=500`."""
    return LazyConfig(TrainingConfig)(
        model=LazyConfig(StripedHyena2)(
            pattern="SDH*",
            hidden_size=64,
            num_heads=4,
            inner_size=128,
            filter_groups=8,
            filter_parameters="p_gamma",
        ),
        data=LazyConfig(DataSettings)(genomes=["lambda_phage"], window=256, held_out=0.1, both_strands=True),
        loss=LazyConfig(LossSettings)(),
        optimizer=LazyConfig(OptimizerSettings)(
            learning_rate=6e-3, final_learning_rate=6e-5, warmup_steps=20, weight_decay=0.1
        ),
        run=LazyConfig(RunSettings)(steps=400, batch_size=8, validate_every=50, save_every=50, threads=1),
        lora=LazyConfig(LoraSettings)(),
    )
