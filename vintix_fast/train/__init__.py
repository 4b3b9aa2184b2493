"""Fine-tuning of one group towards targets, with the rest of the model constant."""

from vintix_fast.train.finetune import TrainingStep, finetune, with_precision
from vintix_fast.train.graph import check_compiler

__all__ = ["TrainingStep", "check_compiler", "finetune", "with_precision"]
