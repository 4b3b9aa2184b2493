"""An improvement operator of the caller's: it takes the options' place, and the weights that it gives steps count."""

import numpy as np
from fakes import FakeSimulator
from runs import read_state, small_config

from vintix_fast.adaptation import adapt
from vintix_fast.data.windows import Targets
from vintix_fast.improve import CloneImprover, Improver
from vintix_fast.world.robot import load_robot


def test_an_operator_of_the_callers_takes_the_place_of_the_options(tmp_path, tiny_checkpoint):
    asked = []

    class Own(CloneImprover):
        def targets(self, histories, replay, seed, on_step):
            asked.append(len(histories))
            return super().targets(histories, replay, seed, on_step)

        def metrics(self):
            return {"asked": len(asked)}

    config = small_config(tmp_path / "run", tiny_checkpoint)
    simulator = FakeSimulator(load_robot(config.robot_type), config.envs)
    rows = adapt(config, improver=Own(), simulator=simulator).rows
    assert [row.get("asked") for row in rows] == [None, 1, 2] and asked == [3, 3]


class Half(Improver):
    """Imitates the first steps of each episode; says ``other`` of those that do not count."""

    def __init__(self, other, weight=0.0):
        self.other, self.weight = other, weight

    def targets(self, histories, replay, seed, on_step):
        made = []
        for h in histories:
            early = h.step_num < 4
            action = np.where(early[:, None], h.action, np.float32(self.other))
            made.append(Targets(action, np.where(early, 1.0, self.weight).astype(np.float32)))
        return made


def test_steps_without_a_weight_teach_nothing(tmp_path, tiny_checkpoint):
    def taught(name, improver):
        config = small_config(tmp_path / name, tiny_checkpoint, num_improvement_loops=1)
        simulator = FakeSimulator(load_robot(config.robot_type), config.envs)
        adapt(config, improver=improver, simulator=simulator)
        return read_state(tmp_path / name / "models/loop_01")

    one, same, another = taught("one", Half(0.0)), taught("same", Half(3.0)), taught("another", Half(3.0, weight=0.5))
    for name, weight in one.items():
        np.testing.assert_array_equal(weight, same[name])
    assert any((weight != another[name]).any() for name, weight in one.items())
