"""What the target robot's group starts from."""

import json

import numpy as np
import pytest
import torch
from fakes import OBSERVATIONS, FakeSimulator, make_history, tiny_model

from vintix_fast.model import load_checkpoint, save_checkpoint
from vintix_fast.model.new_group import add_target
from vintix_fast.service.bundled import BUILTIN_CHECKPOINT
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task import WalkingTask

TURNED = np.array([1, -1, -1] * 4, np.float32)
"""Mini Cheetah's thighs and calves turn the other way than Unitree's, its hips the same way."""


def initial(model, robot="minicheetah", reference="go2", **options):
    """The task's name and what was said."""
    said = []
    name = add_target(model, load_robot(robot), load_robot(reference), said.append, **options)
    return name, " ".join(said)


def actions(model, task, sign=None):
    """What the model does along a fixed history, whose joints may be turned."""
    h = make_history([12, 8], seed=4)
    observation, action = h.observation.copy(), h.action.copy()
    if sign is not None:
        observation[:, QUADRUPED.joint_pos] *= sign
        observation[:, QUADRUPED.joint_vel] *= sign
        action *= sign
    prev_action, prev_reward = np.roll(action, 1, axis=0), np.roll(h.reward, 1)
    return model.predict_actions(observation, prev_action, prev_reward, h.step_num, task_name=task)


def tensors(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# -- a robot that the checkpoint has never seen ------------------------------------------------------------------------


def test_turned_joints_get_a_turned_copy(tiny):
    old = actions(tiny, "go2_walking_ad")
    name, said = initial(tiny)
    assert name == "minicheetah_walking_ad" and tiny.tasks[name].group_name == "minicheetah_locomotion"
    new = actions(tiny, name, sign=TURNED)
    np.testing.assert_allclose(new, TURNED * old, atol=1e-5, rtol=0)
    assert np.abs(new - old).max() > 0.1
    assert "go2_locomotion" in said and "8 of 12 joints" in said


def test_without_conversion_it_is_the_plain_copy(tiny):
    old = actions(tiny, "go2_walking_ad")
    name, said = initial(tiny, init_map="none")
    np.testing.assert_array_equal(actions(tiny, name), old)
    assert "turned" not in said


def test_a_robot_whose_joints_turn_alike_gets_the_plain_copy(tiny):
    name, said = initial(tiny, robot="a1", reference="go1")
    assert name == "a1_walking_ad" and tiny.tasks[name].group_name == "a1_locomotion"
    np.testing.assert_array_equal(actions(tiny, name), actions(tiny, "go1_walking_ad"))
    assert "go1_locomotion" in said and "turned" not in said


def test_everything_else_stays_as_it_was(tiny):
    before = tensors(tiny)
    initial(tiny)
    after = tensors(tiny)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(".minicheetah_locomotion." in name for name in after.keys() - before.keys())


def test_a_missing_reference_is_an_error_that_names_the_groups_there_are(tiny):
    before = tensors(tiny).keys()
    with pytest.raises(InputFileError, match="reference robot a1.*go2_locomotion, go1_locomotion.*--reference-robot"):
        initial(tiny, reference="a1")
    assert tensors(tiny).keys() == before


def test_the_only_shared_group_serves_as_any_reference():
    model = tiny_model({"some_walking": "quadruped_locomotion"})
    name, said = initial(model, reference="a1")
    np.testing.assert_allclose(
        actions(model, name, sign=TURNED), TURNED * actions(model, "some_walking"), atol=1e-5, rtol=0
    )
    assert model.groups == ("quadruped_locomotion", "minicheetah_locomotion") and "quadruped_locomotion" in said


def test_a_reference_group_under_another_tasks_name_is_found():
    model = tiny_model({"go2_running": "go2_locomotion", "go1_walking_ad": "go1_locomotion"})
    name, _ = initial(model, init_map="none")
    np.testing.assert_array_equal(actions(model, name), actions(model, "go2_running"))


def test_another_kind_of_task_is_refused(tiny_checkpoint, tmp_path):
    metadata = json.loads((tiny_checkpoint / "metadata.json").read_text())
    model = tiny_model()
    model.tasks["go2_walking_ad"] = type(model.tasks["go2_walking_ad"]).from_dict(
        metadata["go2_walking_ad"]
        | {"observation_shape": {"proprio": [45]}, "obs_mean": [0.0] * 45, "obs_std": [1.0] * 45}
    )
    with pytest.raises(InputFileError, match="go2_walking_ad.* 45 observations.* 33"):
        initial(model)


# -- a robot that the checkpoint knows ---------------------------------------------------------------------------------


def test_a_robots_own_group_is_gone_on_from(tiny):
    before = tensors(tiny)
    name, said = initial(tiny, robot="go1")
    assert name == "go1_walking_ad" and tensors(tiny).keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in tensors(tiny).items())
    assert "go1_locomotion" in said and "--reinitialize" in said


def test_reinitializing_copies_the_reference_instead(tiny):
    before = actions(tiny, "go1_walking_ad")
    name, _ = initial(tiny, robot="go1", reinitialize=True)
    assert name == "go1_walking_ad" and set(tiny.groups) == {"go1_locomotion", "go2_locomotion"}
    np.testing.assert_array_equal(actions(tiny, name), actions(tiny, "go2_walking_ad"))
    assert np.abs(actions(tiny, name) - before).max() > 1e-2
    assert tiny.tasks[name].obs_mean == tiny.tasks["go2_walking_ad"].obs_mean


def test_reinitializing_from_itself_is_refused(tiny):
    with pytest.raises(UsageError, match="--reference-robot is go2 itself"):
        initial(tiny, robot="go2", reinitialize=True)


@pytest.mark.parametrize("shared", ["quadruped_locomotion", "go1_locomotion"])
def test_a_robot_leaves_a_shared_group_with_a_copy_of_it(shared, tmp_path):
    model = tiny_model({"go2_walking_ad": shared, "go1_walking_ad": shared})
    before = tensors(model)
    old = {task: actions(model, task) for task in model.tasks}
    name, said = initial(model, robot="go1")
    assert name == "go1_walking_ad" and set(model.tasks) == {"go1_walking_ad", "go2_walking_ad"}
    own = model.tasks[name].group_name
    assert own != shared == model.tasks["go2_walking_ad"].group_name and shared in said
    assert all(torch.equal(tensors(model)[key], value) for key, value in before.items())
    save_checkpoint(model, tmp_path / "saved")
    saved = load_checkpoint(tmp_path / "saved")
    for task, acted in old.items():
        np.testing.assert_array_equal(actions(saved, task), acted)
    # What is trained from now on is go1's alone.
    with torch.no_grad():
        for _, parameter in saved.group_parameters(own):
            parameter.add_(0.1)
    np.testing.assert_array_equal(actions(saved, "go2_walking_ad"), old["go2_walking_ad"])
    assert np.abs(actions(saved, "go1_walking_ad") - old["go1_walking_ad"]).max() > 1e-2


def test_reinitializing_out_of_a_shared_group_copies_the_reference():
    model = tiny_model({"go1_walking_ad": "go1_locomotion", "go2_walking_ad": "x", "a1_walking_ad": "x"})
    name, _ = initial(model, robot="a1", reference="go1", reinitialize=True)
    np.testing.assert_array_equal(actions(model, name), actions(model, "go1_walking_ad"))
    assert model.tasks[name].group_name != "x" == model.tasks["go2_walking_ad"].group_name


# -- statistics --------------------------------------------------------------------------------------------------------


def test_statistics_are_the_references_in_the_new_joints_directions(tiny):
    name, _ = initial(tiny)
    reference, info = tiny.tasks["go2_walking_ad"], tiny.tasks[name]
    both = np.concatenate([np.ones(9), TURNED, TURNED])
    np.testing.assert_allclose(info.obs_mean, both * reference.obs_mean)
    assert info.obs_std == reference.obs_std and info.acs_std == reference.acs_std
    np.testing.assert_allclose(info.acs_mean, TURNED * reference.acs_mean)


@pytest.mark.parametrize("robot", ["go1", "go2", "a1", "minicheetah"])
def test_a_standing_robot_is_nothing_unusual_to_the_bundled_encoder(robot):
    """The command never varied: divided by its deviation, the rounding of another robot's mean would explode."""
    model = load_checkpoint(BUILTIN_CHECKPOINT)
    task = WalkingTask(FakeSimulator(load_robot(robot), 50), load_robot(robot))
    observation = task.reset(seed=0, random_starts=True)
    name, _ = initial(model, robot=robot)
    info = model.tasks[name]
    normalised = (observation.numpy() - info.obs_mean) / (np.array(info.obs_std) + 1e-6)
    assert np.abs(normalised).max() < 10
    assert np.abs(normalised[:, 6:9]).max() == 0.0


def write_stats(path, mean=0.0, std=1.0, **changes):
    path.write_text(json.dumps({"obs_mean": [mean] * OBSERVATIONS, "obs_std": [std] * OBSERVATIONS} | changes))
    return path


@pytest.mark.parametrize("robot", ["minicheetah", "go1"], ids=["new group", "group there already"])
def test_given_statistics_are_used(tiny, tmp_path, robot):
    path = write_stats(tmp_path / "stats.json", mean=0.25, std=0.5)
    reference = tiny.tasks["go2_walking_ad"]
    name, _ = initial(tiny, robot=robot, obs_stats=path)
    assert tiny.tasks[name].obs_mean == (0.25,) * OBSERVATIONS and tiny.tasks[name].obs_std == (0.5,) * OBSERVATIONS
    assert tiny.tasks["go2_walking_ad"] == reference
    # The model computes with them: as if these were the observations of a robot with statistics 0 and 1.
    h = make_history([10])
    shifted = 0.25 + h.observation * (0.5 + 1e-6)
    acted = tiny.predict_actions(shifted, h.action, h.reward, h.step_num, task_name=name)
    plain = write_stats(tmp_path / "plain.json", mean=0.0, std=1.0 - 1e-6)
    again = tiny_model()
    initial(again, robot=robot, obs_stats=plain)
    expected = again.predict_actions(h.observation, h.action, h.reward, h.step_num, task_name=name)
    np.testing.assert_allclose(acted, expected, atol=1e-4)


@pytest.mark.parametrize("std", [0.0, 1e-6, 9e-4])
def test_statistics_that_would_explode_are_refused_with_their_values(tiny, tmp_path, std):
    path = write_stats(tmp_path / "stats.json", obs_std=[1.0] * 7 + [std] + [1.0] * 25)
    with pytest.raises(InputFileError) as error:
        initial(tiny, obs_stats=path)
    assert f"obs_std[7] is {std}" in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("obs_mean: 0", "JSON object with obs_mean and obs_std"),
        ("[1, 2]", "JSON object with obs_mean and obs_std"),
        (json.dumps({"obs_mean": [0.0] * OBSERVATIONS}), "obs_std"),
        (json.dumps({"obs_mean": [0.0] * 32, "obs_std": [1.0] * OBSERVATIONS}), "obs_mean has 32 entries, expected 33"),
        (
            json.dumps({"obs_mean": [0.0] * OBSERVATIONS, "obs_std": [1.0] * (OBSERVATIONS - 1) + [-1.0]}),
            r"obs_std\[32\].*-1\.0",
        ),
        (
            json.dumps({"obs_mean": [0.0] * OBSERVATIONS, "obs_std": [float("nan")] * OBSERVATIONS}),
            r"obs_std\[0\].*nan",
        ),
        (json.dumps({"obs_mean": 0.0, "obs_std": 1.0}), "33 numbers each"),
        (b"\xff\xfe\x00", "JSON object"),
    ],
)
def test_broken_statistics_are_refused(tiny, tmp_path, content, words):
    path = tmp_path / "stats.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputFileError, match=words) as error:
        initial(tiny, obs_stats=path)
    assert "--obs-stats" in str(error.value) and str(path) in str(error.value)
