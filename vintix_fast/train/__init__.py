"""What to learn (the improvement operator) and how (fine-tuning the adapter)."""

from vintix_fast.train.critic import Critic, CriticConfig
from vintix_fast.train.finetune import FinetuneConfig, TrainingStep, finetune, multiplies_bf16
from vintix_fast.train.objective import (
    AwrImprover,
    CloneImprover,
    CriticImprover,
    Improver,
    ImproverConfig,
    TopKImprover,
)

__all__ = [
    "AwrImprover",
    "CloneImprover",
    "Critic",
    "CriticConfig",
    "CriticImprover",
    "FinetuneConfig",
    "Improver",
    "ImproverConfig",
    "TopKImprover",
    "TrainingStep",
    "finetune",
    "multiplies_bf16",
]
