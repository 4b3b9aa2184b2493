"""Fine-tuning of one group towards targets, with the rest of the model constant."""

from vintix_fast.train.finetune import TrainingStep, finetune, with_precision

__all__ = ["TrainingStep", "finetune", "with_precision"]
