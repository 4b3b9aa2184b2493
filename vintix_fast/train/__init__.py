"""What to learn (the improvement operator) and how (fine-tuning the adapter)."""

from vintix_fast.config import CriticConfig, FinetuneConfig, ImproveConfig
from vintix_fast.train.critic import Critic
from vintix_fast.train.finetune import TrainingStep, finetune, multiplies_bf16, with_precision
from vintix_fast.train.objective import CloneImprover, CriticImprover, Improver, make_improver

__all__ = [
    "CloneImprover",
    "Critic",
    "CriticConfig",
    "CriticImprover",
    "FinetuneConfig",
    "ImproveConfig",
    "Improver",
    "TrainingStep",
    "finetune",
    "make_improver",
    "multiplies_bf16",
    "with_precision",
]
