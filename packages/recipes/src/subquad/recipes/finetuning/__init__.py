"""Fine-tuning by corrections of low rank (LoRA): files that hold nothing else, and networks that hold their sum."""

from subquad.recipes.finetuning.adapter_file import Adapter as Adapter
from subquad.recipes.finetuning.adapter_file import BaseCheckpoint as BaseCheckpoint
from subquad.recipes.finetuning.adapter_file import read_adapter as read_adapter
from subquad.recipes.finetuning.merging import load_adapted as load_adapted
from subquad.recipes.finetuning.merging import merge_adapter as merge_adapter
