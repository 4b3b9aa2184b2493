"""The study's own operators: what they weigh on problems with known answers, and a loop of adapt with each."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeSimulator
from made_histories import BEST, history_of, tries
from runs import GROUP, read_state, small_config

from vintix_fast.adaptation import adapt
from vintix_fast.config import CriticConfig, ImproveConfig
from vintix_fast.world.robot import load_robot

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
operators = importlib.import_module("adaptation_operators")
AwrImprover, TopKImprover = operators.AwrImprover, operators.TopKImprover
SETTINGS = ImproveConfig(critic=CriticConfig(updates=250, batch_size=128, hidden=32, lr=3e-3))


def operator(kind, **changes):
    made = kind(SETTINGS)
    vars(made).update(changes)
    return made


def silent(step, loss):
    pass


def test_awr_weighs_the_actions_that_paid():
    history = tries([0] * 1500, terminated=range(1500))
    improver = operator(AwrImprover, largest_weight=5.0)
    (targets,) = improver.targets([history], [history], 0, silent)
    np.testing.assert_array_equal(targets.action, history.action)
    nearness = -((history.action - BEST) ** 2).sum(axis=1)
    assert np.corrcoef(np.log(np.maximum(targets.weight, 1e-3)), nearness)[0, 1] > 0.6
    assert targets.weight.max() <= 5.0 and targets.weight.min() >= 0.0
    wanted = (targets.weight[:, None] * targets.action).sum(axis=0) / targets.weight.sum()
    assert wanted @ BEST > 5 * abs(history.action.mean(axis=0) @ BEST)


def test_a_lower_temperature_imitates_fewer_steps():
    history = tries([0] * 300, terminated=range(300))

    def share_of_the_best(temperature):
        improver = operator(AwrImprover, temperature=temperature, largest_weight=1e6)
        weight = np.sort(improver.targets([history], [history], 0, silent)[0].weight)
        return weight[-30:].sum() / weight.sum()

    assert share_of_the_best(0.3) > share_of_the_best(1.0) + 0.1


def test_topk_weighs_the_best_episodes_and_nothing_else():
    #                 returns 6, 1, 4 of one environment and 3, 5 of another
    left = history_of([0, 1, 2, 0, 0, 1], terminated=[2, 3], truncated=[5], reward=[1, 2, 3, 1, 2, 2])
    right = history_of([0, 1, 0], terminated=[1], truncated=[2], reward=[1, 2, 5])
    targets = operator(TopKImprover, fraction=0.4).targets([left, right], [left, right], 0, silent)
    assert targets[0].weight.tolist() == [1, 1, 1, 0, 0, 0] and targets[1].weight.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(targets[0].action, left.action)
    one = operator(TopKImprover, fraction=0.01).targets([left, right], [left, right], 0, silent)
    assert sum(t.weight.sum() for t in one) == 3, "at least the best episode"


@pytest.mark.parametrize("name", operators.OPERATORS)
def test_a_loop_of_adapt_trains_the_group_towards_some_steps_more_than_others(
    tmp_path, tiny_checkpoint, monkeypatch, name
):
    weights, module = [], importlib.import_module("vintix_fast.learning")

    class Spy(module.Windows):
        def __init__(self, histories, targets, *rest, **options):
            weights.extend(t.weight for t in targets)
            super().__init__(histories, targets, *rest, **options)

    monkeypatch.setattr(module, "Windows", Spy)
    out = tmp_path / "run"
    config = small_config(out, tiny_checkpoint, num_improvement_loops=1)
    simulator = FakeSimulator(load_robot(config.robot_type), config.envs)
    adapt(config, improver=operators.OPERATORS[name](SETTINGS), simulator=simulator)
    assert len(np.unique(np.concatenate(weights))) > 1
    initial, trained = read_state(out / "models/initial"), read_state(out / "models/loop_01")
    moved = {name for name in initial if not (initial[name] == trained[name]).all()}
    assert moved == {name for name in initial if f".{GROUP}." in name}
