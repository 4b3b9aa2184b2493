"""The model computes what the public reference code computes (see tests/golden/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vintix_fast.model import ContextCache, load_checkpoint
from vintix_fast.service.errors import UsageError

GOLDEN = Path(__file__).parents[1] / "golden"
BUNDLED = Path(__file__).parents[2] / "vintix_fast/checkpoints/without-minicheetah"
ORDERS = {
    "vintix_tiny": "action-reward-observation",
    "vintix_tiny_add_task": "action-reward-observation",
    "vintix_tiny_no_group_name": "action-reward-observation",
    "vintix_tiny_upstream": "observation-action-reward",
}
OTHER_TASK = {"vintix_tiny_add_task": "minicheetah_walking_ad"}
INPUTS = ("observation", "prev_action", "prev_reward", "step_num")
CASES = [(name, task) for name in ORDERS for task in ("go2_walking_ad", OTHER_TASK.get(name, "unitreea1_walking_ad"))]


def golden(name, task):
    data = np.load(GOLDEN / name / "io.npz")
    return [data[f"{task}/{key}"] for key in INPUTS], data[f"{task}/predicted_action"]


@pytest.mark.parametrize(("name", "task"), CASES)
def test_actions_match_the_reference(name, task):
    inputs, expected = golden(name, task)
    model = load_checkpoint(GOLDEN / name, token_order=ORDERS[name])
    actions = model.predict_actions(*inputs, task_name=task)
    assert isinstance(actions, np.ndarray)
    np.testing.assert_allclose(actions, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_decoding_step_by_step_matches_the_reference(name, task):
    inputs, expected = golden(name, task)
    model = load_checkpoint(GOLDEN / name, token_order=ORDERS[name])
    cache = ContextCache(model.config, num_envs=1)
    observation, action, reward, step = (torch.as_tensor(x) for x in inputs)
    for t in range(len(step)):
        one = slice(t, t + 1)
        out = model.decode(task, observation[one], action[one], reward[one, 0], step[one], cache)
        np.testing.assert_allclose(out[0].numpy(), expected[t], atol=1e-4, rtol=0)


def test_the_owners_token_order_is_the_default_and_the_order_matters():
    inputs, expected = golden("vintix_tiny_upstream", "go2_walking_ad")
    model = load_checkpoint(GOLDEN / "vintix_tiny_upstream")
    assert model.config.token_order == "action-reward-observation"
    assert np.abs(model.predict_actions(*inputs, task_name="go2_walking_ad") - expected).max() > 1e-2


def test_torch_goes_in_and_out_and_train_mode_is_restored():
    inputs, expected = golden("vintix_tiny", "go2_walking_ad")
    model = load_checkpoint(GOLDEN / "vintix_tiny").train()
    observation, action, reward, step = (torch.as_tensor(x) for x in inputs)
    actions = model.predict_actions(observation, action, reward[:, 0], step, task_name="go2_walking_ad")
    assert isinstance(actions, torch.Tensor) and not actions.requires_grad
    assert model.training  # the golden has dropout 0.1, so agreement shows that eval mode was used
    torch.testing.assert_close(actions, torch.as_tensor(expected), atol=1e-5, rtol=0)


def test_dropout_acts_in_train_mode_only():
    inputs, _ = golden("vintix_tiny", "go2_walking_ad")
    model = load_checkpoint(GOLDEN / "vintix_tiny")
    batch = [torch.as_tensor(x)[None] for x in inputs]
    batch[2] = batch[2][..., 0]
    assert torch.equal(model("go2_walking_ad", *batch), model("go2_walking_ad", *batch))
    model.train()
    assert not torch.equal(model("go2_walking_ad", *batch), model("go2_walking_ad", *batch))


def test_the_bundled_model_has_the_published_sizes():
    model = load_checkpoint(BUNDLED)

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(model.transformer) == 991_616
    assert count(model.encoder.obs_encoders["go2_locomotion"]) == 21_082
    assert count(model.encoder.acs_encoders["go2_locomotion"]) == 18_415
    assert count(model.encoder.rews_encoders["go2_locomotion"]) == 4
    assert count(model.head.acs_decoders["go2_locomotion"]) == 200_460
    others = [p.numel() for g in ("go1_locomotion", "a1_locomotion") for _, p in model.group_parameters(g)]
    assert count(model) - sum(others) == 1_231_706


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, lambda x: x[:, :30], r"observation must have shape \[64, 33\], got \[64, 30\]"),
        (1, lambda x: x[:-1], r"prev_action must have shape \[64, 12\], got \[63, 12\]"),
        (2, lambda x: x * np.nan, "prev_reward holds values that are not finite"),
        (3, lambda x: x - 100, "step_num must hold integers from 0"),
        (0, lambda x: x[:0], "T >= 1"),
    ],
)
def test_unusable_histories_are_refused(index, change, message):
    inputs, _ = golden("vintix_tiny", "go2_walking_ad")
    inputs[index] = change(inputs[index])
    model = load_checkpoint(GOLDEN / "vintix_tiny")
    with pytest.raises(UsageError, match=message):
        model.predict_actions(*inputs, task_name="go2_walking_ad")


@pytest.mark.parametrize("task", ["go3", None])
def test_an_unknown_or_missing_task_names_those_there_are(task):
    inputs, _ = golden("vintix_tiny", "go2_walking_ad")
    with pytest.raises(UsageError, match="go2_walking_ad, unitreea1_walking_ad"):
        load_checkpoint(GOLDEN / "vintix_tiny").predict_actions(*inputs, task_name=task)
