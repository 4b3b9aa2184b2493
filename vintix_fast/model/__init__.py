"""The Vintix model: its configuration, forward and cached inference, checkpoints, and a new robot's own parts."""

from vintix_fast.model.adapter import add_group, fingerprint, freeze_all_but_group, move_posture
from vintix_fast.model.cache import ContextCache
from vintix_fast.model.checkpoint import load_checkpoint, save_checkpoint
from vintix_fast.model.config import ModelConfig, TaskInfo
from vintix_fast.model.vintix import Vintix
