"""Trajectories as data sets of Minari and LeRobot, opened by those libraries."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from commands import invoke, spoken
from made_collections import write_collection

from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.sharing.convert import convert
from vintix_fast.sharing.episodes import read_recordings
from vintix_fast.world.task_config import TaskConfig

FAST = TaskConfig(command=(1.0, 0.0, 0.0))


@pytest.fixture
def two_collections(tmp_path):
    """Two files of a run; the first's last episode is cut, the second's too; returns folder and histories."""
    folder = tmp_path / "run"
    folder.mkdir()
    histories = [
        write_collection(folder / f"loop_{n:02d}/trajectories.h5", lengths, seed=n, task=FAST)
        for n, lengths in enumerate(([3, 5, 2], [4, 1]))
    ]
    return folder, histories


def expected(histories):
    """(history, start, stop) of every episode, in order."""
    return [(h, start, stop) for h in histories for start, stop in h.episodes()]


def test_episodes_come_in_order_and_a_cut_one_counts_as_truncated(two_collections):
    folder, histories = two_collections
    recordings = read_recordings(folder)
    assert recordings.robot == "go2" and recordings.task == FAST
    episodes = list(recordings)
    assert [len(e) for e in episodes] == [3, 5, 2, 4, 1]
    assert [(bool(e.terminated[-1]), bool(e.truncated[-1])) for e in episodes] == [
        *([(True, False)] * 2), (False, True), (True, False), (False, True)
    ]  # fmt: skip
    assert not any(e.terminated[:-1].any() or e.truncated[:-1].any() for e in episodes)


def test_files_of_different_robots_or_none_are_refused(tmp_path):
    write_collection(tmp_path / "a.h5", [3], robot="go2")
    assert [len(episode) for episode in read_recordings(tmp_path)] == [3]  # files side by side, as `distil` leaves them
    write_collection(tmp_path / "b.h5", [3], robot="go1")
    with pytest.raises(InputFileError, match="b.h5 is of another robot or task than .*a.h5"):
        read_recordings(tmp_path)
    with pytest.raises(InputFileError, match="nowhere does not exist; give a trajectories.h5"):
        read_recordings(tmp_path / "nowhere")
    write_collection(tmp_path / "d.h5", [3])
    with h5py.File(tmp_path / "d.h5", "r+") as file:
        file["0-2/reward"][1] = np.inf
    with pytest.raises(InputFileError, match="d.h5: reward holds NaN or infinity"):
        read_recordings(tmp_path / "d.h5")
    write_collection(tmp_path / "c.h5", [3], robot="../../etc")
    assert read_recordings(tmp_path / "c.h5").robot == "_etc"


def test_minari_opens_what_convert_writes(two_collections, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason="needs vintix-fast[minari]")
    folder, histories = two_collections
    out = tmp_path / "minari"
    result = invoke("convert", folder, "--to", "minari", "--output-dir", out, columns=400)
    assert result.exit_code == 0, result.output
    assert "minari.load_dataset('vintix-fast/go2-walk-v0')" in spoken(result.stdout)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out))
    assert list(minari.list_local_datasets()) == ["vintix-fast/go2-walk-v0"]
    dataset = minari.load_dataset("vintix-fast/go2-walk-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (5, 15)
    for episode, (history, start, stop) in zip(dataset.iterate_episodes(), expected(histories), strict=True):
        np.testing.assert_array_equal(episode.observations[:-1], history.observation[start:stop])
        np.testing.assert_array_equal(episode.observations[-1], history.observation[stop - 1])
        for name in ("actions", "rewards"):
            np.testing.assert_array_equal(getattr(episode, name), getattr(history, name[:-1])[start:stop])
        np.testing.assert_array_equal(episode.infos["mean_action"][:-1], history.extras["mean_action"][start:stop])
        fell = bool(history.extras["terminated"][stop - 1])
        assert (episode.terminations[-1], episode.truncations[-1]) == (fell, not fell)
    assert dataset.spec.env_spec.id == "Walk-v0"
    assert dataset.spec.env_spec.kwargs == {"robot": "go2", "task": FAST.to_json()}
    assert dataset.spec.observation_space.shape == (33,) and dataset.spec.action_space.shape == (12,)


# LeRobot asks for a torchvision that was built for its own torch, to turn images; there are none here.
READ_LEROBOT = """
import importlib.machinery, json, sys, types
parts = {}
for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2"):
    parts[name] = sys.modules[name] = types.ModuleType(name)
    parts[name].__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
parts["torchvision"].transforms = parts["torchvision.transforms"]
parts["torchvision.transforms"].v2 = parts["torchvision.transforms.v2"]
parts["torchvision.transforms.v2"].Transform = parts["torchvision.transforms.v2"].functional = object
from lerobot.datasets.lerobot_dataset import LeRobotDataset
whole = LeRobotDataset("go2", root=sys.argv[1], delta_timestamps={"action": [0.0, 0.02]})
plain = LeRobotDataset("go2", root=sys.argv[1])
second = LeRobotDataset("go2", root=sys.argv[1], episodes=[1])
rows = [{k: v.tolist() if hasattr(v, "tolist") else v for k, v in plain[i].items()} for i in range(len(plain))]
meta = plain.meta
print(json.dumps({
    "rows": rows, "next": [whole[i]["action"].tolist() for i in range(len(whole))],
    "pad": [whole[i]["action_is_pad"].tolist() for i in range(len(whole))],
    "second": [second[i]["index"].item() for i in range(len(second))],
    "fps": meta.fps, "robot": meta.robot_type, "episodes": meta.total_episodes, "names": meta.names["action"],
    "mean": meta.stats["observation.state"]["mean"].tolist(), "bounds": [[e["dataset_from_index"],
    e["dataset_to_index"]] for e in meta.episodes],
}))
"""


def test_lerobot_opens_what_convert_writes(two_collections, tmp_path):
    pytest.importorskip("pyarrow", reason="needs vintix-fast[lerobot]")
    pytest.importorskip("lerobot", reason="lerobot, which asks for an older torch, is not installed")
    folder, histories = two_collections
    out = tmp_path / "lerobot"
    assert invoke("convert", folder, "--to", "lerobot", "--output-dir", out).exit_code == 0
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", READ_LEROBOT, str(out)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    read = json.loads(found.stdout.splitlines()[-1])
    assert (read["fps"], read["robot"], read["episodes"]) == (50, "go2", 5)
    assert read["bounds"] == [[0, 3], [3, 8], [8, 10], [10, 14], [14, 15]] and read["second"] == [3, 4, 5, 6, 7]
    assert read["names"][:2] == ["FR_hip_joint", "FR_thigh_joint"]
    rows = read["rows"]
    whole = {
        name: np.concatenate([getattr(h, name) for h in histories]) for name in ("observation", "action", "reward")
    }
    for name, column in (("observation.state", "observation"), ("action", "action"), ("next.reward", "reward")):
        np.testing.assert_array_equal(np.float32([row[name] for row in rows]), whole[column])
    assert [row["next.done"] for row in rows] == [i + 1 in (3, 8, 10, 14, 15) for i in range(15)]
    assert [row["next.terminated"] for row in rows] == [i + 1 in (3, 8, 14) for i in range(15)]
    assert {row["task"] for row in rows} == {"walk: command 1, 0, 0 (m/s, m/s, rad/s)"}
    # Two actions a row, as a policy that predicts ahead asks for them: the last of an episode is repeated.
    np.testing.assert_array_equal(np.float32(read["next"])[0], whole["action"][:2])
    assert read["pad"][2] == [False, True] and read["pad"][3] == [False, False]
    np.testing.assert_allclose(read["mean"], whole["observation"].mean(0, dtype=np.float64), rtol=1e-6)


def test_large_data_goes_to_several_files(two_collections, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs vintix-fast[lerobot]")
    from vintix_fast.sharing import lerobot_set

    monkeypatch.setattr(lerobot_set, "FILE_BYTES", 2000)
    convert(two_collections[0], "lerobot", tmp_path / "out")
    files = sorted((tmp_path / "out/data/chunk-000").iterdir())
    counts = [parquet.read_metadata(file).num_rows for file in files]
    assert len(files) > 1 and sum(counts) == 15
    episodes = parquet.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    by_file = [sum(e["length"] for e in episodes if e["data/file_index"] == n) for n in range(len(files))]
    assert by_file == counts


def test_a_missing_library_is_named_before_anything_is_read(tmp_path, monkeypatch):
    from vintix_fast.service import extras

    for name in ("minari", "pyarrow", "pandas", "gymnasium"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--to minari needs gymnasium and minari: pip .*'vintix-fast\[minari\]'"):
        convert(tmp_path / "nothing", "minari", tmp_path / "out")
    with pytest.raises(UsageError, match=r"--to lerobot needs pandas and pyarrow: pip .*'vintix-fast\[lerobot\]'"):
        convert(tmp_path / "nothing", "lerobot", tmp_path / "out")
