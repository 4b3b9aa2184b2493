"""Whole adaptation runs in a fake simulator: what they leave, what they change, and what the gate decides."""

import json
import re

import h5py
import numpy as np
import pytest
from fakes import ACTIONS, OBSERVATIONS, FakeSimulator, save_tiny
from runs import (
    ENGINE_OPTIONS,
    GROUP,
    SMALL,
    TASK,
    assert_same_run,
    read_rows,
    read_state,
    run_small,
    script_evaluations,
    small_config,
    spy_on_policies,
    tree,
)

from vintix_fast import collecting, learning
from vintix_fast.adaptation import adapt
from vintix_fast.config import IMPROVERS, AdaptConfig
from vintix_fast.data import read_trajectories
from vintix_fast.improve import CriticImprover
from vintix_fast.improve.operators import OPERATORS
from vintix_fast.model import load_checkpoint
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task_config import DEFAULT_TASK, TaskConfig


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_checkpoint):
    """A run that nothing disturbed; not to be written to."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, run_small(out, tiny_checkpoint)


@pytest.fixture(autouse=True)
def plots_are_empty(monkeypatch, finished):
    """Half of a small run's time is its plot; ``finished`` has a real one."""
    monkeypatch.setattr("vintix_fast.adaptation.write_curve", lambda path, rows: path.touch())


# -- what it leaves ----------------------------------------------------------------------------------------------------


def test_output_tree(finished):
    out, result = finished
    models = {
        f"models/{model}/{file}"
        for model in ("initial", "loop_01", "loop_02", "best")
        for file in ("model.pth", "metadata.json", "config.json")
    }
    data = {f"loop_{i:02d}/{file}" for i in range(2) for file in ("trajectories.h5", f"loop_{i:02d}.json")}
    assert tree(out) == models | data | {"config.json", "state.json", "metrics.jsonl", "curve.png"}
    assert result.last_model == out / "models/loop_02" and result.best_model == out / "models/best"
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_policies_have_the_engine_that_was_asked_for(tmp_path, tiny_checkpoint, monkeypatch):
    seen = spy_on_policies(monkeypatch, "adaptation")
    run_small(tmp_path / "run", tiny_checkpoint, num_improvement_loops=1, **ENGINE_OPTIONS)
    assert len(seen) >= 3  # the initial model's evaluation, the loop's collection and evaluations
    assert all(options == ENGINE_OPTIONS for options in seen)
    assert json.loads((tmp_path / "run/config.json").read_text())["options"].items() >= ENGINE_OPTIONS.items()


def test_trajectories_are_what_public_readers_expect(finished):
    out, _ = finished
    with h5py.File(out / "loop_00/trajectories.h5") as file:
        # A group of another name breaks readers that sort by number.
        spans = sorted(tuple(map(int, re.fullmatch(r"(\d+)-(\d+)", name).groups())) for name in file)
        assert spans[0][0] == 0
        assert all(after[0] == before[1] + 1 for before, after in zip(spans, spans[1:], strict=False))
        for first, last in spans:
            group = file[f"{first}-{last}"]
            n = last - first + 1
            assert n <= 1000
            assert group["proprio_observation"].shape == (n, OBSERVATIONS)
            assert group["proprio_observation"].dtype == np.float32
            assert group["action"].shape == (n, ACTIONS) and group["action"].dtype == np.float32
            assert group["reward"].shape == (n,) and group["reward"].dtype == np.float32
            assert group["step_num"].shape == (n,) and group["step_num"].dtype == np.int32
        assert {"robot", "seed", "torch", "vintix-fast", "stream_env", "stream_length"} <= set(file.attrs)
    read = read_trajectories(out / "loop_00/trajectories.h5")
    assert read.closed_cleanly and sum(len(h.episodes()) for h in read.histories) == SMALL["episodes_per_loop"]
    assert read.attributes["robot"] == "minicheetah" and read.attributes["seed"] == "5"
    assert TaskConfig.from_json(json.loads(read.attributes["task"])) == DEFAULT_TASK


def test_collection_metadata(finished):
    out, _ = finished
    described = json.loads((out / "loop_01/loop_01.json").read_text())
    assert described["task_name"] == TASK
    assert described["observation_shape"] == {"proprio": [OBSERVATIONS]}
    assert described["action_dim"] == ACTIONS and described["action_type"] == "continuous"
    summary, episodes = described["collection"], described["episodes"]
    assert summary["episodes"] == len(episodes) == SMALL["episodes_per_loop"]
    assert summary["mean_return"] == pytest.approx(np.mean([e["return_"] for e in episodes]))
    assert summary["mean_length"] == pytest.approx(np.mean([e["length"] for e in episodes]))
    assert summary["env_steps"] == sum(e["length"] for e in episodes) and summary["env_steps_per_s"] > 0
    with h5py.File(out / "loop_01/trajectories.h5") as file:
        assert summary["env_steps"] == sum(len(group["reward"]) for group in file.values())


def test_metrics_have_a_row_for_the_initial_policy_and_each_loop(finished):
    out, result = finished
    rows = read_rows(out)
    assert rows == result.rows and [row["loop"] for row in rows] == [0, 1, 2]
    assert rows[0].keys() >= {"eval_return", "eval_length", "accepted"} and "mean_return" not in rows[0]
    for row in rows[1:]:
        assert row.keys() >= {"env_steps", "mean_return", "loss", "critic_loss", "eval_return", "accepted", "failures"}
    steps = ("env_steps", "eval_env_steps", "posture_env_steps")
    total = sum(row.get(key, 0) for row in rows for key in steps)
    assert rows[2]["total_env_steps"] == total > rows[1]["total_env_steps"] > rows[0]["total_env_steps"] > 0
    assert all(len(row["weights"]) == 64 and int(row["weights"], 16) for row in rows[1:])
    assert all(np.isfinite(v).all() for row in rows for key, v in row.items() if key != "weights")


def test_config_json_tells_options_and_versions(finished):
    out, _ = finished
    config = json.loads((out / "config.json").read_text())
    assert {name: config["options"][name] for name in SMALL} == SMALL
    assert {"torch", "python", "vintix-fast"} <= config["versions"].keys()


def test_tensorboard_has_the_usual_tags(finished):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out, result = finished
    events = event_accumulator.EventAccumulator(str(out / "tensorboard")).Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {"Train/mean_reward", "Train/mean_episode_length", "Eval/mean_reward", "Loss/action", "Loss/critic"}

    def scalars(tag):
        return sorted(events.Scalars(tag), key=lambda e: e.step)  # files of one second are read in no certain order

    collected = scalars("Train/mean_reward")
    assert [e.step for e in collected] == [row["total_env_steps"] for row in result.rows[1:]]
    assert [e.value for e in collected] == pytest.approx([row["mean_return"] for row in result.rows[1:]])
    assert [e.step for e in scalars("Loss/action")] == list(range(10))


# -- what it changes ---------------------------------------------------------------------------------------------------


def test_only_the_new_group_differs_from_the_pretrained_model(finished, tiny_checkpoint):
    out, _ = finished
    pretrained, initial = read_state(tiny_checkpoint), read_state(out / "models/initial")
    for model in ("initial", "loop_01", "loop_02", "best"):
        state = read_state(out / "models" / model)
        changed = [name for name in pretrained if pretrained[name].numpy().tobytes() != state[name].numpy().tobytes()]
        assert changed == []
        own = state.keys() - pretrained.keys()
        assert own and all(f".{GROUP}." in name for name in own)
        if model.startswith("loop"):
            moved = [name for name in own if not (state[name] == initial[name]).all()]
            assert sorted(moved) == sorted(own)


def test_a_seed_decides_the_run(finished, tmp_path, tiny_checkpoint):
    out, _ = finished
    run_small(tmp_path / "again", tiny_checkpoint)
    assert_same_run(out, tmp_path / "again")
    run_small(tmp_path / "other", tiny_checkpoint, seed=6, num_improvement_loops=1)
    ours, others = (read_trajectories(o / "loop_00/trajectories.h5").histories[0] for o in (out, tmp_path / "other"))
    assert not np.array_equal(ours.observation[0], others.observation[0])


def test_loops_draw_different_starts_and_noise(finished):
    out, _ = finished
    first, second = (read_trajectories(out / f"loop_0{i}/trajectories.h5").histories[2] for i in range(2))
    assert not np.array_equal(first.observation[0], second.observation[0])
    noise = [(h.action - h.extras["mean_action"])[:3] for h in (first, second)]
    assert np.abs(noise[0]).min() > 0 and np.abs(noise[0] - noise[1]).max() > 1e-2


# -- the scene ---------------------------------------------------------------------------------------------------------


def test_the_scene_is_built_once(monkeypatch, tmp_path, tiny_checkpoint):
    built = []

    def build(robot, num_envs, device, *rest):
        built.append((robot.name, num_envs, device))
        return FakeSimulator(robot, num_envs, device, *rest)

    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", build)
    adapt(small_config(tmp_path / "run", tiny_checkpoint))
    assert built == [("minicheetah", 3, "cpu")]


def test_a_run_records_its_number_of_environments_and_a_resumed_one_takes_it(tmp_path, tiny_checkpoint):
    """Half of its 10 episodes, where none was given."""
    out = tmp_path / "run"
    options = {"num_envs": None, "episodes_per_loop": 10, "gate": False}
    run_small(out, tiny_checkpoint, num_improvement_loops=1, **options)
    assert json.loads((out / "config.json").read_text())["options"]["num_envs"] == 5
    run_small(out, tiny_checkpoint, resume=True, **options)
    with pytest.raises(UsageError, match="--num-envs was 5, now 2"):
        run_small(out, tiny_checkpoint, resume=True, **options | {"num_envs": 2})


def test_a_given_simulator_is_used(monkeypatch, tmp_path, tiny_checkpoint):
    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", lambda *args: pytest.fail("built a second scene"))
    run_small(tmp_path / "run", tiny_checkpoint, num_improvement_loops=1)


# -- the operators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("improver", IMPROVERS)
def test_every_operator_trains_the_group(tmp_path, tiny_checkpoint, improver):
    out = tmp_path / "run"
    run_small(out, tiny_checkpoint, improver=improver, num_improvement_loops=1)
    initial, trained = read_state(out / "models/initial"), read_state(out / "models/loop_01")
    moved = {name for name in initial if not (initial[name] == trained[name]).all()}
    assert moved == {name for name in initial if f".{GROUP}." in name}


def test_the_decoder_alone_can_be_trained(tmp_path, tiny_checkpoint):
    out = tmp_path / "run"
    run_small(out, tiny_checkpoint, train="decoder", num_improvement_loops=1)
    initial, trained = read_state(out / "models/initial"), read_state(out / "models/loop_01")
    moved = {name for name in initial if not (initial[name] == trained[name]).all()}
    assert moved == {name for name in initial if name.startswith(f"head.acs_decoders.{GROUP}.")}


def test_without_the_ladder_every_environment_explores_alike(tmp_path, tiny_checkpoint):
    def strengths(out, **options):
        run_small(out, tiny_checkpoint, num_improvement_loops=1, num_envs=5, episodes_per_loop=5, noise=0.2, **options)
        histories = read_trajectories(out / "loop_00/trajectories.h5").histories
        return [(h.action - h.extras["mean_action"]).std() for h in histories]

    alike = strengths(tmp_path / "alike", noise_ladder=False)
    np.testing.assert_allclose(alike, 0.2, rtol=0.35)
    on_ladder = strengths(tmp_path / "ladder")
    assert on_ladder[0] == 0.0 and on_ladder[-1] > 4 * on_ladder[1] > 0.0


# -- corners -----------------------------------------------------------------------------------------------------------


def test_cloning_without_noise_is_a_fixed_point(tmp_path, tiny_checkpoint):
    """The control: its targets are what the model does already, so there is nothing to learn."""
    result = run_small(tmp_path / "run", tiny_checkpoint, improver="clone", gate=False, noise=0.0, fall_after=(7, 9, 6))
    assert [row["loop"] for row in result.rows] == [1, 2]
    assert result.rows[0]["loss_first"] < 1e-9
    critic = run_small(tmp_path / "critic", tiny_checkpoint, gate=False, fall_after=(7, 9, 6))
    assert critic.rows[0]["loss_first"] > 1e-4


def test_episodes_shorter_than_a_window_train(tmp_path, tiny_checkpoint):
    out = tmp_path / "run"
    result = run_small(
        out, tiny_checkpoint, episodes_per_loop=10, fall_after=(3, 3, 3), context_len=64, num_improvement_loops=1
    )
    row = result.rows[1]
    assert row["env_steps"] == 30 and row["loss"] > 0
    initial, trained = read_state(out / "models/initial"), read_state(out / "models/loop_01")
    assert any(not (initial[name] == trained[name]).all() for name in initial)


def test_failures_of_the_simulation_are_counted_and_survived(tmp_path, tiny_checkpoint):
    result = run_small(
        tmp_path / "run", tiny_checkpoint, faults={(4, 0): "nan", (6, 2): "solver"}, fall_after=(30, 30, 30), gate=False
    )
    assert [row["failures"] for row in result.rows] == [2, 2]
    read = read_trajectories(tmp_path / "run/loop_00/trajectories.h5")
    assert all(np.isfinite(h.observation).all() and np.isfinite(h.reward).all() for h in read.histories)


@pytest.mark.parametrize(
    ("options", "loops"),
    [
        ({}, [[0], [0, 1], [2]]),  # the second loop starts from the initial model again
        ({"replay": "all"}, [[0], [0, 1], [0, 1, 2]]),
        ({"gate": False}, [[0], [1], [2]]),
    ],
    ids=str,
)
def test_which_loops_are_learnt_from(monkeypatch, tmp_path, tiny_checkpoint, options, loops):
    script_evaluations(monkeypatch, [5.0, 4.0, 4.0, 4.0, 6.0, 7.0])
    used, learnt = [], []

    class Spy(learning.Windows):
        def __init__(self, histories, *rest, **options):
            used.append(np.concatenate([h.reward for h in histories]))
            super().__init__(histories, *rest, **options)

    class SpyImprover(CriticImprover):
        def targets(self, histories, replay, *rest, **options):
            learnt.append(np.concatenate([h.reward for h in replay]))
            return super().targets(histories, replay, *rest, **options)

    monkeypatch.setattr("vintix_fast.learning.Windows", Spy)
    monkeypatch.setitem(OPERATORS, "critic", SpyImprover)
    out = tmp_path / "run"
    run_small(out, tiny_checkpoint, num_improvement_loops=3, **options)
    collected = [read_trajectories(out / f"loop_0{i}/trajectories.h5").histories for i in range(3)]
    for loop, (trained, replay, indices) in enumerate(zip(used, learnt, loops, strict=True)):
        np.testing.assert_array_equal(trained, np.concatenate([h.reward for h in collected[loop]]))
        np.testing.assert_array_equal(replay, np.concatenate([h.reward for i in indices for h in collected[i]]))


@pytest.mark.parametrize(
    ("options", "starts"),
    [
        ({}, collecting.STARTS),
        ({"improver": "clone"}, 0),  # the guide's control
        ({"random_starts": False}, 0),  # they would all be the same
        ({"gate": False}, 0),  # nobody has evaluated it
        ({"fall_after": (90, 90, 90)}, 0),  # short episodes are starts enough
        ({"fall_after": (999, 999, 999)}, 0),  # there is nothing to learn of them
    ],
    ids=str,
)
def test_a_robot_that_walks_and_still_falls_practises_starts(tmp_path, tiny_checkpoint, options, starts):
    out, learnt = tmp_path / "run", []

    class Spy(CriticImprover):
        def targets(self, histories, *rest, **options):
            learnt.extend(histories)
            return super().targets(histories, *rest, **options)

    long = dict(max_steps_per_episode=400, num_improvement_loops=1, episodes_per_loop=3, min_steps_per_loop=0)
    config = small_config(out, tiny_checkpoint, **long | {k: v for k, v in options.items() if k != "fall_after"})
    falls = options.get("fall_after", (10, 999, 999))
    simulator = FakeSimulator(load_robot(config.robot_type), config.envs, fall_after=falls)
    improver = None if "improver" in options else Spy(config.improve)
    row = adapt(config, simulator=simulator, improver=improver).rows[-1]
    read = read_trajectories(out / "loop_00/trajectories.h5").histories
    for history, fall in zip(read, falls, strict=True):
        lengths = [stop - start for start, stop in history.episodes()]
        assert lengths == [min(fall, collecting.START_STEPS)] * starts + [min(fall, 400)]
    assert row["env_steps"] == sum(map(len, read)) and row["episodes"] == 3
    assert row.get("fallen_starts") == (sum(fall == 10 for fall in falls) / 3 if starts else None)
    # What is learnt of is what the file has, which a resumed run reads.
    for history, written in zip(learnt, read, strict=bool(learnt)):
        np.testing.assert_array_equal(history.action, written.action)
        np.testing.assert_array_equal(history.extras["truncated"], written.extras["truncated"])


def test_a_loops_episodes_are_repeated_until_there_are_enough_steps(tmp_path, tiny_checkpoint):
    result = run_small(
        tmp_path / "run", tiny_checkpoint, fall_after=(3, 3, 3), min_steps_per_loop=25, gate=False,
        num_improvement_loops=1,
    )  # fmt: skip
    assert result.rows[0]["episodes"] == 12 and result.rows[0]["env_steps"] == 36


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"robot_type": "go3"}, UsageError, "go3"),
        ({"context_len": 65}, UsageError, "--context-len 65 .* 64"),
        ({"reference_robot": "a1"}, InputFileError, "a1.*go2_locomotion, go1_locomotion"),
        ({"pretrained_path": "no/such/dir"}, InputFileError, "no/such/dir"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    monkeypatch, tmp_path, tiny_checkpoint, options, error, words
):
    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", lambda *args: pytest.fail("built a scene first"))
    options = {"pretrained_path": tiny_checkpoint} | SMALL | options
    with pytest.raises(error, match=words):
        adapt(AdaptConfig.from_options(output_dir=tmp_path / "run", **options))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_one_group_can_be_adapted(tmp_path):
    checkpoint = save_tiny(tmp_path / "single", {"quadruped": "quadruped_locomotion"})
    out = tmp_path / "run"
    run_small(out, checkpoint, num_improvement_loops=1, gate=False)
    assert load_checkpoint(out / "models/loop_01").groups == ("quadruped_locomotion", GROUP)


def test_another_task_is_run_recorded_and_gone_on_with(tmp_path, tiny_checkpoint):
    task, out = TaskConfig(command=(0.3, 0.0, 0.1), latency_steps=0), tmp_path / "run"
    run_small(out, tiny_checkpoint, task=task, num_improvement_loops=1)
    read = read_trajectories(out / "loop_00/trajectories.h5")
    assert TaskConfig.from_json(json.loads(read.attributes["task"])) == task
    assert TaskConfig.from_json(json.loads((out / "config.json").read_text())["task"]) == task
    seen = np.concatenate([history.observation[:, QUADRUPED.command] for history in read.histories])
    np.testing.assert_allclose(seen, np.tile(np.multiply(task.command, QUADRUPED.command_scale), (len(seen), 1)), 1e-6)
    with pytest.raises(UsageError, match="task was .*command.*0.3"):
        run_small(out, tiny_checkpoint, resume=True)
    rows = run_small(out, tiny_checkpoint, resume=True, task=task).rows
    assert [row["loop"] for row in rows] == [0, 1, 2]
