"""Recorded episodes as a LeRobot data set of version 3.0: Parquet tables, and JSON that describes them.

Written with pyarrow: LeRobot's own writer asks for another torch.  Knows nothing about images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vintix_fast.service.files import write_json
from vintix_fast.sharing.episodes import RecordedEpisode, Recordings
from vintix_fast.world.robot import load_robot, robot_names
from vintix_fast.world.simulator import DT_S

VERSION = "v3.0"
FPS = round(1 / DT_S)
FILE_BYTES = 100 * 10**6
"""About the most that one file of data holds; the format says 100 MB."""
FILES_IN_CHUNK = 1000
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
Columns = dict[str, np.ndarray]


def write_lerobot(recordings: Recordings, root: Path) -> str:
    """Write a data set to ``root``, and say how it is opened."""
    words = f"walk: command {', '.join(f'{part:g}' for part in recordings.task.command)} (m/s, m/s, rad/s)"
    described: list[dict[str, Any]] = []
    table: list[Columns] = []
    rows = size = 0
    file = 0
    everything: list[Columns] = []
    for number, episode in enumerate(recordings):
        columns = _columns(number, rows, episode)
        size += sum(column.nbytes for column in columns.values())
        if size > FILE_BYTES and table:
            _write_data(root, file, table)
            file, table, size = file + 1, [], 0
        table.append(columns)
        everything.append(columns)
        described.append(_description(number, rows, file, columns, words))
        rows += len(episode)
    _write_data(root, file, table)
    tasks = root / "meta/tasks.parquet"
    tasks.parent.mkdir(parents=True)
    pd.DataFrame({"task_index": [0]}, index=[words]).to_parquet(tasks)
    episodes = root / "meta/episodes" / FILE.format(chunk_index=0, file_index=0)
    episodes.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(described), episodes)
    whole = {name: np.concatenate([columns[name] for columns in everything]) for name in everything[0]}
    write_json(root / "meta/stats.json", {name: statistics(column) for name, column in whole.items()})
    write_json(root / "meta/info.json", _info(recordings, whole, len(described), rows))
    return f"{len(described)} episodes, {rows} steps. LeRobotDataset({recordings.robot!r}, root={{!r}}) opens it"


def _columns(number: int, first: int, episode: RecordedEpisode) -> Columns:
    """An episode's rows, by feature; ``first`` is its first row's number among all."""
    n = len(episode)
    frame = np.arange(n, dtype=np.int64)
    return {
        "observation.state": episode.observation,
        "action": episode.action,
        "mean_action": episode.mean_action,
        "next.reward": episode.reward,
        "next.done": episode.terminated | episode.truncated,
        "next.terminated": episode.terminated,
        "next.truncated": episode.truncated,
        "next.failed": episode.failed,
        "timestamp": (frame / FPS).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(n, number, np.int64),
        "index": first + frame,
        "task_index": np.zeros(n, np.int64),
    }


def _write_data(root: Path, file: int, episodes: list[Columns]) -> None:
    """One file of data, a row group an episode."""
    path = root / "data" / FILE.format(**_place(file))
    path.parent.mkdir(parents=True, exist_ok=True)
    tables = [pa.table({name: _array(column) for name, column in columns.items()}) for columns in episodes]
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)


def _array(column: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(column).reshape(-1))
    return flat if column.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, column.shape[1])


def _place(file: int) -> dict[str, int]:
    return {"chunk_index": file // FILES_IN_CHUNK, "file_index": file % FILES_IN_CHUNK}


def _description(number: int, first: int, file: int, columns: Columns, task: str) -> dict[str, Any]:
    """An episode's row in meta/episodes."""
    n = len(columns["index"])
    said: dict[str, Any] = {"episode_index": number, "tasks": [task], "length": n}
    said |= {"dataset_from_index": first, "dataset_to_index": first + n}
    said |= {f"data/{key}": value for key, value in _place(file).items()}
    said |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    for name, column in columns.items():
        said |= {f"stats/{name}/{key}": value for key, value in statistics(column).items()}
    return said


def statistics(column: np.ndarray) -> dict[str, list[float]]:
    """Of a feature's rows [n] or [n, D]: D numbers each; ``count`` is how many rows there are."""
    rows = column.reshape(len(column), -1).astype(np.float64)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    found |= dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))
    return {key: values.tolist() for key, values in found.items()} | {"count": [len(rows)]}


def _info(recordings: Recordings, columns: Columns, episodes: int, rows: int) -> dict[str, Any]:
    joints = _joints(recordings)
    named = {"action": joints, "mean_action": joints, "observation.state": _observed(joints)}
    features = {
        name: {"dtype": column.dtype.name, "shape": list(column.shape[1:]) or [1], "names": named.get(name)}
        for name, column in columns.items()
    }
    return {
        "codebase_version": VERSION,
        "robot_type": recordings.robot,
        "total_episodes": episodes,
        "total_frames": rows,
        "total_tasks": 1,
        "chunks_size": FILES_IN_CHUNK,
        "data_files_size_in_mb": FILE_BYTES // 10**6,
        "video_files_size_in_mb": 200,
        "fps": FPS,
        "splits": {"train": f"0:{episodes}"},
        "data_path": f"data/{FILE}",
        "video_path": None,
        "features": features,
    }


def _joints(recordings: Recordings) -> list[str]:
    """The joints' names, or their numbers where the robot is none of the package's."""
    if recordings.robot in robot_names():
        return list(load_robot(recordings.robot).joints)
    return [f"joint_{number}" for number in range(recordings.layout.num_joints)]


def _observed(joints: list[str]) -> list[str]:
    base = [f"{what}.{axis}" for what in ("ang_vel", "gravity") for axis in "xyz"]
    command = [f"command.{part}" for part in ("forward", "lateral", "yaw")]
    return base + command + [f"{what}.{joint}" for what in ("joint_pos", "joint_vel") for joint in joints]
