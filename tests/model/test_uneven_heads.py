"""Heads that do not divide the model's width, as the public code has them: 6 of 64 are 10 wide each, 60 in all.

Decoding, plain and compiled, is held to `forward` with them in ``test_cache.py`` and ``../rollout/test_compiled.py``.
"""

import numpy as np
import pytest
import torch
from dense_attention import dense
from fakes import make_history, tiny_model

from vintix_fast.config import FinetuneConfig
from vintix_fast.data import Targets, Windows
from vintix_fast.model import load_checkpoint, save_checkpoint
from vintix_fast.train import finetune

TASK, GROUP = "go2_walking_ad", "go2_locomotion"


@pytest.fixture
def model():
    return tiny_model(hidden_dim=64, action_emb_dim=31, observation_emb_dim=31, transformer_heads=6)


def test_attention_is_as_wide_as_its_heads_and_its_output_as_the_model(model):
    attention = model.transformer.blocks[0].attention
    assert attention.in_proj.weight.shape == (180, 64) and attention.out_proj.weight.shape == (64, 60)
    x = torch.randn(2, 20, 64)
    with torch.no_grad():
        q, k, v = attention.in_proj(x).unflatten(-1, (3, 6, 10)).unbind(2)
        expected = attention.out_proj(dense(attention.q_norm(q), attention.k_norm(k), v, None).flatten(2))
        torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=0)


def test_a_checkpoint_gives_the_same_model(model, tmp_path):
    save_checkpoint(model, tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved")
    assert again.config == model.config and again.config.head_dim == 10
    h = make_history([12, 8])
    inputs = (h.observation, h.action, h.reward, h.step_num)
    np.testing.assert_array_equal(
        again.predict_actions(*inputs, task_name=TASK), model.predict_actions(*inputs, task_name=TASK)
    )


@pytest.mark.parametrize("bf16", [False, True])
def test_fine_tuning_learns_and_changes_the_group_alone(model, bf16):
    histories = [make_history([30, 40], seed=seed) for seed in range(2)]
    targets = [Targets(0.5 * h.action, np.ones(len(h), np.float32)) for h in histories]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = FinetuneConfig(steps=40, batch_size=4, lr=3e-3, bf16=bf16)
    log = finetune(model, TASK, Windows(histories, targets, 48), config, seed=0)
    assert np.mean([s.loss for s in log[-5:]]) < 0.6 * log[0].loss
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in model.group_parameters(GROUP)}
