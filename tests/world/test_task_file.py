"""Task files: what a whole one says, what each key does, and how a wrong one is refused."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
from fakes import ACTIONS, FakeSimulator

from vintix_fast.service.errors import InputFileError
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.simulator import DT_S
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.task_config import DEFAULT_TASK, FurtherWeights, RewardWeights, StartNoise, TaskConfig
from vintix_fast.world.task_file import _NUMBERS, _STARTS, COMMANDS, read_task
from vintix_fast.world.variation import KINDS, REDRAW, Variation

WHOLE = """
max_tilt_deg = 45.0
min_height_m = 0.15
time_limit_s = 8.0
latency_steps = 2
action_scale_rad = 0.3
action_clip = 10.0
tracking_sigma = 0.2

[command]
forward_m_s = [0.0, 1.0]
lateral_m_s = 0.1
yaw_rad_s = [-0.5, 0.5]
resample_s = 5.0

[reward]
tracking_lin_vel = 1.5
torque = -1e-5
foot_air_time = 1.0

[start_noise]
joints_rad = 0.2
tilt_deg = 3.0

[vary]
payload_kg = [0, 5]
motor.FR = 0.5
"""


def read(tmp_path, text):
    (tmp_path / "task.toml").write_text(text)
    return read_task(tmp_path / "task.toml")


def test_an_empty_file_is_the_default_task(tmp_path):
    assert read(tmp_path, "") == DEFAULT_TASK
    assert read(tmp_path, "[command]\n[reward]\n[vary]\n[start_noise]") == DEFAULT_TASK


def test_a_whole_file(tmp_path):
    assert read(tmp_path, WHOLE) == TaskConfig(
        command=(0.5, 0.1, 0.0), command_spread=(0.5, 0.0, 0.5), resample_s=5.0,
        reward=RewardWeights(tracking_lin_vel=1.5), further=FurtherWeights(torque=-1e-5, foot_air_time=1.0),
        tracking_sigma=0.2, max_tilt_rad=math.radians(45.0), min_height_m=0.15, time_limit_s=8.0,
        start_noise=StartNoise(joints_rad=0.2, tilt_rad=math.radians(3.0)), action_scale_rad=0.3, action_clip=10.0,
        latency_steps=2, vary=Variation.parse("payload_kg=0:5, motor.FR=0.5"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed = 1", "speed is not known there; known are command, reward"),
        ("latency_steps = 'two'", "latency_steps is 'two'; it must be a number"),
        ("latency_steps = 1.5", "latency_steps cannot be 1.5"),
        ("command = 0.5", "command is 0.5; it must be a table"),
        ("[command]\nforward = 1", "command.forward is not known; known are forward_m_s"),
        ("[command]\nforward_m_s = [1, 0]", "the lowest value comes first"),
        ("[command]\nforward_m_s = [1, 2, 3]", "a number, or lowest and highest"),
        ("[command]\nresample_s = 5", "resample_s cannot be 5"),
        ("[reward]\ntracking = 1", "reward.tracking is not known there; known are tracking_lin_vel"),
        ("[start_noise]\ntilt = 1", "start_noise.tilt is not known there"),
        ("[vary]\npayload = 5", "payload is not known"),
        ("max_tilt_deg = 120", "max_tilt_rad cannot be"),
        ("min_height_m =", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, said):
    with pytest.raises(InputFileError, match=said) as raised:
        read(tmp_path, text)
    assert "task.toml" in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputFileError, match="cannot read task file .*none.toml"):
        read_task(tmp_path / "none.toml")


# -- drawn commands ----------------------------------------------------------------------------------------------------

RANGES = TaskConfig(command=(0.5, 0.0, 0.0), command_spread=(0.5, 0.0, 0.8))


def commands(task, observation):
    return observation[:, QUADRUPED.command] / torch.tensor(QUADRUPED.command_scale)


def walking(robot, config, num_envs=200, **options):
    task = WalkingTask(FakeSimulator(robot, num_envs, **options), robot, task_config=config)
    return task, task.reset(seed=4)


def test_commands_are_drawn_from_their_ranges_by_the_seed(go2):
    task, first = walking(go2, RANGES)
    forward, lateral, yaw = commands(task, first).T
    assert 0.0 <= forward.min() < 0.05 and 0.95 < forward.max() <= 1.0 and not lateral.any()
    assert -0.8 <= yaw.min() < -0.7 and 0.7 < yaw.max() <= 0.8
    assert torch.equal(walking(go2, RANGES)[1], first) and not torch.equal(task.reset(seed=5), first)
    torch.testing.assert_close(commands(task, task.reset(seed=4)), task.command)


def test_a_command_lasts_an_episode_or_as_long_as_the_task_says(go2):
    seen = {}
    for resample_s in (None, 3 * DT_S):
        config = TaskConfig(command_spread=(0.5, 0.0, 0.0), resample_s=resample_s)
        task, observation = walking(go2, config, num_envs=2, fall_after=(5, 50))
        rows = [commands(task, observation)[:, 0]]
        for _ in range(8):
            rows.append(commands(task, task.step(torch.zeros(2, ACTIONS)).observation)[:, 0])
        seen[resample_s] = [
            [a != b for a, b in zip(env, env[1:], strict=False)] for env in torch.stack(rows).T.tolist()
        ]
    assert seen[None] == [[False] * 4 + [True] + [False] * 3, [False] * 8]
    # The first falls after five steps, so that its second command is an episode's first.
    assert seen[3 * DT_S] == [[n in (2, 4, 7) for n in range(8)], [n in (2, 5) for n in range(8)]]


def test_a_step_is_rewarded_for_the_command_that_was_seen(go2):
    config = TaskConfig(command_spread=(0.5, 0.0, 0.0), resample_s=DT_S)
    task, observation = walking(go2, config, num_envs=5, frozen=True)
    for _ in range(3):
        asked = commands(task, observation)[:, 0]
        result = task.step(torch.zeros(5, ACTIONS))
        height = go2.start_height_m - go2.target_height_m
        expected = DT_S * (torch.exp(-asked.square() / 0.25) + 0.2 - 50 * height**2)
        torch.testing.assert_close(result.reward, expected)
        observation = result.observation


# -- ends and further terms --------------------------------------------------------------------------------------------


def test_a_robot_below_the_lowest_height_has_fallen(go2):
    task, _ = walking(go2, TaskConfig(min_height_m=0.2), num_envs=2, frozen=True)
    task.simulator.pos[:, 2] = torch.tensor([0.19, 0.21])
    assert task.step(torch.zeros(2, ACTIONS)).terminated.tolist() == [True, False]


def test_an_episode_ends_by_the_tasks_time(go2):
    task, _ = walking(go2, TaskConfig(time_limit_s=3 * DT_S), num_envs=1, frozen=True)
    assert [task.step(torch.zeros(1, ACTIONS)).truncated.item() for _ in range(4)] == [False, False, True, False]
    assert task.max_steps == 3


def further(robot, num_envs=1, **weights):
    """What a step of the frozen fake earns beyond the default task's reward."""
    with_terms, _ = walking(robot, TaskConfig(further=FurtherWeights(**weights)), num_envs, frozen=True)
    without, _ = walking(robot, DEFAULT_TASK, num_envs, frozen=True)

    def step(change=lambda sim: None):
        results = []
        for task in (with_terms, without):
            change(task.simulator)
            results.append(task.step(torch.zeros(num_envs, ACTIONS)).reward)
        return (results[0] - results[1]) / DT_S

    return step


def test_torques_and_joint_accelerations_by_hand(go2):
    def turn(sim):
        sim.joint_pos[0, 3] = sim.default[3] + 0.1  # 2 Nm at 20 Nm/rad
        sim.joint_vel[0, 4] += 0.5

    assert further(go2, torque=-0.01)(turn).item() == pytest.approx(-0.04, abs=1e-4)
    step = further(go2, joint_acc=-1e-4)
    assert [step(turn).item() for _ in range(2)] == pytest.approx([-1e-4 * 25.0**2] * 2, abs=1e-4)
    assert step().item() == pytest.approx(0.0, abs=1e-4)


def test_landing_after_a_long_step_pays_and_after_a_short_one_costs(go2):
    def lift(sim):
        sim.joint_pos[0, 1] = sim.default[1] + 1.0

    def land(sim):
        sim.joint_pos[0, 1] = sim.default[1]

    step = further(go2, foot_air_time=1.0)
    step()
    step(lift)  # still counts as touching: a contact that flickers is one
    flying = [step(lift).item() for _ in range(9)]
    assert flying == pytest.approx([0.0] * 9, abs=1e-4)
    assert step(land).item() == pytest.approx(10 * DT_S - 0.5, abs=1e-4)
    assert step(land).item() == pytest.approx(0.0, abs=1e-4)


def test_stumbling_and_being_alive(go2):
    def blocked(sim):
        sim.foot_force_n = lambda: torch.tensor([[[30.0, 0.0, 5.0]] + [[0.0, 0.0, 30.0]] * 3])

    step = further(go2, stumble=-2.0, alive=0.5)
    assert step().item() == pytest.approx(0.5, abs=1e-4) and step(blocked).item() == pytest.approx(-1.5, abs=1e-4)


def test_a_failed_step_earns_nothing(go2):
    config = TaskConfig(further=FurtherWeights(alive=1.0))
    task = WalkingTask(FakeSimulator(go2, 2, faults={(0, 1): "nan"}), go2, task_config=config)
    task.reset()
    assert task.step(torch.zeros(2, ACTIONS)).reward[1] == 0.0


def test_records_name_what_a_task_has_beyond_the_first_ones(tmp_path):
    task = read(tmp_path, WHOLE)
    assert TaskConfig.from_json(task.to_json()) == task
    assert set(task.to_json()) - set(DEFAULT_TASK.to_json()) == {
        "command_spread", "resample_s", "further", "min_height_m", "time_limit_s", "vary",
    }  # fmt: skip


def test_the_file_that_the_page_shows_is_whole(tmp_path):
    page = (Path(__file__).parents[2] / "docs/worlds.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    task = read(tmp_path, block)
    assert task.commands_vary and task.vary and task.further.alive == 0.1
    said = set(re.findall(r"^(\w+) =", block, re.MULTILINE)) | {"motor.any_leg"}
    known = {f.name for part in (RewardWeights, FurtherWeights) for f in dataclasses.fields(part)}
    assert known | set(_NUMBERS) | {"max_tilt_deg"} | set(_STARTS) | set(COMMANDS) <= said


def test_the_page_has_everything_that_can_vary():
    page = (Path(__file__).parents[2] / "docs/worlds.md").read_text()
    rows = "".join(line for line in page.splitlines() if line.startswith("| `"))
    assert [name for name in (*KINDS, REDRAW) if f"`{name}`" not in rows] == []
