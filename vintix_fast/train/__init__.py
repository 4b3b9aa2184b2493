"""What to learn (the improvement operator) and how (fine-tuning the adapter)."""

from vintix_fast.train.critic import CriticConfig, CriticImprover
from vintix_fast.train.finetune import FinetuneConfig, TrainingStep, finetune
from vintix_fast.train.objective import CloneImprover, Improver

__all__ = [
    "CloneImprover",
    "CriticConfig",
    "CriticImprover",
    "FinetuneConfig",
    "TrainingStep",
    "Improver",
    "finetune",
]
