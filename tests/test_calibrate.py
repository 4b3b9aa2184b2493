"""--num-envs auto: as many environments as pay, found by trying, and the same in a resumed run."""

import importlib
import json

import pytest
from fakes import FakeSimulator
from runs import small_config

from vintix_fast import calibrate
from vintix_fast.errors import UsageError
from vintix_fast.robots import load_robot

GO2 = load_robot("go2")
adapt_module = importlib.import_module("vintix_fast.adapt")
STEPS_PER_S = {2: 1000.0, 3: 1000.0, 4: 1500.0, 8: 1640.0, 16: 9000.0}
"""By number of environments: 8 are no tenth faster than 4."""


@pytest.fixture
def tried(monkeypatch):
    """Makes simulators as fast as ``STEPS_PER_S`` says; the numbers of environments of those that were timed."""
    numbers = []

    def steps_per_s(simulator):
        numbers.append(simulator.num_envs)
        return STEPS_PER_S[simulator.num_envs]

    monkeypatch.setattr(calibrate, "steps_per_s", steps_per_s)
    return numbers


@pytest.mark.parametrize(
    ("most", "chosen", "trials"), [(16, 4, [2, 4, 8]), (4, 4, [2, 4]), (3, 2, [2, 3]), (2, 2, []), (1, 2, [])]
)
def test_more_environments_are_taken_as_long_as_they_are_a_tenth_faster(tried, most, chosen, trials):
    said = []
    first = FakeSimulator(GO2, 2)
    simulator = calibrate.fastest(first, lambda num_envs: FakeSimulator(GO2, num_envs), most, said.append)
    assert (simulator.num_envs, tried) == (chosen, trials)
    assert simulator is first or chosen > 2
    assert len(said) == bool(trials) and all(f"--num-envs {chosen} takes" in line for line in said)


def test_a_trial_counts_environment_steps_and_leaves_the_scene_as_it_was(monkeypatch):
    monkeypatch.setattr(calibrate, "TRIAL_S", 0.01)
    simulator = FakeSimulator(GO2, 3)
    resets = simulator.resets
    rate = calibrate.steps_per_s(simulator)
    assert simulator.resets == resets + 1 and simulator.steps == 0
    moved = [target for target in simulator.targets if (target != simulator.default).any()]
    assert len(moved) == len(simulator.targets) > 0
    assert 0 < rate <= 3 * len(moved) / 0.01


@pytest.fixture
def auto(monkeypatch, tmp_path, tiny_checkpoint):
    """Adapts without --num-envs, beginning with 2 environments of at most 10; tells which scenes were built."""

    def run(**options):
        built = []

        def build(robot, num_envs, *args):
            built.append(num_envs)
            return FakeSimulator(robot, num_envs, *args)

        monkeypatch.setattr(calibrate, "Simulator", build)
        options = {"num_envs": None, "episodes_per_loop": 20, "num_improvement_loops": 1} | options
        adapt_module.adapt(small_config(tmp_path / "run", tiny_checkpoint, **options))
        return built

    monkeypatch.setattr("vintix_fast.config.ENVS_ON_A_CPU", 2)
    return run


def test_a_run_records_what_was_found_and_a_resumed_one_does_not_look_again(auto, tried, tmp_path):
    def recorded():
        return json.loads((tmp_path / "run" / "config.json").read_text())["options"]["num_envs"]

    assert (auto(), recorded(), tried) == ([2, 4, 8], 4, [2, 4, 8])
    assert (auto(resume=True, num_improvement_loops=2), recorded(), tried) == ([4], 4, [2, 4, 8])
    with pytest.raises(UsageError, match="--num-envs was 4, now 2"):
        auto(resume=True, num_envs=2)


def test_memory_limits_what_is_tried(auto, tried, monkeypatch):
    monkeypatch.setattr(adapt_module, "check_memory", lambda *args: 4)
    assert auto() == [2, 4]


@pytest.mark.parametrize("why", ["a number was given", "every scene compiles its kernels"])
def test_nothing_is_tried_where_there_is_nothing_to_choose(auto, tried, monkeypatch, why):
    monkeypatch.setattr(FakeSimulator, "compiles_each_scene", why.startswith("every"))
    assert auto(**({"num_envs": 3} if why.startswith("a") else {})) == [3 if why.startswith("a") else 2]
    assert tried == []
