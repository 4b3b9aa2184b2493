"""`improve`: whole calls on small models, with logs from the fake simulator."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from commands import invoke, last_json, spoken, tree
from fakes import FakeSimulator, make_history
from runs import assert_same_model, read_rows, read_state

from vintix_fast.data import open_writer, read_trajectories
from vintix_fast.export.reward import estimated_reward
from vintix_fast.from_logs_gate import Estimate, judge, quiet_return
from vintix_fast.logs import measured
from vintix_fast.model import load_checkpoint
from vintix_fast.policy import make_policy
from vintix_fast.rollout import Noise, collect
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.task_config import DEFAULT_TASK

STEPS = 14
FAST = ("--critic-updates", 2, "--finetune-steps-per-loop", 3, "--batch-size", 2, "--no-bf16")
FIRST = ("--robot-type", "go2", "--max-steps-per-episode", STEPS, *FAST)


@pytest.fixture(autouse=True)
def plots_are_empty(monkeypatch):
    monkeypatch.setattr("vintix_fast.from_logs.write_curve", lambda path, rows: path.touch())


def walk(path, model_dir, *, robot="go2", noise=0.05, seed=1, falls=(0, 0), **attributes):
    """A log of a model's: two episodes in each environment; ``falls``: of so few steps in which."""
    robot, model, envs = load_robot(robot), load_checkpoint(model_dir), len(falls)
    task = WalkingTask(FakeSimulator(robot, envs, fall_after=list(falls)), robot, STEPS)
    policy = make_policy(model, f"{robot.name}_walking_ad", envs, model.config.context_len, cache_dtype="float32")
    sigma = torch.full((envs,), noise)
    attributes = {"robot": robot.name, "task": DEFAULT_TASK.to_json()} | attributes
    with open_writer(path, envs, attributes) as writer:
        noise = Noise(sigma, robot.layout.num_joints, seed)
        collect(task, policy, 2 * envs, seed=seed, random_starts=True, noise=noise, writer=writer)
    return path


@pytest.fixture
def begun(tmp_path, tiny_checkpoint):
    """A run after its first call."""
    out = tmp_path / "out"
    log = walk(tmp_path / "walk1.h5", tiny_checkpoint)
    record = last_json(invoke("improve", tiny_checkpoint, "--data", log, "--output-dir", out, *FIRST, "--json"))
    return out, record


def test_a_first_call_makes_the_next_model_and_changes_the_robots_group_alone(begun, tiny_checkpoint):
    out, record = begun
    assert record["next_model"] == str(out / "models/next") and "accepted" not in record
    assert_same_model(out / "models/initial", out / "models/best")
    assert_same_model(out / "models/loop_01", out / "models/next")
    before, after = read_state(out / "models/initial"), read_state(out / "models/next")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("go2_locomotion" in name for name in changed)
    assert torch.equal(read_state(tiny_checkpoint)[next(iter(changed))], before[next(iter(changed))])
    assert (out / "loop_00/trajectories.h5").read_bytes() == (out.parent / "walk1.h5").read_bytes()
    assert [row["loop"] for row in read_rows(out)] == [1] and (out / "curve.png").exists()


@pytest.mark.parametrize(("falls", "step"), [((10, 0), 0.25 * 0.2), ((3, 3), 0.2)])
def test_steps_are_small_unless_the_logs_show_that_the_robot_does_not_walk(tmp_path, tiny_checkpoint, falls, step):
    log = walk(tmp_path / "walk.h5", tiny_checkpoint, falls=falls)
    record = last_json(
        invoke("improve", tiny_checkpoint, "--data", log, "--output-dir", tmp_path / "out", *FIRST, "--json")
    )
    assert record["quiet_return"] < 0.8 * 1.2 * 0.02 * STEPS  # of an episode without any fault
    assert record["improvement_step"] == pytest.approx(step)


def test_a_log_that_is_not_worse_keeps_its_model(begun, tmp_path):
    out, first = begun
    log = walk(tmp_path / "walk2.h5", out / "models/next", seed=2, falls=(7, 0))
    record = last_json(invoke("improve", out, "--data", log, "--json"))
    assert record["mean_return"] < first["mean_return"]
    assert record["accepted"] and record["made_by"] == 1 == record["from_loop"]
    told = f"{record['quiet_return']:.2f} ± {record['quiet_standard_error']:.2f}, not shown to be worse than "
    assert told + f"{first['quiet_return']:.2f} ± " in record["verdict"] and "models/initial: kept" in record["verdict"]
    assert_same_model(out / "models/best", out / "models/loop_01")
    assert_same_model(out / "models/next", out / "models/loop_02")
    assert record["total_env_steps"] == first["env_steps"] + record["env_steps"]


def test_a_worse_log_goes_back_to_the_former_model_with_a_smaller_step(begun, tmp_path):
    out, first = begun
    log = walk(tmp_path / "walk2.h5", out / "models/next", seed=2, falls=(3, 3))
    record = last_json(invoke("improve", out, "--data", log, "--json"))
    assert record["accepted"] is False and record["from_loop"] == 0
    assert "of models/initial: back to that, with a smaller step" in record["verdict"]
    assert_same_model(out / "models/best", out / "models/initial")
    assert record["improvement_step"] == pytest.approx(0.5 * first["improvement_step"])
    # From the best model's own log once more: the same critic, shorter steps.
    assert record["critic_loss"] != first["critic_loss"]  # another seed
    assert json.loads((out / "state.json").read_text())["best"]["loop"] == 0


def test_a_decline_in_steps_too_small_to_see_goes_back_to_where_it_began(begun, tmp_path):
    out, _ = begun
    log = walk(tmp_path / "walk2.h5", out / "models/next", seed=2, falls=(7, 0))
    assert last_json(invoke("improve", out, "--data", log, "--json"))["accepted"]
    log = walk(tmp_path / "walk3.h5", out / "models/next", seed=3, falls=(7, 5))
    record = last_json(invoke("improve", out, "--data", log, "--json"))
    assert record["accepted"] is False and record["made_by"] == 2 and record["from_loop"] == 0
    assert_same_model(out / "models/best", out / "models/initial")


def test_a_run_of_the_former_gate_goes_on(begun, tmp_path):
    out, _ = begun
    state = json.loads((out / "state.json").read_text())
    state["best"]["return"] = 1.0  # with all noise in it, and above all that can be
    for row in state["rows"]:
        row.pop("quiet_return"), row.pop("quiet_standard_error")
    (out / "state.json").write_text(json.dumps(state))
    log = walk(tmp_path / "walk2.h5", out / "models/next", seed=2)
    record = last_json(invoke("improve", out, "--data", log, "--json"))
    assert record["accepted"] and len(read_rows(out)) == 2


def test_another_log_of_the_best_model_is_more_of_it(begun, tmp_path):
    out, first = begun
    log = walk(tmp_path / "again.h5", out / "models/best", seed=3)
    record = last_json(invoke("improve", out, "--data", log, "--json"))
    assert record["made_by"] == 0 and "accepted" not in record
    both = [h for name in ("walk1.h5", "again.h5") for h in read_trajectories(tmp_path / name).histories]
    best = json.loads((out / "state.json").read_text())["best"]
    assert best["return"] == record["quiet_return"] == pytest.approx(quiet_return(both, STEPS).mean)
    assert record["quiet_standard_error"] < first["quiet_standard_error"]
    assert record["improvement_step"] == first["improvement_step"]


def test_the_same_call_makes_the_same_model(begun, tmp_path, tiny_checkpoint):
    out, _ = begun
    again = tmp_path / "again"
    words = ("--data", tmp_path / "walk1.h5", "--output-dir", again, *FIRST)
    assert invoke("improve", tiny_checkpoint, *words).exit_code == 0
    assert_same_model(out / "models/next", again / "models/next")


def test_a_call_that_was_stopped_can_be_made_again(begun, tmp_path, monkeypatch):
    out, _ = begun
    log, before = walk(tmp_path / "walk2.h5", out / "models/next", seed=2), tmp_path / "before"
    shutil.copytree(out, before)

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vintix_fast.from_logs.learn", stop)
        result = invoke("improve", out, "--data", log)
        assert result.exit_code == 130 and "begins this call again" in spoken(result.stderr)
    assert invoke("improve", out, "--data", log).exit_code == 0
    assert invoke("improve", before, "--data", log).exit_code == 0
    assert_same_model(out / "models/next", before / "models/next")
    assert len(read_rows(out)) == 2


def changed(source, target, change):
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        change(file)
    return target


def groups(file):
    return [file[name] for name in file]


def test_what_cannot_teach_is_refused_before_anything_is_written(tmp_path, tiny_checkpoint):
    log = walk(tmp_path / "walk.h5", tiny_checkpoint)
    still = walk(tmp_path / "still.h5", tiny_checkpoint, noise=0.0)
    other = walk(tmp_path / "other.h5", tiny_checkpoint, robot="go1")

    def without(name):
        return lambda file: [group.pop(name) for group in groups(file)]

    def told(file):
        for group in groups(file):
            group["reward"][:] = 0.024

    def estimated(file):
        told = read_trajectories(log).histories[0]
        n = len(told.reward)
        action = torch.from_numpy(told.action)
        before = torch.cat([torch.zeros(1, 12), action[:-1]])
        after = torch.from_numpy(np.roll(told.observation, -1, axis=0))
        values = estimated_reward(DEFAULT_TASK, QUADRUPED, after, action, before).numpy()
        file.attrs["contract"] = json.dumps({"robot": "go2", "reward": {"input": "estimate", "value": None}})
        groups(file)[0]["reward"][:n] = values

    def broken(file):
        groups(file)[0]["action"][3, 2] = np.nan

    def foreign(file):
        for group in groups(file):
            group["mean_action"][:] += 0.5
            group["action"][:] += 0.5

    cases = [
        (still, 2, "did not explore", "vintix_walk --explore"),
        (other, 2, "is a log of go1"),
        (changed(log, tmp_path / "meant.h5", without("mean_action")), 2, "has no dataset mean_action"),
        (changed(log, tmp_path / "fell.h5", without("terminated")), 2, "has no dataset terminated"),
        (changed(log, tmp_path / "told.h5", told), 2, "all rewards are 0.024, so they were not measured"),
        (changed(log, tmp_path / "estimate.h5", estimated), 2, "stand still"),
        (changed(log, tmp_path / "nan.h5", broken), 4, "action is not finite at step 3"),
        (changed(log, tmp_path / "foreign.h5", foreign), 2, "was not made by", "0.50 action units"),
        (walk(tmp_path / "task.h5", tiny_checkpoint, task={"command": [1, 0, 0]}), 2, "another task"),
        (tmp_path / "none.h5", 4, "no such file"),
        (tiny_checkpoint / "model.pth", 4, "not an HDF5 file"),
    ]
    (tmp_path / "cut.h5").write_bytes(log.read_bytes()[:-500])
    cases.append((tmp_path / "cut.h5", 4, "truncated"))
    before = tree(tmp_path)
    for data, code, *texts in cases:
        result = invoke("improve", tiny_checkpoint, "--data", data, "--output-dir", tmp_path / "out", *FIRST)
        said = spoken(result.stderr)
        assert result.exit_code == code, (data, said)
        assert all(text in said for text in texts), said
    assert tree(tmp_path) == before


def test_a_run_goes_on_as_it_was_begun(begun, tmp_path, tiny_checkpoint):
    out, _ = begun
    log = walk(tmp_path / "walk2.h5", out / "models/next", seed=2)
    first = tmp_path / "walk1.h5"
    before = tree(tmp_path)
    cases = [
        ((out, "--data", first), "was learnt from before"),
        ((out, "--data", log, "--lr", 0.1), "was begun with other options (--lr was 0.0005, now 0.1)"),
        ((out, "--data", log, "--robot-type", "go1"), "another robot"),
        ((out, "--data", log, "--output-dir", tmp_path / "new"), "goes on where it is"),
        ((out, "--data", log, "--overwrite"), "--overwrite has no effect"),
        ((out, "--data", walk(tmp_path / "both.h5", tiny_checkpoint, seed=9), "--data", log), "different models"),
        ((tiny_checkpoint, "--data", first, "--output-dir", out, *FIRST), "goes on with it"),
        ((tiny_checkpoint, "--data", first, "--robot-type", "go2"), "--output-dir is missing"),
        ((tiny_checkpoint, "--data", first, "--output-dir", tmp_path / "new"), "--robot-type is missing"),
    ]
    before["both.h5"] = (tmp_path / "both.h5").read_bytes()
    for words, text in cases:
        result = invoke("improve", *words)
        assert result.exit_code == 2 and text in spoken(result.stderr), spoken(result.stderr)
    assert tree(tmp_path) == before


def test_a_logs_return_is_that_of_an_episode_however_long_it_walked():
    history = make_history([4, 10, 6])
    history.reward[:] = 0.01
    # The first two fell: what they lost counts. The third was stopped: it would have gone on alike.
    found = measured([history], 10)
    assert found["mean_return"] == pytest.approx(10 * 0.2 / (10 + 10 + 6))
    assert (found["episodes"], found["env_steps"]) == (3, 20)
    # A long walk is cut into episodes; a fall within the second loses the rest of that alone.
    history = make_history([15, 10])
    history.reward[:] = 0.01
    assert measured([history], 10)["mean_return"] == pytest.approx(10 * 0.25 / (10 + 10 + 10))
    whole = make_history([10, 10])
    whole.extras["terminated"][:] = 0
    expected = np.mean([whole.reward[:10].sum(), whole.reward[10:].sum()])
    assert measured([whole], 10)["mean_return"] == pytest.approx(expected)


def walked(*parts, reward=0.02):
    """A history of episodes ``(noise, steps, fell)``."""
    history = make_history([steps for _, steps, fell in parts])
    history.reward[:] = reward
    at = 0
    for noise, steps, fell in parts:
        history.extras["mean_action"][at : at + steps] = history.action[at : at + steps] - noise
        history.extras["terminated"][at + steps - 1] = fell
        at += steps
    return history


def test_what_was_walked_with_much_noise_counts_little():
    quiet, loud = 1.0, 1.0 / (1.0 + 3.0**2)
    found = quiet_return([walked((0.0, 1000, False), (0.3, 1, True))], 1000)
    mean = (quiet * 20.0 + loud * 0.02) / (quiet + loud)
    assert found.mean == pytest.approx(mean, rel=1e-4)
    # Without a fall too there is an error: that of one more episode, lost, beside halves of 500 steps.
    whole = quiet_return([walked((0.0, 1000, False), (0.0, 1000, False))], 1000)
    assert (whole.mean, whole.error) == (pytest.approx(20.0, rel=1e-4), pytest.approx(20.0 / 3.0, rel=1e-4))
    # On a robot the noise changes within an episode, and what a fall loses counts as little as the noise was much.
    history = walked((0.0, 500, False), (0.3, 10, True))
    history.step_num[:] = np.arange(510)
    fell = (10.0 + loud * 0.2) / (0.5 + loud * 0.5)
    assert quiet_return([history], 1000).mean == pytest.approx(fell, rel=1e-4)


def test_more_of_the_same_has_a_smaller_error():
    parts = (0.0, 1000, False), (0.03, 30, True), (0.1, 1000, False)
    once, twice = quiet_return([walked(*parts)], 1000), quiet_return([walked(*parts)] * 2, 1000)
    assert once.mean == pytest.approx(twice.mean) and twice.error < 0.8 * once.error


@pytest.mark.parametrize(
    ("fallen", "worse"),
    [((), False), ((8, 9), False), ((6, 7, 8, 9), False), ((0,), False), ((0, 1), True), (range(10), True)],
    ids=str,
)
def test_a_model_is_undone_for_more_falls_than_chance_gives(fallen, worse):
    """Of ten episodes, two on each rung of the ladder, these fell; of the other model's none."""
    noise = np.repeat((0.0, 0.03, 0.06, 0.14, 0.3), 2)
    before = quiet_return([walked(*((sigma, 1000, False) for sigma in noise))], 1000)
    after = [walked(*((sigma, 20 if i in fallen else 1000, i in fallen) for i, sigma in enumerate(noise)))]
    assert quiet_return(after, 1000).worse_than(before) is worse


@pytest.mark.parametrize(
    ("returns", "current", "loop", "accepted", "words"),
    [
        ({0: 7.0}, None, 0, None, "initial returned 7.00 ± 1.00: what the next walk is to beat"),
        ({0: 7.0, 1: 8.0}, 0, 1, True, "1 returned 8.00 ± 1.00, better than 7.00 ± 1.00 of initial: kept"),
        ({0: 9.0, 1: 8.0}, 0, 1, True, "not shown to be worse than 9.00 ± 1.00 of initial: kept"),
        ({0: 9.5, 1: 8.0}, 0, 0, False, "worse than 9.50 ± 1.00 of initial: back to that, with a smaller step"),
        ({0: 9.5, 1: 8.6, 2: 8.0}, 1, 0, False, "worse than 9.50 ± 1.00 of initial: back to that"),  # a decline
        ({0: 9.5, 1: 12.0, 2: 8.0}, 0, 1, False, "worse than 12.00 ± 1.00 of 1"),  # undone before, then walked better
    ],
)  # fmt: skip
def test_the_next_log_is_the_gate(returns, current, loop, accepted, words):
    found = {number: Estimate(mean, 1.0) for number, mean in returns.items()}
    verdict = judge(max(returns), current, found, lambda loop: str(loop) if loop else "initial")
    assert (verdict.loop, verdict.accepted) == (loop, accepted) and words in verdict.words


@pytest.mark.parametrize(("mean", "loop", "accepted"), [(9.0, 1, None), (8.0, 0, False)])
def test_the_best_model_once_more_may_turn_out_worse_after_all(mean, loop, accepted):
    verdict = judge(1, 1, {0: Estimate(9.5, 1.0), 1: Estimate(mean, 1.0)}, str)
    assert (verdict.loop, verdict.accepted) == (loop, accepted)
