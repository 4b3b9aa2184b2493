"""What `vintix-fast export` writes, and what it refuses."""

import json
import struct
import zlib

import numpy as np
import pytest
import torch
from commands import invoke
from exports import TASK, contract_of, replay_rows
from fakes import save_tiny, tiny_model

from vintix_fast.export import export_model
from vintix_fast.export.onnx_step import example_inputs
from vintix_fast.model import load_checkpoint
from vintix_fast.policy import Policy
from vintix_fast.service.bundled import bundled_checkpoints
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task_config import TaskConfig


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory):
    """The command's exit, and what it wrote."""
    out = tmp_path_factory.mktemp("export") / "go2"
    result = invoke("export", tiny_checkpoint, "--robot-type", "go2", "--output", out, "--context-len", 16)
    assert result.exit_code == 0, result.output
    return out


def test_the_contract_says_what_a_robot_must_know(exported, go2):
    contract = json.loads((exported / "contract.json").read_text())
    assert contract["robot"] == "go2" and contract["joints"] == list(go2.joints)
    assert contract["default_pose_rad"] == list(go2.default_pose_rad)
    assert (contract["kp"], contract["kd"]) == (go2.kp, go2.kd)
    assert (contract["action_scale_rad"], contract["latency_steps"], contract["control_period_s"]) == (0.25, 1, 0.02)
    assert contract["observation"][0] == {
        "name": "ang_vel", "from": 0, "to": 3, "times": 0.25, "is": "the base's angular velocity, body frame, rad/s"
    }  # fmt: skip
    assert [part["to"] for part in contract["observation"]] == [3, 6, 9, 21, 33]
    assert contract["reward"]["input"] == "constant" and contract["reward"]["value"] == pytest.approx(0.024)
    assert len(contract["weights_sha256"]) == 64 and contract["context_len"] == 16


def test_all_three_files_carry_the_same_contract(exported):
    onnx = pytest.importorskip("onnx")
    contract = json.loads((exported / "contract.json").read_text())
    entries = {entry.key: entry.value for entry in onnx.load(exported / "policy.onnx").metadata_props}
    assert json.loads(entries["contract"]) == contract and json.loads(entries["joints"]) == contract["joints"]
    content = (exported / "policy.bin").read_bytes()
    version, checksum, size = struct.unpack_from("<IIQ", content, 8)
    assert (version, checksum, size) == (1, zlib.crc32(content[24:]), len(content) - 24)
    (length,) = struct.unpack_from("<I", content, 24)
    assert json.loads(content[28 : 28 + length]) == contract


def test_another_weight_is_another_hash(go2):
    model = tiny_model()
    before = contract_of(model, go2)["weights_sha256"]
    assert contract_of(tiny_model(), go2)["weights_sha256"] == before
    with torch.no_grad():
        model.head.acs_decoders["go2_locomotion"].layers[0].weight[0, 0] += 1e-6
    assert contract_of(model, go2)["weights_sha256"] != before


@pytest.mark.parametrize("options", [{}, {"norm_acs": True, "inner_ep_pos_enc": True}, {"transformer_heads": 3}])
def test_the_onnx_step_acts_as_the_policy_does_beyond_a_full_ring(options, go2, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, context_len = tiny_model(**options), 12
    export_model(model, go2, tmp_path / "out", context_len=context_len)
    session = onnxruntime.InferenceSession(tmp_path / "out/policy.onnx", providers=["CPUExecutionProvider"])
    empty = dict(zip((i.name for i in session.get_inputs()), example_inputs(model, TASK, context_len), strict=True))
    policy, feed = Policy(model, TASK, 1, context_len), {name: x.numpy() for name, x in empty.items()}
    for t, row in enumerate(torch.from_numpy(replay_rows(40))):
        if t == 25:  # a history ends where the position is 0 again, whatever the rings hold
            policy.reset()
            feed["position"] = np.zeros(1, np.int64)
        policy.observe(row[None, 33:45], row[45:46])
        expected = policy.act(row[None, :33], row[46:47].long())
        feed |= {"observation": row[None, :33].numpy(), "previous_action": row[None, 33:45].numpy()}
        feed |= {"previous_reward": row[45:46].numpy(), "step_num": row[46:47].long().numpy()}
        action, feed["position"], feed["keys"], feed["values"] = session.run(None, feed)
        np.testing.assert_allclose(action, expected.numpy(), atol=1e-5)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_robot_that_the_model_has_no_group_for_is_refused(tiny, tmp_path):
    with pytest.raises(InputFileError, match="the checkpoint has no group for a1"):
        export_model(tiny, load_robot("a1"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_robot_of_other_sizes_is_refused(tiny_checkpoint, two_joints_a_leg):
    model = load_checkpoint(tiny_checkpoint)
    model.rename_task(TASK, two_joints_a_leg.task_names[0])
    with pytest.raises(InputFileError, match="has 33 observations and 12 actions; the robot has 25 and 8"):
        contract_of(model, two_joints_a_leg)


def test_a_default_pose_that_the_model_never_saw_is_refused(tiny, go2):
    import dataclasses

    info = tiny.tasks[TASK]
    mean = list(info.obs_mean)
    mean[10] = 3.0  # FR_thigh_joint
    tiny.set_task_info(TASK, dataclasses.replace(info, obs_mean=tuple(mean)))
    with pytest.raises(InputFileError, match=r"saw FR_thigh_joint on average 3.00 rad from the default pose, and go2"):
        contract_of(tiny, go2)


def test_a_command_that_the_model_never_saw_is_refused(tiny, go2):
    with pytest.raises(InputFileError, match="saw the command's forward speed as 1 .* would ask for 3; export it with"):
        contract_of(tiny, go2, task=TaskConfig(command=(1.5, 0.0, 0.0)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reward", "guess"], "--reward is 'guess'; it is one of true, constant, estimate"),
        (["--reward", "true", "--reward-value", "0.01"], "--reward-value 0.01 has no effect with --reward true"),
        (["--reward-value", "20"], "--reward-value is 20; a step's reward is at most 0.024"),
        (["--cache-dtype", "int4"], "--cache-dtype is 'int4'; it is float32 or int8"),
        (["--context-len", "65"], "--context-len 65 is more than the model's 64"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(words, message, tiny_checkpoint, tmp_path):
    result = invoke("export", tiny_checkpoint, "--robot-type", "go2", "--output", tmp_path / "out", *words, columns=300)
    assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "out").exists()


def test_an_earlier_export_is_replaced_only_if_asked(exported, tiny, go2):
    with pytest.raises(UsageError, match=r"already holds policy.onnx, policy.bin, contract.json; --overwrite replaces"):
        export_model(tiny, go2, exported)


def test_every_bundled_model_fits_the_robots_that_it_has_seen():
    found = 0
    for path in bundled_checkpoints().values():
        model = load_checkpoint(path)
        for name in ("go1", "go2", "a1", "minicheetah"):
            robot = load_robot(name)
            if set(robot.task_names) & set(model.tasks):
                contract_of(model, robot)
                found += 1
    assert found >= 8


def test_a_checkpoint_of_one_group_serves_any_robot(tmp_path, go2):
    model = load_checkpoint(save_tiny(tmp_path / "one", {"walk": "quadruped_locomotion"}))
    assert contract_of(model, go2)["task"] == "walk"
