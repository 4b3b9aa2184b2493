"""A robot of one's own begins as a copy of the robot whose adapter does best on it."""

import json
from importlib import metadata
from pathlib import Path

import pytest
from fakes import FakeSimulator, Listener, save_tiny, tiny_model
from runs import read_rows, run_small

from vintix_fast.acting_config import EngineConfig
from vintix_fast.audition import TRIAL_STEPS, candidates, hold_audition
from vintix_fast.config import AdaptConfig
from vintix_fast.eval_config import EvalConfig
from vintix_fast.evaluation import evaluate
from vintix_fast.model import load_checkpoint
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task import WalkingTask

ROBOTS = "cmeel.prefix/share/example-robot-data/robots"
LAIKAGO = (
    Path(str(metadata.distribution("example-robot-data").locate_file(ROBOTS))) / "laikago_description/urdf/laikago.urdf"
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def test_every_robot_of_the_checkpoint_is_tried_through_every_map_that_differs():
    tried = [(reference.name, kind) for reference, kind in candidates(tiny_model(), load_robot(LAIKAGO))]
    # Its axes turn as go2's, so a plain copy is the converted one.
    assert tried == [(name, kind) for name in ("go1", "go2") for kind in ("convert", "kinematic")]


def test_the_best_is_taken_and_all_are_recorded():
    model, robot, said = tiny_model(), load_robot(LAIKAGO), []
    task = WalkingTask(FakeSimulator(robot, 3), robot, 20)
    held = hold_audition(model, task, 32, EngineConfig(), 7, said.append)
    returns = [one.mean_return for one in held.tried]
    assert returns == sorted(returns, reverse=True) and len(set(returns)) == len(returns) == 4
    assert held.env_steps == 4 * 3 * min(20, TRIAL_STEPS)
    assert model.tasks[held.task_name].group_name == "laikago_locomotion"
    assert f"a copy of {held.tried[0].reference}_locomotion" in said[-1]
    # The same adapter does on the robot what its trial did.
    again = hold_audition(tiny_model(), task, 32, EngineConfig(), 7, said.append)
    assert again == held


def test_a_run_on_a_urdf_holds_one_once(tmp_path):
    checkpoint, out = save_tiny(tmp_path / "checkpoint"), tmp_path / "out"
    run_small(out, checkpoint, robot_type=str(LAIKAGO), num_improvement_loops=1)
    record = json.loads((out / "audition.json").read_text())
    assert read_rows(out)[0]["audition_env_steps"] == record["env_steps"] > 0
    assert json.loads((out / "config.json").read_text())["options"]["reference_robot"] == "auto"
    assert load_checkpoint(out / "models/initial").tasks["laikago_walking_ad"].group_name == "laikago_locomotion"
    assert (out / "robot/laikago.toml").is_file()
    listener = Listener()
    run_small(out, checkpoint, robot_type=str(LAIKAGO), resume=True, num_improvement_loops=2, progress=listener)
    assert not any("Audition" in text for text in listener.said) and len(read_rows(out)) == 3


def test_an_evaluation_can_hold_one(tmp_path):
    checkpoint, listener = save_tiny(tmp_path / "checkpoint"), Listener()
    config = EvalConfig(checkpoint, str(LAIKAGO), reference_robot="auto", num_envs=2, max_steps=10)
    evaluate(config, simulator=FakeSimulator(load_robot(LAIKAGO), 2), progress=listener)
    assert sum("return" in text for text in listener.said) >= 4


def test_a_bundled_robot_keeps_the_guides_reference():
    assert AdaptConfig.from_options(robot_type="go1", output_dir=Path("x")).reference_robot == "go2"
    assert AdaptConfig.from_options(robot_type="rex.toml", output_dir=Path("x")).reference_robot == "auto"


@pytest.mark.parametrize("options", [{"init_map": "none"}, {"group": "shared"}])
def test_what_an_audition_decides_is_not_given_beside_it(options):
    with pytest.raises(UsageError, match="--reference-robot auto tries every copy"):
        AdaptConfig.from_options(robot_type="rex.urdf", output_dir=Path("x"), reference_robot="auto", **options)


def test_nor_beside_that_of_an_evaluation():
    with pytest.raises(UsageError, match="--init-map is none, but --reference-robot auto tries every copy"):
        EvalConfig("x", "rex.urdf", reference_robot="auto", init_map="none")


def test_a_checkpoint_without_known_robots_says_so():
    with pytest.raises(InputFileError, match="no robot that laikago could begin as a copy of.*unknown_walking_ad"):
        candidates(tiny_model({"unknown_walking_ad": "unknown"}), load_robot(LAIKAGO))
