"""Adapting a group that several robots use: with all of them, or, unless it is asked for, a copy that changes none."""

from pathlib import Path

import numpy as np
import pytest
from fakes import Listener, tiny_model
from runs import read_state, run_small, small_config

from vintix_fast.config import AdaptConfig
from vintix_fast.model import load_checkpoint
from vintix_fast.model.new_group import add_target
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.robot import load_robot

ADDED = Path(__file__).parent / "golden" / "vintix_tiny_add_task"
SHARED, GO2, MINICHEETAH = "quadruped_locomotion", "go2_walking_ad", "minicheetah_walking_ad"


@pytest.fixture(autouse=True)
def plots_are_empty(monkeypatch):
    """Half of a small run's time is its plot; test_adapt.py makes a real one."""
    monkeypatch.setattr("vintix_fast.adaptation.write_curve", lambda path, rows: path.touch())


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()}


# -- whole runs --------------------------------------------------------------------------------------------------------


def test_only_the_shared_decoder_changes_where_the_decoder_is_trained(tmp_path):
    listener = Listener()
    run_small(tmp_path / "run", ADDED, group="shared", train="decoder", num_improvement_loops=1, progress=listener)
    before, after = read_state(ADDED), read_state(tmp_path / "run/models/loop_01")
    assert before.keys() == after.keys()
    assert changed(before, after) == {name for name in before if name.startswith(f"head.acs_decoders.{SHARED}.")}
    old, new = load_checkpoint(ADDED), load_checkpoint(tmp_path / "run/models/loop_01")
    assert new.tasks == old.tasks and new.groups == (SHARED,)
    (said,) = [text for text in listener.said if text.startswith("Adapting the group")]
    assert SHARED in said and MINICHEETAH in said and f"{GO2} share it and change too" in said
    assert "--group own changes nobody" in said


def test_the_whole_shared_group_changes_where_the_adapter_is_trained(tmp_path):
    run_small(tmp_path / "run", ADDED, group="shared", num_improvement_loops=1)
    before, after = read_state(ADDED), read_state(tmp_path / "run/models/loop_01")
    assert changed(before, after) == {name for name in before if f".{SHARED}." in name}


def test_unless_it_is_asked_for_no_other_robot_changes(tmp_path):
    run_small(tmp_path / "run", ADDED, train="decoder", num_improvement_loops=1)
    before, after = read_state(ADDED), read_state(tmp_path / "run/models/loop_01")
    assert changed(before, after) == set()
    model = load_checkpoint(tmp_path / "run/models/loop_01")
    assert model.tasks[GO2] == load_checkpoint(ADDED).tasks[GO2]
    assert model.tasks[MINICHEETAH].group_name == "minicheetah_locomotion"


def test_a_shared_group_is_never_reinitialised(tmp_path):
    with pytest.raises(UsageError, match="--reinitialize has no effect with --group shared; leave one of the two out"):
        small_config(tmp_path / "run", ADDED, group="shared", reinitialize=True)
    assert AdaptConfig("go2", "out").group == "own"


# -- a robot that the checkpoint does not know -------------------------------------------------------------------------


def joined(model, robot, reference="go2", **options):
    """The task of a robot that joined a group of ``model``, and what was said."""
    said = []
    name = add_target(model, load_robot(robot), load_robot(reference), said.append, group="shared", **options)
    return name, " ".join(said)


def tensors(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_new_robot_joins_the_reference_robots_group_and_changes_no_tensor():
    model = load_checkpoint(ADDED)
    before = tensors(model)
    name, said = joined(model, "a1")
    assert name == "a1_walking_ad" and list(model.tasks) == [GO2, MINICHEETAH, name]
    assert model.tasks[name] == model.tasks[GO2]
    after = tensors(model)
    assert before.keys() == after.keys() and changed(before, after) == set()
    assert f"{GO2}, {MINICHEETAH} share it and change too" in said and "turn the other way" not in said


def test_a_new_robot_whose_joints_turn_the_other_way_is_told_that_a_shared_group_stays_as_it_is():
    model = tiny_model()
    name, said = joined(model, "minicheetah")
    assert name == MINICHEETAH and model.tasks[name].group_name == "go2_locomotion"
    assert "8 of minicheetah's joints turn the other way than go2's" in said and "--group own can" in said
    assert "go2_walking_ad share it" in said and "go1" not in said


def test_a_group_of_the_robots_own_is_gone_on_from():
    model = tiny_model()
    before = tensors(model)
    name, said = joined(model, "go1")
    assert name == "go1_walking_ad" and changed(before, tensors(model)) == set()
    assert "Adapting the group go1_locomotion for go1_walking_ad: no other has it" in said


def test_there_must_be_a_group_to_join():
    model = tiny_model()
    with pytest.raises(InputFileError, match="no group for the reference robot a1"):
        joined(model, "minicheetah", reference="a1")
    assert list(model.tasks) == ["go2_walking_ad", "go1_walking_ad"]


def test_both_tasks_of_a_shared_group_act_through_what_was_trained(tmp_path):
    run_small(tmp_path / "run", ADDED, group="shared", train="decoder", num_improvement_loops=1)
    data = np.load(ADDED / "io.npz")
    model = load_checkpoint(tmp_path / "run/models/loop_01")
    for task in (GO2, MINICHEETAH):
        inputs = [data[f"{task}/{key}"] for key in ("observation", "prev_action", "prev_reward", "step_num")]
        moved = np.abs(model.predict_actions(*inputs, task_name=task) - data[f"{task}/predicted_action"])
        assert moved.max() > 1e-3, task
