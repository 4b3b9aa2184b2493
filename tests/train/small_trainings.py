"""What trainings of a small model need."""

import numpy as np
from fakes import tiny_model

from vintix_fast.data import Targets, Windows

TASK, GROUP = "go2_walking_ad", "go2_locomotion"


def windows_for(histories, targets=None, window_len=32):
    targets = targets or [h.action for h in histories]
    return Windows(histories, [Targets(t, np.ones(len(t), np.float32)) for t in targets], window_len)


def snapshot(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def kernel_model(**options):
    """Small, with heads of 32 and a decoder of 64: the kernels'."""
    return tiny_model(hidden_dim=64, action_emb_dim=31, observation_emb_dim=31, transformer_heads=2, **options)
