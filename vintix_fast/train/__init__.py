"""What to learn (the improvement operator) and how (fine-tuning the adapter)."""

from vintix_fast.train.critic import Critic, CriticConfig
from vintix_fast.train.finetune import FinetuneConfig, TrainingStep, finetune, multiplies_bf16
from vintix_fast.train.objective import (
    CloneImprover,
    CriticImprover,
    Improver,
    ImproverConfig,
)

__all__ = [
    "CloneImprover",
    "Critic",
    "CriticConfig",
    "CriticImprover",
    "FinetuneConfig",
    "Improver",
    "ImproverConfig",
    "TrainingStep",
    "finetune",
    "multiplies_bf16",
]
