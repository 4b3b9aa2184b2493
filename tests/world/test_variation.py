"""Variations as data: how they are spelt, what cannot be, how values are drawn, and what a task does with them.

That the physics really changes is shown in `test_varied_physics.py`.
"""

import json
import math

import pytest
import torch
from fakes import ACTIONS, FakeSimulator

from vintix_fast.service.errors import UsageError
from vintix_fast.world.drawn import Drawn, check_joints
from vintix_fast.world.genesis_variation import scene_options
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.task_config import DEFAULT_TASK, TaskConfig
from vintix_fast.world.variation import KINDS, NO_VARIATION, Variation, Varied

CPU = torch.device("cpu")
N = 400


def drawn(robot, text, seed=1, num_envs=N):
    made = Drawn(Variation.parse(text), robot, num_envs, CPU)
    made.seed(seed)
    made.draw(torch.ones(num_envs, dtype=torch.bool))
    return made


def task_of(robot, text, num_envs=3, seed=1, **options):
    config = TaskConfig(vary=Variation.parse(text), **options.pop("task", {}))
    task = WalkingTask(FakeSimulator(robot, num_envs, **options), robot, task_config=config)
    return task.simulator, task, task.reset(seed)


# -- spelling ----------------------------------------------------------------------------------------------------------


def test_a_variation_is_spelt_as_it_is_read():
    within = "payload_kg=0:5, redraw_s=2.5"
    assert Variation.parse(within).redraw_s == 2.5 and str(Variation.parse(within)) == within
    text = "payload_kg=0:5, motor.FR=0.7:1, locked.any_calf=0.25, redraw_episodes=4"
    made = Variation.parse(text)
    assert made.entries[0] == Varied("payload_kg", "", 0.0, 5.0) and made.redraw_episodes == 4
    assert str(made) == text and Variation.parse(made.to_json()) == made
    assert not NO_VARIATION and str(NO_VARIATION) == "" and Variation.parse("") == NO_VARIATION


def test_a_task_files_table_says_the_same():
    table = {"payload_kg": [0, 5], "motor": {"FR": [0.7, 1], "RL_calf": 0.5}, "locked.any_calf": 1}
    spelt = "payload_kg=0:5, motor.FR=0.7:1, motor.RL_calf=0.5, locked.any_calf=1"
    assert Variation.from_table(table) == Variation.parse(spelt)


def test_a_task_keeps_what_varies_in_its_record():
    task = TaskConfig(vary=Variation.parse("friction=0.4:1.2"))
    assert TaskConfig.from_json(json.loads(json.dumps(task.to_json()))) == task
    assert "vary" not in DEFAULT_TASK.to_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("payload=5", "payload is not known; known are payload_kg"),
        ("payload_kg", "'payload_kg' is not NAME=VALUE"),
        ("payload_kg=heavy", "'heavy' is not a number"),
        ("payload_kg=1:2:3", "must be a number, or lowest and highest"),
        ("payload_kg=5:0", "the lowest value comes first"),
        ("payload_kg=-1", "payload_kg must be from 0 to 100"),
        ("payload_kg=nan", "payload_kg must be from 0 to 100"),
        ("friction=0", "friction must be from 0.01 to 5"),
        ("payload_kg=1, payload_kg=2", "names payload_kg twice"),
        ("payload_z_m=0.1", "has no effect without payload_kg"),
        ("push_every_s=1", "has no effect without push_m_s"),
        ("friction.FR=1", "friction is of the whole robot"),
        ("locked=1", "say which joint"),
        ("locked.FR_calf=0:1", "a share of episodes is one number"),
        ("latency_steps=0.5", "must be a whole number"),
        ("payload_kg=5, redraw_episodes=0", "has no effect, since nothing is drawn"),
        ("payload_kg=5, redraw_s=2", "redraw_s=2 has no effect, since nothing is drawn"),
        ("payload_kg=0:5, redraw_s=0", "must be a time above 0"),
        ("payload_kg=0:5, redraw_s=2, redraw_episodes=2", "draws within each episode; leave redraw_episodes out"),
        ("payload_kg=0:5, redraw_episodes=1.5", "redraw_episodes is not known|whole number"),
    ],
)
def test_what_cannot_be_is_refused_and_shown(text, said):
    with pytest.raises(UsageError, match=said):
        Variation.parse(text)


@pytest.mark.parametrize("where", ["XX", "FR_wing", "any_wing", "any_FR"])
def test_joints_that_a_robot_lacks_are_refused_with_those_that_it_has(go2, where):
    with pytest.raises(UsageError, match=f"'{where}', which are no joints of go2; known are FR, .*any_calf"):
        check_joints(Variation.parse(f"motor.{where}=0.5"), go2)


def test_latency_is_added_to_a_tasks_own():
    with pytest.raises(UsageError, match="latency_steps, which must be 1 or more"):
        TaskConfig(vary=Variation.parse("latency_steps=1"), latency_steps=0)


# -- draws -------------------------------------------------------------------------------------------------------------


def test_values_fill_their_ranges_and_depend_on_the_seed_alone(go2):
    made = drawn(go2, "payload_kg=1:5, latency_steps=0:2, limp.FR_calf=0.25")
    payload, late, limp = made.values.T
    assert made.columns == ["payload_kg", "latency_steps", "limp.FR_calf"]
    assert 1.0 <= payload.min() < 1.1 and 4.9 < payload.max() <= 5.0
    assert all(0.25 < (late == n).float().mean() < 0.42 for n in range(3)) and late.max() == 2.0
    assert set(limp.tolist()) == {0.0, 1.0} and 0.18 < limp.mean() < 0.32
    assert torch.equal(made.values, drawn(go2, "payload_kg=1:5, latency_steps=0:2, limp.FR_calf=0.25").values)
    assert not torch.equal(made.values, drawn(go2, "payload_kg=1:5, latency_steps=0:2, limp.FR_calf=0.25", 2).values)


def test_an_environments_next_draw_is_alike_whatever_the_others_did(go2):
    made = [drawn(go2, "payload_kg=0:5", num_envs=3) for _ in range(2)]
    for mask in ([True, True, False], [True, False, False]):
        made[0].draw(torch.tensor(mask))
    for mask in ([False, True, True], [True, False, True], [True, False, False]):
        made[1].draw(torch.tensor(mask))
    assert torch.equal(made[0].values[:2], made[1].values[:2])
    assert not torch.equal(made[0].values[2], made[1].values[2])


@pytest.mark.parametrize(("redraw", "changes"), [(1, [1, 1, 1, 1]), (2, [0, 1, 0, 1]), (0, [0, 0, 0, 0])])
def test_how_often_values_are_drawn_anew(go2, redraw, changes):
    made, seen = drawn(go2, f"payload_kg=0:5, redraw_episodes={redraw}", num_envs=2), []
    for _ in changes:
        before = made.values.clone()
        made.draw(torch.ones(2, dtype=torch.bool))
        seen.append(int(not torch.equal(before, made.values)))
    assert seen == changes and made.changes == bool(redraw)


def test_values_can_be_drawn_anew_within_an_episode(go2):
    """After each 0.06 s of an episode, and at its end; the robot gets its body at once."""
    simulator, task, _ = task_of(go2, "payload_kg=0:5, redraw_s=0.06", num_envs=2, fall_after=(5, 50))
    seen = []
    for _ in range(8):
        seen.append(task.drawn.values[:, 0].tolist())
        task.step(torch.zeros(2, ACTIONS))
        torch.testing.assert_close(task.drawn.values[:, 0], simulator.bodies[-1][1].payload[:, 0])
    changes = [[i for i in range(1, 8) if seen[i][env] != seen[i - 1][env]] for env in range(2)]
    assert changes == [[3, 5], [3, 6]]
    assert [body[0].tolist() for body in simulator.bodies[1:]] == [
        [True, True],
        [True, False],
        [False, True],
        [True, False],
    ]


def test_factors_reach_their_joints_and_are_multiplied(go2):
    physics = drawn(go2, "motor=0.5, motor.FL=0.5, kp.calf=2, limp.RR_hip=1", num_envs=2).physics()
    strength = torch.tensor([0.5] * 3 + [0.25] * 3 + [0.0, 0.5, 0.5] + [0.5] * 3)
    assert torch.equal(physics.torque[0], strength) and torch.equal(physics.kd[0], strength)
    assert torch.equal(physics.kp[0], strength * torch.tensor([1.0, 1.0, 2.0] * 4))
    assert physics.payload is None and physics.locked is None and physics.friction is None


def test_one_of_several_joints_is_drawn_and_told(go2):
    made = drawn(go2, "locked.any_calf=1, motor.any_leg=0.5")
    assert made.columns == ["locked.any_calf", "locked.any_calf.which", "motor.any_leg", "motor.any_leg.which"]
    locked, strength, which = made.physics().locked, made.physics().torque, made.values[:, 1].long()
    assert set(which.tolist()) == {0, 1, 2, 3} and torch.equal(locked.nonzero()[:, 1], 3 * which + 2)
    assert ((strength == 0.5).sum(dim=1) == 3).all()
    some = drawn(go2, "locked.any_joint=0.5").physics().locked
    assert 0.4 < some.any(dim=1).float().mean() < 0.6 and some.any(dim=0).all() and some.sum(dim=1).max() == 1


def test_a_payloads_place_and_a_moved_centre_of_mass(go2):
    physics = drawn(go2, "payload_kg=2, payload_z_m=0.1, com_x_m=-0.05", num_envs=1).physics()
    torch.testing.assert_close(physics.payload, torch.tensor([[2.0, 0.0, 0.0, 0.1]]))
    torch.testing.assert_close(physics.com_m, torch.tensor([[-0.05, 0.0, 0.0]]))


@pytest.mark.parametrize("name", KINDS)
def test_a_scene_keeps_for_each_environment_what_varies_and_no_more(go2, name):
    joints = ".FR_calf" if KINDS[name].of_joints else ""
    needed = f"{KINDS[name].needs}=1, " if KINDS[name].needs else ""
    variation = Variation.parse(f"{needed}{name}{joints}=1")
    drawn = Drawn(variation, go2, 2, torch.device("cpu"))
    drawn.seed(1)
    drawn.draw(torch.ones(2, dtype=torch.bool))
    given = {field for field, value in drawn.physics()._asdict().items() if value is not None}
    assert scene_options(variation) == {
        "batch_links_info": bool(given & {"payload", "base_mass_kg", "com_m"}),
        "batch_dofs_info": bool(given & {"kp", "kd", "torque", "joint_range", "locked"}),
    }


# -- what a task does with them ----------------------------------------------------------------------------------------


def test_robots_get_bodies_at_the_start_of_their_episodes(go2):
    sim, task, _ = task_of(go2, "payload_kg=0:5", fall_after=(2, 50, 50))
    for _ in range(4):
        task.step(torch.zeros(3, ACTIONS))
    masks = [mask.tolist() for mask, _ in sim.bodies]
    assert masks == [[True] * 3, [True, False, False], [True, False, False]]
    loads = torch.stack([body.payload[:, 0] for _, body in sim.bodies])
    assert (loads[:, 1:] == loads[0, 1:]).all() and len(set(loads[:, 0].tolist())) == 3


def test_one_body_for_good_is_given_once(go2):
    sim, task, _ = task_of(go2, "payload_kg=5", fall_after=(1, 1, 1))
    for _ in range(4):
        task.step(torch.zeros(3, ACTIONS))
    assert len(sim.bodies) == 1 and sim.bodies[0][1].payload[:, 0].tolist() == [5.0] * 3
    task.reset(2)
    assert len(sim.bodies) == 2  # a scene that was reset has the robot's own again


def test_where_nothing_varies_nothing_is_done(go2):
    sim, task, _ = task_of(go2, "")
    task.step(torch.zeros(3, ACTIONS))
    assert task.drawn is None and task.varied_columns == () and sim.bodies == [] and sim.pushed == []


@pytest.mark.parametrize("own", [1, 2])
def test_an_action_is_executed_later_by_each_environments_latency(go2, own):
    sim, task, _ = task_of(go2, "latency_steps=0:3", num_envs=8, frozen=True, task={"latency_steps": own})
    late = task.drawn.values[:, 0]
    assert len(set(late.tolist())) > 2
    for t in range(1, 8):
        task.step(torch.full((8, ACTIONS), float(t)))
    moved = torch.stack([target[:, 0] - sim.default[0] for target in sim.targets]) / 0.25  # [T, 8]
    expected = (torch.arange(1, 8)[:, None] - own - late[None]).clamp(min=0)
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)


def test_a_new_episode_executes_nothing_of_the_old_one(go2):
    sim, task, _ = task_of(go2, "latency_steps=2", num_envs=1, fall_after=(3,))
    for _ in range(5):
        task.step(torch.ones(1, ACTIONS))
    moved = [(target[0, 0] - sim.default[0]).item() for target in sim.targets]
    assert moved == pytest.approx([0.0] * 5, abs=1e-6)  # three steps late, and it falls before


def test_noise_is_as_strong_as_said_and_the_reward_is_without_it(go2):
    text = "noise_joint_rad=0.02, noise_joint_rad_s=1, noise_gyro_rad_s=0.4, noise_gravity=0.05"
    noisy, plain = (task_of(go2, text if on else "", num_envs=N, frozen=True)[1:] for on in (True, False))
    (task, first), (clean, true) = noisy, plain
    steps = [(task.step(torch.zeros(N, ACTIONS)), clean.step(torch.zeros(N, ACTIONS))) for _ in range(3)]
    for seen, exact in [(first, true), *((a.observation, b.observation) for a, b in steps)]:
        spread = (seen - exact).std(dim=0)
        layout = QUADRUPED
        expected = torch.zeros(layout.size)
        expected[layout.joint_pos], expected[layout.joint_vel] = 0.02, 1.0 * 0.05
        expected[layout.ang_vel], expected[layout.gravity] = 0.4 * 0.25, 0.05
        torch.testing.assert_close(spread, expected, rtol=0.2, atol=1e-7)
    assert all(torch.equal(a.reward, b.reward) for a, b in steps)
    assert torch.equal(task_of(go2, text, num_envs=N, frozen=True)[2], first)
    assert not torch.equal(task_of(go2, text, num_envs=N, frozen=True, seed=2)[2], first)


def test_pushes_come_when_and_as_hard_as_said(go2):
    sim, task, _ = task_of(go2, "push_m_s=0.5:1, push_every_s=0.06", num_envs=4, frozen=True)
    for _ in range(8):
        task.step(torch.zeros(4, ACTIONS))
    pushed = torch.stack(sim.pushed).norm(dim=2)  # [T, 4]
    assert (pushed > 0).any(dim=1).tolist() == [False, False, False, True, False, False, True, False]
    torch.testing.assert_close(pushed[3], task.drawn.values[:, 0])
    angles = torch.atan2(*torch.stack(sim.pushed)[3].T)
    assert len({round(a, 3) for a in angles.tolist()}) == 4 and all(map(math.isfinite, angles.tolist()))
