"""The policy with its cached context acts as the model does when it reads each environment's history from the start."""

import numpy as np
import pytest
import torch
from fakes import ACTIONS, FakeSimulator, tiny_model

from vintix_fast.policy import Policy
from vintix_fast.rollout import Noise, collect, ladder
from vintix_fast.world.task import WalkingTask

TASK = "go2_walking_ad"


@pytest.fixture
def task(go2):
    # Episodes end at other times in each environment, by falls and by time-outs.
    return WalkingTask(FakeSimulator(go2, 4, fall_after=(5, 30, 9, 12)), go2, max_steps=14)


def run(task, policy, seed=0):
    noise = Noise(ladder(4, 0.3), ACTIONS, seed)
    return collect(task, policy, 13, seed=seed, random_starts=True, noise=noise, keep=True).histories


def reencoded(model, history):
    """The actions of a full forward over one history, its inputs laid out step by step."""
    prev_action, prev_reward = np.zeros_like(history.action), np.zeros_like(history.reward)
    for t in range(1, len(history)):
        prev_action[t], prev_reward[t] = history.action[t - 1], history.reward[t - 1]
    return model.predict_actions(history.observation, prev_action, prev_reward, history.step_num, task_name=TASK)


def test_cached_context_equals_reading_the_history_anew(tiny, task):
    histories = run(task, Policy(tiny, TASK, 4, context_len=64))
    assert [len(h.episodes()) for h in histories] == [3, 3, 3, 4] and max(map(len, histories)) <= 64
    for history in histories:
        acted = history.extras["mean_action"]
        # float32 sums in another order, over at most 64 tokens
        np.testing.assert_allclose(acted, reencoded(tiny, history), atol=1e-4, rtol=0)
        # The test can fail: the context matters, and so does where the last action came from.
        start, stop = history.episodes()[-1]
        alone = tiny.predict_actions(
            history.observation[start:stop], np.roll(history.action, 1, axis=0)[start:stop],
            np.roll(history.reward, 1)[start:stop], history.step_num[start:stop], task_name=TASK,
        )  # fmt: skip
        assert np.abs(acted[start:stop] - alone).max() > 2e-3


def test_environments_do_not_see_each_other(tiny, go2, task):
    together = run(task, Policy(tiny, TASK, 4, context_len=64))[2]
    alone = Policy(tiny, TASK, 1, context_len=64)
    alone.reset()
    for t in range(len(together)):
        acted = alone.act(torch.from_numpy(together.observation[t : t + 1]), torch.tensor([together.step_num[t]]))
        np.testing.assert_allclose(acted[0], together.extras["mean_action"][t], atol=1e-4, rtol=0)
        alone.observe(torch.from_numpy(together.action[t : t + 1]), torch.from_numpy(together.reward[t : t + 1]))


def test_resetting_starts_every_history_anew(tiny, task):
    policy = Policy(tiny, TASK, 4, context_len=64)
    first, second = run(task, policy), run(task, policy)  # collect() resets
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.extras["mean_action"], b.extras["mean_action"])
    policy.reset = lambda: None
    warm = run(task, policy)
    assert np.abs(warm[0].extras["mean_action"][0] - first[0].extras["mean_action"][0]).max() > 1e-3


def test_a_model_in_training_mode_acts_without_dropout(task):
    model = tiny_model(residual_dropout=0.5, attn_dropout=0.5).train()
    histories = run(task, Policy(model, TASK, 4, context_len=64))
    np.testing.assert_allclose(histories[1].extras["mean_action"], reencoded(model, histories[1]), atol=1e-4, rtol=0)
