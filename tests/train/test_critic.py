"""The improvement operators: what the critic learns from, and where it moves actions on problems with known answers."""

import numpy as np
import pytest
import torch
from fakes import make_history

from vintix_fast.data import History
from vintix_fast.errors import Interrupted
from vintix_fast.train import CloneImprover, CriticConfig, CriticImprover
from vintix_fast.train.critic import transitions

FEW = {"updates": 250, "batch_size": 128, "hidden": 32, "lr": 3e-3}


def silent(step, loss):
    pass


def history_of(step_num, terminated=(), truncated=(), failed=(), **columns):
    """A history with flags at the given rows; action, mean and observation tell the row unless given."""
    n = len(step_num)
    number = np.arange(n, dtype=np.float32)

    def flags(at):
        return np.isin(np.arange(n), at).astype(np.uint8)

    columns = {
        "observation": np.repeat(number[:, None], 33, axis=1),
        "action": np.repeat(number[:, None] + 0.25, 12, axis=1),
        "mean_action": np.repeat(number[:, None] + 0.5, 12, axis=1),
        "reward": number + 0.75,
    } | columns
    columns = {name: np.asarray(column, dtype=np.float32) for name, column in columns.items()}
    mean = columns.pop("mean_action")
    extras = {"terminated": flags(terminated), "truncated": flags(truncated), "failed": flags(failed)}
    return History(**columns, step_num=np.asarray(step_num, np.int32), extras=extras | {"mean_action": mean}, env=0)


# -- what it learns from -----------------------------------------------------------------------------------------------


BY_HAND = CriticConfig(gamma=0.5, n_steps=3, reward_scale=2.0, reward_bonus=1.0)


def test_returns_end_with_a_fall_and_are_bootstrapped_where_the_successor_is_unknown():
    #       fall at 2, time-out at 4, failure at 6, the stream ends at 8; rewards are 3, 5, 7, ... scaled
    h = history_of(
        [0, 1, 2, 0, 1, 0, 1, 0, 1], terminated=[2, 6], truncated=[4], failed=[6], reward=np.arange(1.0, 10.0)
    )
    data = transitions([h], BY_HAND)
    kept = [0, 1, 2, 3, 5, 7]
    assert data.state[:, 0].tolist() == kept and data.action[:, 0].tolist() == [row + 0.25 for row in kept]
    assert data.reward.tolist() == [3 + 5 / 2 + 7 / 4, 5 + 7 / 2, 7, 9, 13, 17]
    assert data.discount.tolist() == [0, 0, 0, 0.5, 0.5, 0.5]
    assert data.next_state[3:, 0].tolist() == [4, 6, 8] and data.next_mean_action[3:, 0].tolist() == [4.5, 6.5, 8.5]


def test_returns_are_of_n_steps_where_the_episode_is_long_enough():
    data = transitions([history_of(range(6), truncated=[5], reward=np.arange(1.0, 7.0))], BY_HAND)
    assert data.next_state[:, 0].tolist() == [3, 4, 5, 5, 5]
    assert data.discount.tolist() == [0.125, 0.125, 0.125, 0.25, 0.5]
    assert data.reward.tolist() == [7.25, 10.75, 14.25, 9 + 11 / 2, 11]


def test_the_last_action_is_part_of_the_state_and_0_at_an_episodes_start():
    data = transitions([history_of([0, 1, 2, 0, 1, 2], terminated=[2], truncated=[5])], BY_HAND)
    assert data.state.shape == (5, 33 + 12)
    last = data.state[:, 33:]
    assert last[:, 0].tolist() == [0.0, 0.25, 1.25, 0.0, 3.25] and (last == last[:, :1]).all()
    assert data.next_state[3:, 33].tolist() == [4.25, 4.25]


def test_a_stream_is_not_continued_by_the_next_one():
    left = history_of([0, 1])
    right = history_of([2, 3, 4])  # would fit on, were it the same stream
    data = transitions([left, right], BY_HAND)
    assert data.state[:, 0].tolist() == [0, 0, 1] and data.next_state[:, 0].tolist() == [1, 2, 2]
    assert data.discount.tolist() == [0.5, 0.25, 0.5]


# -- where it moves actions --------------------------------------------------------------------------------------------

BEST = np.where(np.arange(12) % 3 == 0, 0.6, -0.4).astype(np.float32)


def tries(step_num, seed=0, **flags):
    """Actions scattered around 0; the reward is how near they come to BEST."""
    rng = np.random.default_rng(seed)
    n = len(step_num)
    action = rng.normal(0.0, 0.5, (n, 12)).astype(np.float32)
    return history_of(
        step_num,
        **flags,
        observation=rng.normal(0.0, 0.3, (n, 33)),
        action=action,
        mean_action=np.zeros((n, 12)),
        reward=-0.02 * ((action - BEST) ** 2).sum(axis=1),
    )


@pytest.mark.parametrize(
    "history",
    [
        tries([0] * 800, terminated=range(800)),
        tries([*range(500)] * 6, truncated=range(499, 3000, 500)),
    ],
    ids=["falls at once", "never falls"],
)
def test_targets_move_towards_the_best_action_by_the_step(history):
    improver = CriticImprover(33, 12, CriticConfig(**FEW, n_steps=2, step=0.2, gradient_steps=1))
    (targets,) = improver.targets([history], [history], 0, silent)
    moved = targets.action - history.extras["mean_action"]
    np.testing.assert_allclose(np.sqrt((moved**2).mean(axis=1)), 0.2, rtol=1e-3)
    cosine = moved @ BEST / np.linalg.norm(moved, axis=1) / np.linalg.norm(BEST)
    assert np.mean(cosine) > 0.7, np.mean(cosine)
    nearer = ((targets.action - BEST) ** 2).sum(axis=1) < (BEST**2).sum()
    assert nearer.mean() > 0.95


def test_several_small_steps_go_no_farther_than_the_step():
    history = tries([0] * 300, terminated=range(300))
    improver = CriticImprover(33, 12, CriticConfig(**FEW, step=0.2, gradient_steps=4))
    (targets,) = improver.targets([history], [history], 0, silent)
    far = np.sqrt(((targets.action - history.extras["mean_action"]) ** 2).mean(axis=1))
    assert far.max() <= 0.2 * (1 + 1e-4) and far.mean() > 0.1


def test_falling_is_avoided_although_it_pays_the_same():
    """Whoever moves joint 0 outwards falls at once; the reward is the same for everybody."""
    rng = np.random.default_rng(0)
    step_num, fell, action = [], [], rng.normal(0.0, 0.5, (3000, 12)).astype(np.float32)
    step = 0
    for row in range(3000):
        step_num.append(step)
        falls = action[row, 0] > 0.3
        fell += [row] if falls else []
        step = 0 if falls else step + 1
    history = history_of(
        step_num, terminated=fell, observation=rng.normal(0.0, 0.3, (3000, 33)), action=action,
        mean_action=np.zeros((3000, 12)), reward=np.full(3000, 0.02),
    )  # fmt: skip
    improver = CriticImprover(33, 12, CriticConfig(**FEW, step=0.2, gradient_steps=1))
    (targets,) = improver.targets([history], [history], 0, silent)
    moved = targets.action.mean(axis=0)
    assert moved[0] < -0.2 and np.abs(moved[1:]).max() < 0.5 * abs(moved[0]), moved


def test_one_target_for_each_step_of_each_history():
    histories = [make_history([30, 10], seed=s) for s in range(3)]
    improver = CriticImprover(33, 12, CriticConfig(updates=5, batch_size=32, hidden=8))
    targets = improver.targets(histories[1:], histories, 0, silent)
    assert [t.action.shape for t in targets] == [(40, 12)] * 2 and [t.weight.shape for t in targets] == [(40,)] * 2
    for t in targets:
        assert t.action.dtype == t.weight.dtype == np.float32
        assert np.isfinite(t.action).all() and (t.weight >= 0).all() and t.weight.any()
    assert np.isfinite(improver.numbers()["critic_loss"])


def test_an_observation_that_never_varies_does_no_harm():
    history = tries([0] * 300, terminated=range(300))
    history.observation[:, 6:9] = (1.0, 0.0, 0.0)
    improver = CriticImprover(33, 12, CriticConfig(**FEW, step=0.2, gradient_steps=1))
    (targets,) = improver.targets([history], [history], 0, silent)
    assert np.isfinite(targets.action).all()
    assert (targets.action @ BEST > 0).mean() > 0.9


def test_a_seed_decides_the_targets():
    history = make_history([30, 10])

    def run(seed):
        improver = CriticImprover(33, 12, CriticConfig(updates=10, batch_size=32, hidden=8))
        return improver.targets([history], [history], seed, silent)[0].action

    torch.manual_seed(0)
    once = run(3)
    torch.manual_seed(1)  # the caller's generator has no say
    np.testing.assert_array_equal(once, run(3))
    assert not np.array_equal(once, run(4))


def test_stopping_from_on_step():
    def stop(step, loss):
        raise Interrupted(f"{step} {loss}")

    history = make_history([30])
    with pytest.raises(Interrupted):
        CriticImprover(33, 12, CriticConfig(updates=200, hidden=8)).targets([history], [history], 0, stop)


# -- the step ----------------------------------------------------------------------------------------------------------


def test_the_step_shrinks_when_a_loop_is_undone():
    improver = CriticImprover(33, 12, CriticConfig(step=0.4, step_decay=0.25))
    improver.judge(True)
    assert improver.step == pytest.approx(0.4)
    improver.judge(False)
    assert improver.step == pytest.approx(0.1)


def test_a_resumed_run_has_the_same_step():
    improver = CriticImprover(33, 12, CriticConfig(step=0.4))
    improver.judge(False)
    resumed = CriticImprover(33, 12, CriticConfig(step=0.4))
    resumed.load_state_dict({})
    assert resumed.step == 0.4
    resumed.load_state_dict(improver.state_dict())
    assert resumed.step == improver.step != 0.4


# -- the control -------------------------------------------------------------------------------------------------------


def test_cloning_wants_what_was_done():
    histories = [make_history([5, 6], seed=1), make_history([9], seed=2)]
    targets = CloneImprover().targets(histories, histories, 0, silent)
    for history, target in zip(histories, targets, strict=True):
        np.testing.assert_array_equal(target.action, history.action)
        assert not np.array_equal(target.action, history.extras["mean_action"])
        assert (target.weight == 1).all()
