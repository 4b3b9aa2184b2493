"""The improvement operators: where they move actions, and what they weigh, on problems with known answers."""

import numpy as np
import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, make_history
from made_histories import BEST, history_of, tries

from vintix_fast.config import IMPROVERS, CriticConfig, ImproveConfig
from vintix_fast.improve import CloneImprover, CriticImprover
from vintix_fast.improve.critic import Critic
from vintix_fast.improve.operators import OPERATORS
from vintix_fast.service.errors import Interrupted

FEW = {"updates": 250, "steps_for_all": 1, "batch_size": 128, "hidden": 32, "lr": 3e-3}


def silent(step, loss):
    pass


def climber(n_steps=5, **options):
    return CriticImprover(ImproveConfig(critic=CriticConfig(**FEW, n_steps=n_steps), **options))


# -- where it moves actions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "history",
    [
        tries([0] * 800, terminated=range(800)),
        tries([*range(500)] * 6, truncated=range(499, 3000, 500)),
    ],
    ids=["falls at once", "never falls"],
)
def test_targets_move_towards_the_best_action_by_the_step(history):
    improver = climber(n_steps=2, step=0.2, gradient_steps=1, smoothing=0.0)
    (targets,) = improver.targets([history], [history], 0, silent)
    moved = targets.action - history.extras["mean_action"]
    far = np.sqrt((moved**2).mean(axis=1))
    lower_median = np.sort(far)[(len(far) - 1) // 2]  # torch's, of an even number
    assert lower_median == pytest.approx(0.2, rel=1e-3)
    assert far.max() == pytest.approx(0.4, rel=1e-3), "what matters most moves twice as far as the median"
    assert far.min() < 0.15, "what matters little moves little"
    cosine = moved @ BEST / np.linalg.norm(moved, axis=1) / np.linalg.norm(BEST)
    assert np.mean(cosine) > 0.7, np.mean(cosine)
    nearer = ((targets.action - BEST) ** 2).sum(axis=1) < (BEST**2).sum()
    assert nearer.mean() > 0.95


class RippledCritic(Critic):
    """Joint 0 pays evenly; joint 1 not at all, but for ripples that are steeper than that."""

    loss = 0.0

    def __init__(self, *_):
        pass

    def states(self, history):
        return torch.zeros(len(history), 3)

    def values(self, state, deviation):
        return deviation[:, 0] + 0.2 * torch.sin(40.0 * deviation[:, 1])


@pytest.mark.parametrize(("smoothing", "follows"), [(0.0, 1), (0.3, 0)])
def test_what_pays_around_an_action_counts_not_a_ripple_at_it(monkeypatch, smoothing, follows):
    monkeypatch.setattr("vintix_fast.improve.operators.Critic", RippledCritic)
    history = make_history([200])
    improver = CriticImprover(ImproveConfig(smoothing=smoothing, smoothing_pairs=64, gradient_steps=1))
    (targets,) = improver.targets([history], [history], 0, silent)
    moved = targets.action - history.extras["mean_action"]
    assert np.abs(moved).mean(axis=0).argmax() == follows
    (again,) = improver.targets([history], [history], 0, silent)
    np.testing.assert_array_equal(targets.action, again.action)


def test_an_action_is_not_blamed_for_the_situation_that_it_was_chosen_in():
    """A hidden load makes rewards low, and the policy, who knows it from its context, then moves joint 0 outwards.

    Moving it outwards helps a little, and exploration shows so; but whoever moves it outwards most is paid least.
    """
    rng = np.random.default_rng(0)
    load = rng.normal(0.0, 1.0, 4000).astype(np.float32)
    meant = np.zeros((4000, ACTIONS), np.float32)
    meant[:, 0] = load
    action = meant + rng.normal(0.0, 0.1, (4000, ACTIONS)).astype(np.float32)
    history = history_of(
        [0] * 4000, terminated=range(4000), observation=rng.normal(0.0, 0.3, (4000, OBSERVATIONS)), action=action,
        mean_action=meant, reward=0.02 * (action[:, 0] - 3.0 * load),
    )  # fmt: skip
    assert np.corrcoef(action[:, 0], history.reward)[0, 1] < -0.9
    improver = climber(step=0.2, gradient_steps=1)
    (targets,) = improver.targets([history], [history], 0, silent)
    moved = (targets.action - meant)[:, 0]
    assert (moved > 0).mean() > 0.95, moved.mean()


def test_several_small_steps_go_no_farther_than_the_step():
    history = tries([0] * 300, terminated=range(300))
    improver = climber(step=0.2, gradient_steps=4)
    (targets,) = improver.targets([history], [history], 0, silent)
    far = np.sqrt(((targets.action - history.extras["mean_action"]) ** 2).mean(axis=1))
    assert far.max() <= 2 * 0.2 * (1 + 1e-4) and 0.1 < np.median(far) < 0.25


def test_falling_is_avoided_although_it_pays_the_same():
    """Whoever moves joint 0 outwards falls at once; the reward is the same for everybody."""
    rng = np.random.default_rng(0)
    step_num, fell, action = [], [], rng.normal(0.0, 0.5, (3000, ACTIONS)).astype(np.float32)
    step = 0
    for row in range(3000):
        step_num.append(step)
        falls = action[row, 0] > 0.3
        fell += [row] if falls else []
        step = 0 if falls else step + 1
    history = history_of(
        step_num, terminated=fell, observation=rng.normal(0.0, 0.3, (3000, OBSERVATIONS)), action=action,
        mean_action=np.zeros((3000, ACTIONS)), reward=np.full(3000, 0.02),
    )  # fmt: skip
    improver = climber(step=0.2, gradient_steps=1)
    (targets,) = improver.targets([history], [history], 0, silent)
    moved = targets.action.mean(axis=0)
    assert moved[0] < -0.2 and np.abs(moved[1:]).max() < 0.5 * abs(moved[0]), moved


def test_one_target_for_each_step_of_each_history():
    histories = [make_history([30, 10], seed=s) for s in range(3)]
    improver = CriticImprover(ImproveConfig(critic=CriticConfig(updates=5, batch_size=32, hidden=8)))
    targets = improver.targets(histories[1:], histories, 0, silent)
    assert [t.action.shape for t in targets] == [(40, ACTIONS)] * 2 and [t.weight.shape for t in targets] == [(40,)] * 2
    for t in targets:
        assert t.action.dtype == t.weight.dtype == np.float32
        assert np.isfinite(t.action).all() and (t.weight >= 0).all() and t.weight.any()
    assert np.isfinite(improver.metrics()["critic_loss"])


@pytest.mark.parametrize(("steps", "updates"), [(40, 20), (80, 20), (120, 30), (160, 40), (4000, 40)])
def test_few_steps_get_fewer_updates_but_half_of_them_at_least(steps, updates):
    history = make_history([steps], seed=1)
    config = CriticConfig(updates=40, steps_for_all=160, batch_size=32, hidden=8)
    told = []
    CriticImprover(ImproveConfig(critic=config)).targets(
        [history], [history], 0, lambda update, loss: told.append(update)
    )
    assert told[-1] == updates // 20 * 20  # each twentieth is told
    assert config.updates_for(steps) == updates


def test_an_observation_that_never_varies_does_no_harm():
    history = tries([0] * 300, terminated=range(300))
    history.observation[:, 6:9] = (1.0, 0.0, 0.0)
    improver = climber(step=0.2, gradient_steps=1)
    (targets,) = improver.targets([history], [history], 0, silent)
    assert np.isfinite(targets.action).all()
    assert (targets.action @ BEST > 0).mean() > 0.9


def test_a_seed_decides_the_targets():
    history = make_history([30, 10])

    def run(seed):
        improver = CriticImprover(ImproveConfig(critic=CriticConfig(updates=10, batch_size=32, hidden=8)))
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
        CriticImprover(ImproveConfig(critic=CriticConfig(updates=200, hidden=8))).targets([history], [history], 0, stop)


# -- the step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_the_step_shrinks_from_loop_to_loop_and_more_where_not_all_was_kept(kept):
    improver = CriticImprover(ImproveConfig(step=0.4, step_anneal=0.75, step_decay=0.25))
    improver.learn_of(1.0)
    assert improver.step == pytest.approx(0.3)
    improver.learn_of(kept)
    assert improver.step == pytest.approx(0.075)


def test_while_the_robot_does_not_walk_the_step_comes_back_to_the_first_one():
    improver = CriticImprover(ImproveConfig(step=0.4, step_anneal=0.5, step_decay=0.2))
    improver.learn_of(1.0, walks=False)
    assert improver.step == 0.4  # and never beyond it
    improver.learn_of(0.0, walks=False)
    assert improver.step == pytest.approx(0.08)
    improver.learn_of(1.0, walks=False)
    assert improver.step == pytest.approx(0.16)


def test_a_resumed_run_has_the_same_step():
    improver = CriticImprover(ImproveConfig(step=0.4))
    improver.learn_of(0.0)
    resumed = CriticImprover(ImproveConfig(step=0.4))
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


def test_the_options_name_every_operator():
    assert tuple(OPERATORS) == IMPROVERS
