"""A new group copies its reference in the new robot's joint directions, and trains without touching anything else."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, tiny_model

from vintix_fast.model import (
    ContextCache,
    Vintix,
    add_group,
    fingerprint,
    freeze_all_but_group,
    load_checkpoint,
    move_posture,
    save_checkpoint,
)
from vintix_fast.service.errors import UsageError
from vintix_fast.world.joint_map import JointMap
from vintix_fast.world.layout import QUADRUPED, ObservationLayout

BUNDLED = Path(__file__).parents[2] / "vintix_fast/checkpoints/without-minicheetah"
REFERENCE = "go2_walking_ad"
# Hips alike, thighs and calves the other way: asymmetric enough that a misplaced sign shows.
SIGN = np.array([1, -1, -1] * 3 + [-1, 1, -1], dtype=np.float32)
TURNED = JointMap.of_signs(SIGN)


@pytest.fixture
def model():
    return load_checkpoint(BUNDLED)


def make_inputs(steps=40):
    rng = np.random.default_rng(3)
    observation = rng.normal(size=(steps, OBSERVATIONS)).astype(np.float32)
    action = rng.normal(size=(steps, ACTIONS)).astype(np.float32)
    return observation, action, rng.normal(size=steps).astype(np.float32), np.arange(steps) % 15


@pytest.mark.parametrize("norms", [{}, {"norm_acs": True}, {"norm_obs": False}], ids=str)
def test_turned_joints_give_turned_actions(model, norms):
    turned = Vintix(dataclasses.replace(model.config, **norms), model.tasks)
    turned.load_state_dict(model.state_dict())
    add_group(turned, "new_walking_ad", "new_locomotion", REFERENCE, TURNED)
    observation, action, reward, step = make_inputs()
    mirrored = observation.copy()
    mirrored[:, QUADRUPED.joint_pos] *= SIGN
    mirrored[:, QUADRUPED.joint_vel] *= SIGN
    expected = turned.predict_actions(observation, action, reward, step, task_name=REFERENCE)
    actual = turned.predict_actions(mirrored, SIGN * action, reward, step, task_name="new_walking_ad")
    np.testing.assert_allclose(actual, SIGN * expected, atol=1e-5, rtol=0)
    assert np.abs(actual - expected).max() > 0.1


@pytest.mark.parametrize("norms", [{}, {"norm_acs": True}, {"norm_obs": False}], ids=str)
@pytest.mark.parametrize("per_leg", [3, 2])
def test_a_linear_map_gives_mapped_actions(model, norms, per_leg):
    """new(A o, M a) = M reference(o, a), for observations that the target can have where it has fewer joints."""
    mapped = Vintix(dataclasses.replace(model.config, **norms), model.tasks)
    mapped.load_state_dict(model.state_dict())
    leg = np.random.default_rng(5).normal(size=(per_leg, 3)) + 2.0 * np.eye(3)[3 - per_leg :]
    joints = JointMap(np.kron(np.eye(4), leg), np.kron(np.eye(4), np.linalg.pinv(leg)))
    add_group(mapped, "new_walking_ad", "new_locomotion", REFERENCE, joints)
    mapped.double()
    observation, action, reward, step = (torch.as_tensor(x)[None] for x in make_inputs())
    observation, action, reward = observation.double(), action.double(), reward.double()
    extended = ObservationLayout.extended
    matrices = joints.to_target, extended(joints.to_target), joints.to_reference, extended(joints.to_reference)
    to_target, seen, to_reference, seen_back = (torch.as_tensor(m).T for m in matrices)
    expected = mapped(REFERENCE, observation @ seen @ seen_back, action @ to_target @ to_reference, reward, step)
    actual = mapped("new_walking_ad", observation @ seen, action @ to_target, reward, step)
    # Only the rounding of the mapped weights, which stay float32 numbers, is left.
    torch.testing.assert_close(actual, expected @ to_target, atol=5e-6, rtol=0)


def test_without_signs_it_is_a_plain_copy(model):
    add_group(model, "new_walking_ad", "new_locomotion", REFERENCE)
    inputs = make_inputs()
    actions = [model.predict_actions(*inputs, task_name=name) for name in (REFERENCE, "new_walking_ad")]
    np.testing.assert_array_equal(*actions)
    assert model.groups == ("go1_locomotion", "go2_locomotion", "a1_locomotion", "new_locomotion")


def test_the_new_task_survives_a_checkpoint(model, tmp_path):
    add_group(model, "new_walking_ad", "new_locomotion", REFERENCE, TURNED)
    save_checkpoint(model, tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved")
    inputs = make_inputs()
    np.testing.assert_array_equal(
        again.predict_actions(*inputs, task_name="new_walking_ad"),
        model.predict_actions(*inputs, task_name="new_walking_ad"),
    )


def test_training_changes_the_new_group_and_nothing_else(model):
    before_adding = fingerprint(model, "go1_locomotion")
    add_group(model, "new_walking_ad", "new_locomotion", REFERENCE, TURNED)
    with_reference = fingerprint(model, "new_locomotion")
    start = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = freeze_all_but_group(model, "new_locomotion")
    assert sum(parameter.numel() for parameter in trainable) == 21_082 + 18_415 + 4 + 200_460
    # Weight decay would move a frozen tensor if the optimiser got it.
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)
    model.train()
    batch = [torch.as_tensor(x)[None] for x in make_inputs()]
    model("new_walking_ad", *batch).square().mean().backward()
    optimiser.step()
    assert fingerprint(model, "new_locomotion") == with_reference
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert changed == {name for name, _ in model.group_parameters("new_locomotion")}
    assert fingerprint(model, "go1_locomotion") != before_adding


def test_a_fingerprint_sees_one_changed_bit(model):
    before = fingerprint(model, "go1_locomotion")
    with torch.no_grad():
        weight = model.encoder.obs_encoders["go1_locomotion"].layers[0].weight
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
        assert fingerprint(model, "go1_locomotion") == before
        padding = model.encoder.prev_rew_padding
        padding[0, 0] = torch.nextafter(padding[0, 0], torch.tensor(9.0))
    assert fingerprint(model, "go1_locomotion") != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("n", "g", "a1_walking_ad", TURNED), "unknown reference task 'a1_walking_ad'.*go1_walking_ad, go2_walking_ad"),
        ((REFERENCE, "g", REFERENCE, TURNED), "already has a task"),
        (("n", "go1_locomotion", REFERENCE, TURNED), "already has a group"),
        (("n", "g", REFERENCE, JointMap.of_signs(SIGN[:8])), "from 8 joints.*has 12"),
    ],
)
def test_misuse_is_refused_and_changes_nothing(model, arguments, message):
    with pytest.raises(UsageError, match=message):
        add_group(model, *arguments)
    assert model.groups == ("go1_locomotion", "go2_locomotion", "a1_locomotion") and len(model.tasks) == 3


def test_freezing_for_an_unknown_group_names_those_there_are(model):
    with pytest.raises(UsageError, match="go1_locomotion, go2_locomotion, a1_locomotion"):
        freeze_all_but_group(model, "minicheetah_locomotion")
    assert all(parameter.requires_grad for parameter in model.parameters())


# -- acting around another pose ----------------------------------------------------------------------------------------

B = np.linspace(-2.0, 2.0, ACTIONS)
"""An offset of actions; that of positions is another one, so that the two cannot be taken for each other."""
P = np.linspace(0.3, -0.5, ACTIONS) ** 2


def normalising(**norms):
    """A model whose statistics of actions are not 0 and 1."""
    model = tiny_model(**norms)
    info = model.tasks[REFERENCE]
    statistics = {"acs_mean": tuple(np.linspace(-0.4, 0.4, ACTIONS)), "acs_std": tuple(np.linspace(0.5, 2.0, ACTIONS))}
    model.set_task_info(REFERENCE, dataclasses.replace(info, **statistics))
    return model


def chain(model, observation_offset, action_offset):
    """Actions [T, A] of steps that each see the last one's action, and what is observed beside it."""
    observation, _, reward, step_num = (torch.as_tensor(x) for x in make_inputs(30))
    observation[:, QUADRUPED.command] = torch.tensor((1.0, 0.0, 0.0))  # has no standard deviation to be divided by
    observation[:, QUADRUPED.joint_pos] += torch.as_tensor(observation_offset, dtype=torch.float32)
    cache, acted = ContextCache(model.config, 1), [torch.as_tensor(action_offset, dtype=torch.float32)[None]]
    for t in range(30):
        acted.append(
            model.decode(REFERENCE, observation[t : t + 1], acted[-1], reward[t : t + 1], step_num[t : t + 1], cache)
        )
    return torch.cat(acted[1:]).numpy()


@pytest.mark.parametrize("norm_obs", [True, False])
@pytest.mark.parametrize("norm_acs", [True, False])
def test_a_moved_adapter_acts_as_before_around_another_pose(norm_obs, norm_acs, tmp_path):
    model = normalising(norm_obs=norm_obs, norm_acs=norm_acs)
    before = chain(model, 0.0, np.zeros(ACTIONS))
    move_posture(model, REFERENCE, B, P)
    after = chain(model, P, B)
    np.testing.assert_allclose(after, before + B, atol=1e-5, rtol=0)
    assert np.abs(chain(model, 0.0, np.zeros(ACTIONS)) - before - B).max() > 1e-2, (
        "it sees the pose that it acts around"
    )
    save_checkpoint(model, tmp_path / "saved")
    np.testing.assert_array_equal(chain(load_checkpoint(tmp_path / "saved"), P, B), after)


def test_moving_a_pose_changes_no_other_robot():
    model = normalising(norm_obs=False)
    others, before = fingerprint(model, "go2_locomotion"), model.tasks["go1_walking_ad"]
    move_posture(model, REFERENCE, B, P)
    assert fingerprint(model, "go2_locomotion") == others and model.tasks["go1_walking_ad"] == before


@pytest.mark.parametrize("norms", [{}, {"norm_obs": False, "norm_acs": True}], ids=str)
def test_the_pose_of_a_shared_group_is_not_moved(norms):
    model = tiny_model({REFERENCE: "shared", "go1_walking_ad": "shared"}, **norms)
    tensors, tasks = {name: value.clone() for name, value in model.state_dict().items()}, dict(model.tasks)
    with pytest.raises(UsageError, match="group shared is shared with go1_walking_ad, which would move too"):
        move_posture(model, REFERENCE, B, P)
    assert model.tasks == tasks
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
