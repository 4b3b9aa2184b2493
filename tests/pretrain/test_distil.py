"""Learning histories by noise distillation: the files and going on; in the fake simulator."""

import json
import re
import shutil

import h5py
import numpy as np
import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, FakeSimulator
from histories_on_disk import Watcher

from vintix_fast.data import read_trajectories
from vintix_fast.data import schema as schema_module
from vintix_fast.policy.expert import expert_network, load_expert
from vintix_fast.pretrain import distil as distil_module
from vintix_fast.pretrain.config import DistilConfig
from vintix_fast.pretrain.distil import distil, random_share, return_along_history
from vintix_fast.service.errors import InputFileError, Interrupted, UsageError
from vintix_fast.service.files import save_tensors, write_json
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task_config import DEFAULT_TASK

SMALL = dict(histories=3, num_envs=3, steps_per_env=30, max_steps_per_episode=12)
STEPS = SMALL["steps_per_env"]


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    """An expert of go2 made by hand; not to be written to."""
    out = tmp_path_factory.mktemp("expert") / "go2"
    out.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        save_tensors(out / "expert.pth", expert_network([8]).state_dict())
    write_json(out / "expert.json", {"robot": "go2", "hidden_dims": [8]})
    return out


def run(out, expert, *, progress=None, fall_after=(), **options):
    config = DistilConfig(expert=expert, output_dir=out, **(SMALL | options))
    simulator = FakeSimulator(load_robot("go2"), config.num_envs, fall_after=fall_after)
    return distil(config, simulator=simulator, progress=progress)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, expert):
    """Histories that nothing disturbed; not to be written to."""
    out = tmp_path_factory.mktemp("finished") / "histories"
    return out, run(out, expert)


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory, expert):
    """Twice as many histories as environments; not to be written to."""
    out = tmp_path_factory.mktemp("finished") / "histories"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distil_module, "write_learning_history", lambda path, robot, rows: path.touch())
        run(out, expert, histories=6)
    return out


@pytest.fixture(autouse=True)
def plots_are_empty(monkeypatch, finished, two_rounds):
    """Half of a small run's time is its plot; ``finished`` has a real one."""
    monkeypatch.setattr(distil_module, "write_learning_history", lambda path, robot, rows: path.touch())


def histories(out):
    return [read_trajectories(path).histories[0] for path in sorted(out.glob("*.h5"))]


def assert_same_histories(left, right):
    """Bit for bit, with what the JSON files beside them say."""
    assert [p.name for p in sorted(left.glob("*.h5"))] == [p.name for p in sorted(right.glob("*.h5"))]
    for a, b in zip(histories(left), histories(right), strict=True):
        for name in ("observation", "action", "reward", "step_num"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        for name in a.extras.keys() | b.extras.keys():
            np.testing.assert_array_equal(a.extras[name], b.extras[name], err_msg=name)
    for path in sorted(left.glob("trajectories_env_*.json")):
        assert path.read_text() == (right / path.name).read_text()


# -- what it leaves ----------------------------------------------------------------------------------------------------


def test_every_history_is_a_file_with_its_description_beside_it(finished):
    out, _ = finished
    names = {f"trajectories_env_{env:04d}.{kind}" for env in range(3) for kind in ("h5", "json")}
    about_all = {"config.json", "distil.json", "returns.png", "histories.json"}
    assert {path.name for path in out.iterdir()} == names | about_all
    assert (out / "returns.png").read_bytes().startswith(b"\x89PNG")
    for env in range(3):
        about = json.loads((out / f"trajectories_env_{env:04d}.json").read_text())
        assert about["task_name"] == "go2_walking_ad" and about["action_type"] == "continuous"
        assert about["observation_shape"] == {"proprio": [OBSERVATIONS]} and about["action_dim"] == ACTIONS
        read = read_trajectories(out / f"trajectories_env_{env:04d}.h5")
        assert read.closed_cleanly and read.attributes["task_name"] == "go2_walking_ad"
        assert json.loads(read.attributes["task"]) == DEFAULT_TASK.to_json()
        assert [len(history) for history in read.histories] == [STEPS]


@pytest.mark.parametrize("folder", ["histories", "distil"])
def test_the_folders_own_json_tells_older_readers_the_task(finished, tmp_path, expert, folder):
    out = finished[0] if folder == "histories" else tmp_path / folder
    if not out.exists():
        run(out, expert)  # where the summary has the same name
    about = json.loads((out / f"{folder}.json").read_text())
    assert about["task_name"] == "go2_walking_ad" and about["group_name"] == "go2_locomotion"
    assert about["observation_shape"] == {"proprio": [OBSERVATIONS]} and about["action_dim"] == ACTIONS
    assert json.loads((out / "distil.json").read_text())["histories"] == 3


def test_the_experts_action_is_called_as_vintix_2_calls_it(finished):
    with h5py.File(finished[0] / "trajectories_env_0000.h5") as file:
        stored = {name: group for name, group in next(iter(file.values())).items()}
        assert "demonstrator_action" in stored and "mean_action" not in stored
        np.testing.assert_array_equal(stored["demonstrator_action"], histories(finished[0])[0].extras["mean_action"])


def test_the_description_lists_the_finished_episodes(finished):
    out, _ = finished
    listed = 0
    for env, history in enumerate(histories(out)):
        about = json.loads((out / f"trajectories_env_{env:04d}.json").read_text())
        ended = history.extras["terminated"] | history.extras["truncated"]
        bounds = [(start, stop) for start, stop in history.episodes() if ended[stop - 1]]
        assert len(about["episodes"]) == len(bounds)
        for (return_, length, fell), (start, stop) in zip(about["episodes"], bounds, strict=True):
            assert length == stop - start and fell == bool(history.extras["terminated"][stop - 1])
            assert return_ == pytest.approx(history.reward[start:stop].sum(), abs=1e-5)
            listed += 1
    assert listed > 3


def test_the_summary_counts_what_was_collected(finished, expert):
    out, card = finished
    written = json.loads((out / "distil.json").read_text())
    assert card.items() <= written.items()
    assert card["robot"] == "go2" and card["histories"] == 3 and card["env_steps"] == 3 * STEPS
    assert written["options"]["expert"] == str(expert) and "torch" in written["versions"]
    listed = [json.loads((out / f"trajectories_env_{env:04d}.json").read_text())["episodes"] for env in range(3)]
    assert sum(row["episodes"] for row in card["return_along_history"]) == sum(map(len, listed))


def test_the_stored_clean_action_is_the_experts_on_what_was_observed_and_executed(finished, expert):
    network, _ = load_expert(expert)
    for history in histories(finished[0]):
        previous = np.zeros_like(history.action)
        previous[1:] = history.action[:-1]
        previous[history.step_num == 0] = 0.0
        with torch.inference_mode():
            clean = network(torch.from_numpy(np.concatenate([history.observation, previous], axis=1)))
        np.testing.assert_allclose(history.extras["mean_action"], clean, atol=1e-5)


@pytest.fixture(scope="module")
def told_expert(tmp_path_factory):
    """An expert of go2, made by hand, that is told a payload and a leg's strength; not to be written to."""
    out, told = tmp_path_factory.mktemp("told") / "go2", "payload_kg=0:5, motor.any_leg=0.5:1"
    out.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        save_tensors(out / "expert.pth", expert_network([8], told=1 + ACTIONS).state_dict())
    write_json(out / "expert.json", {"robot": "go2", "hidden_dims": [8], "told": told})
    return out


def test_an_expert_that_is_told_of_its_world_shows_what_it_would_do_there(tmp_path, told_expert):
    """The history's observation does not hold the values; they are recorded beside it."""
    out = tmp_path / "histories"
    run(out, told_expert, vary="payload_kg=0:5, motor.FR=0.5, redraw_episodes=2", fall_after=(5, 6, 7))
    network, _ = load_expert(told_expert)
    worlds = []
    for env, history in enumerate(histories(out)):
        with h5py.File(out / f"trajectories_env_{env:04d}.h5") as file:
            assert json.loads(file.attrs["variation"]) == ["payload_kg", "motor.FR"]
            (values,) = (group["variation"][:] for group in file.values())
        assert history.observation.shape[1] == OBSERVATIONS and (values[:, 1] == 0.5).all()
        previous = np.zeros_like(history.action)
        previous[1:] = history.action[:-1]
        previous[history.step_num == 0] = 0.0
        told = np.ones((STEPS, 1 + ACTIONS), np.float32)
        told[:, 0] = values[:, 0] / 2.5 - 1.0
        told[:, 1:4] = -1.0  # the leg FR
        with torch.inference_mode():
            clean = network(torch.from_numpy(np.concatenate([history.observation, previous, told], axis=1)))
        np.testing.assert_allclose(history.extras["mean_action"], clean, atol=1e-5)
        # Two episodes in each world.
        begun = values[history.step_num == 0, 0]
        assert len(begun) > 4 and (begun[0:4:2] == begun[1:4:2]).all() and begun[0] != begun[2]
        worlds.append(begun[0])
    assert len(set(worlds)) == 3


def test_an_expert_that_is_told_of_its_world_walks_in_the_plain_one_too(tmp_path, told_expert):
    run(tmp_path / "histories", told_expert)
    with h5py.File(tmp_path / "histories/trajectories_env_0000.h5") as file:
        assert "variation" not in file.attrs


def test_the_executed_actions_go_from_noise_to_the_expert(finished):
    lowest, highest = load_robot("go2").joint_range_rad.T
    for history in histories(finished[0]):
        clean = history.extras["mean_action"]
        shares = np.array([random_share(step, STEPS, 0.5, 0.05) for step in range(STEPS)])[:, None]
        loud = shares[:, 0] > 0.05
        drawn = (history.action - (1 - shares) * clean)[loud] / shares[loud]
        target = np.array(load_robot("go2").default_pose_rad) + 0.25 * drawn
        assert (target > lowest - 1e-4).all() and (target < highest + 1e-4).all()
        np.testing.assert_array_equal(history.action[-1], clean[-1])  # 0.05 * 30 steps: the last one, and a half


def test_a_long_history_is_groups_that_follow_each_other(monkeypatch, tmp_path, expert):
    """Public readers of this format find a transition by the numbers in the groups' names."""
    monkeypatch.setattr(schema_module, "BLOCK_LEN", 8)
    out = tmp_path / "histories"
    run(out, expert)
    for env, history in enumerate(histories(out)):
        with h5py.File(out / f"trajectories_env_{env:04d}.h5") as file:
            spans = sorted(tuple(map(int, re.fullmatch(r"(\d+)-(\d+)", name).groups())) for name in file)
            assert spans == [(0, 7), (8, 15), (16, 23), (24, 29)]
            for first, last in spans:
                group, n = file[f"{first}-{last}"], last - first + 1
                assert group["proprio_observation"].shape == (n, OBSERVATIONS) and group["action"].shape == (n, ACTIONS)
                assert group["reward"].shape == (n,) and group["step_num"].shape == (n,)
                np.testing.assert_array_equal(group["action"], history.action[first : last + 1])


def test_a_history_without_a_finished_episode_is_kept(tmp_path, expert):
    card = run(tmp_path / "histories", expert, steps_per_env=5, fall_after=(50, 50, 50))
    assert card["return_along_history"] == []
    assert [len(history) for history in histories(tmp_path / "histories")] == [5, 5, 5]


def test_a_seed_decides_the_histories(finished, tmp_path, expert):
    run(tmp_path / "again", expert)
    assert_same_histories(tmp_path / "again", finished[0])
    run(tmp_path / "other", expert, seed=6)
    ours, others = histories(finished[0])[0], histories(tmp_path / "other")[0]
    assert not np.array_equal(ours.observation[0], others.observation[0])
    assert not np.array_equal(ours.action[0], others.action[0])


def test_rounds_draw_different_starts_and_noise(two_rounds):
    found = histories(two_rounds)
    assert len(found) == 6
    starts = {history.observation[0].tobytes() for history in found}
    drawn = {history.action[0].tobytes() for history in found}
    assert len(starts) == 6 and len(drawn) == 6


def test_return_along_a_history_counts_episodes_where_they_begin():
    one = [(1.0, 4, True), (3.0, 6, False), (8.0, 2, True)]
    other = [(2.0, 4, True)]
    assert return_along_history([one, [], other], steps=40) == [
        {"from_step": 0.0, "to_step": 2.0, "episodes": 2, "mean_return": 1.5, "mean_length": 4.0, "fell": 1.0},
        {"from_step": 4.0, "to_step": 6.0, "episodes": 1, "mean_return": 3.0, "mean_length": 6.0, "fell": 0.0},
        {"from_step": 10.0, "to_step": 12.0, "episodes": 1, "mean_return": 8.0, "mean_length": 2.0, "fell": 1.0},
    ]
    assert return_along_history([], steps=40) == []


# -- stopping and going on ---------------------------------------------------------------------------------------------


def contents(paths):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_a_stopped_run_collects_the_missing_rounds(two_rounds, tmp_path, expert):
    out = tmp_path / "histories"
    with pytest.raises(Interrupted, match="--resume.*last finished round"):
        run(out, expert, histories=6, progress=Watcher(("on_rollout_step", STEPS + 4)))
    first = [out / f"trajectories_env_{env:04d}.{kind}" for env in range(3) for kind in ("h5", "json")]
    before = contents(first)
    assert sorted(out.glob("*.h5")) == first[::2] and not (out / "distil.json").exists()

    watcher = Watcher()
    card = run(out, expert, histories=6, progress=watcher, resume=True)
    assert contents(first) == before
    assert watcher.parts == ["go2: histories 3 to 5"]
    assert any("Histories 0 to 2 were finished before" in line for line in watcher.said)
    assert_same_histories(out, two_rounds)
    assert {path.name for path in out.iterdir()} == {path.name for path in two_rounds.iterdir()}
    assert card["return_along_history"] == json.loads((two_rounds / "distil.json").read_text())["return_along_history"]


@pytest.mark.parametrize("kind", ["h5", "json"])
def test_a_round_that_lacks_a_file_is_collected_again(two_rounds, tmp_path, expert, kind):
    out = shutil.copytree(two_rounds, tmp_path / "histories")
    (out / f"trajectories_env_0004.{kind}").unlink()
    watcher = Watcher()
    run(out, expert, histories=6, progress=watcher, resume=True)
    assert watcher.parts == ["go2: histories 3 to 5"]
    assert_same_histories(out, two_rounds)


def test_resuming_a_finished_run_changes_no_history(two_rounds, tmp_path, expert):
    out = shutil.copytree(two_rounds, tmp_path / "histories")
    before = contents(out.glob("trajectories_*"))
    watcher = Watcher()
    run(out, expert, histories=6, progress=watcher, resume=True)
    assert watcher.parts == [] and contents(out.glob("trajectories_*")) == before


def test_overwriting_leaves_no_history_of_the_earlier_run(finished, tmp_path, expert):
    out = tmp_path / "histories"
    run(out, expert, histories=6, seed=9)
    run(out, expert, overwrite=True)
    assert_same_histories(out, finished[0])


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"histories": 0}, UsageError, "--histories is 0"),
        ({"histories": 4}, UsageError, "--histories is 4, which is not a multiple of --num-envs 3"),
        ({"steps_per_env": 1}, UsageError, "--steps-per-env is 1"),
        ({"num_envs": 0}, UsageError, "--num-envs is 0"),
        ({"power": 0.0}, UsageError, "--power is 0.0"),
        ({"expert_fraction": 1.0}, UsageError, "--expert-fraction is 1.0; it must be less than 1"),
        ({"expert_fraction": -0.1}, UsageError, "--expert-fraction is -0.1"),
        ({"max_steps_per_episode": 0}, UsageError, "--max-steps-per-episode is 0"),
        ({"seed": -1}, UsageError, "--seed is -1"),
        ({"robot_type": "go1"}, UsageError, "is an expert of go2, not of go1"),
        ({"robot_type": "go3"}, UsageError, "unknown robot 'go3'"),
        ({"expert": "no/such/expert"}, InputFileError, "no/such/expert lacks expert.pth"),
        ({"resume": True}, UsageError, "holds no run of `distil`"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_before_anything_is_written(monkeypatch, tmp_path, expert, options, error, words):
    monkeypatch.setattr(distil_module, "Simulator", lambda *args: pytest.fail("built a scene first"))
    with pytest.raises(error, match=words):
        distil(DistilConfig(**({"expert": expert, "output_dir": tmp_path / "histories"} | SMALL | options)))
    assert list(tmp_path.iterdir()) == []


def test_the_robot_may_be_named_and_is_the_experts_otherwise(monkeypatch, tmp_path, expert):
    built = []

    def build(robot, num_envs, device, *rest):
        built.append((robot.name, num_envs, device))
        return FakeSimulator(robot, num_envs, device, *rest)

    monkeypatch.setattr(distil_module, "Simulator", build)
    for name, options in (("named", {"robot_type": "go2"}), ("unnamed", {})):
        distil(DistilConfig(expert=expert, output_dir=tmp_path / name, **(SMALL | options)))
    assert built == [("go2", 3, "cpu")] * 2
    assert_same_histories(tmp_path / "named", tmp_path / "unnamed")


def test_overwriting_spares_the_expert_in_the_directory(finished, tmp_path, expert):
    out = shutil.copytree(finished[0], tmp_path / "histories")
    moved = out / "returns.png.d"
    moved.mkdir()
    for name in ("expert.pth", "expert.json"):
        (moved / name).write_bytes((expert / name).read_bytes())
    with pytest.raises(UsageError, match="would delete --expert"):
        run(out, moved, overwrite=True)
    assert (moved / "expert.pth").is_file() and len(histories(out)) == 3
