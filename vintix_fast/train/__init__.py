"""What to learn (the improvement operator) and how (fine-tuning the adapter)."""

from vintix_fast.config import CriticConfig, FinetuneConfig, ImproveConfig
from vintix_fast.train.critic import Critic
from vintix_fast.train.finetune import TrainingStep, finetune, multiplies_bf16, with_precision
from vintix_fast.train.objective import (
    AwrImprover,
    CloneImprover,
    CriticImprover,
    Improver,
    TopKImprover,
)

__all__ = [
    "AwrImprover",
    "CloneImprover",
    "Critic",
    "CriticConfig",
    "CriticImprover",
    "FinetuneConfig",
    "ImproveConfig",
    "Improver",
    "TopKImprover",
    "TrainingStep",
    "finetune",
    "multiplies_bf16",
    "with_precision",
]
