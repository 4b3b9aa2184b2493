"""Reads ``trajectories.h5``: groups of transitions on disk -> one continuous history per environment.

Owns what a well-formed file is (the field names and shapes are in ``vintix_fast.data.schema``).  Reads files of this
package, complete or left behind by a killed process, and files of other tools in the same format.  Knows nothing about
simulators, policies or torch.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from vintix_fast.data.schema import DEMONSTRATOR, REQUIRED_FIELDS, RETIRED_FIELDS, fields
from vintix_fast.data.stored import NUMBERS, check_stored, entry, whole_numbers
from vintix_fast.service.errors import InputFileError
from vintix_fast.world.layout import QUADRUPED, ObservationLayout

_FINAL_NAME = re.compile(r"(\d+)-(\d+)")
_STAGING_NAME = re.compile(r"env_(\d+)_block_(\d+)")
_WRITER_ATTRIBUTES = ("stream_env", "stream_length", "closed_cleanly")


class ShapeError(InputFileError):
    """A file of another task: its observations or actions have other sizes."""


@dataclass(frozen=True)
class History:
    """What one environment lived through, in order: its episodes one after another, n transitions in all."""

    observation: np.ndarray  # [n, O] float32, what the policy saw
    action: np.ndarray  # [n, J] float32, what it did
    reward: np.ndarray  # [n] float32, what it got for it
    step_num: np.ndarray  # [n] int32, step within the episode
    extras: dict[str, np.ndarray]  # further datasets by name, [n, ...]
    env: int  # the environment's index; 0 in a file that does not say

    @classmethod
    def of_columns(cls, columns: dict[str, np.ndarray], env: int) -> Self:
        """Of what goes to a file, by its datasets' names, [n, ...]; those that are not required are extras."""
        extras = dict(columns)
        observation, action, reward, step_num = (extras.pop(name) for name in REQUIRED_FIELDS)
        return cls(observation, action, reward, step_num, extras, env)

    def __len__(self) -> int:
        return len(self.action)

    def episodes(self) -> list[tuple[int, int]]:
        """The episodes as ``(start, stop)``; the last may be unfinished.

        An episode starts where ``step_num`` is 0 or falls (files of other tools may have lost a first step).
        """
        if len(self) == 0:
            return []
        starts_here = self.step_num == 0
        starts_here[1:] |= self.step_num[1:] < self.step_num[:-1]
        starts_here[0] = True
        edges = [*np.flatnonzero(starts_here).tolist(), len(self)]
        return list(zip(edges[:-1], edges[1:], strict=True))


def joined(parts: list[list[History]]) -> list[History]:
    """One history for each environment: its histories in ``parts``, one after another."""
    by_env: dict[int, list[History]] = {}
    for history in (history for part in parts for history in part):
        by_env.setdefault(history.env, []).append(history)
    return [_concatenated(by_env[env]) for env in sorted(by_env)]


def _concatenated(histories: list[History]) -> History:
    first = histories[0]
    if len(histories) == 1:
        return first
    required = ("observation", "action", "reward", "step_num")
    columns = {name: np.concatenate([getattr(h, name) for h in histories]) for name in required}
    extras = {name: np.concatenate([h.extras[name] for h in histories]) for name in first.extras}
    return History(**columns, extras=extras, env=first.env)


@dataclass(frozen=True)
class Trajectories:
    """One file's content."""

    path: Path
    histories: list[History]
    attributes: dict[str, Any]  # of the file, without those that describe the streams; strings as str, numbers as int
    closed_cleanly: bool  # False: the writing process stopped early, this is what it had flushed

    @property
    def num_transitions(self) -> int:
        return sum(len(history) for history in self.histories)


@dataclass(frozen=True)
class _Block:
    """A group and how many of its transitions count."""

    group: str
    datasets: dict[str, h5py.Dataset]
    length: int


def read_trajectories(path: str | PathLike[str]) -> Trajectories:
    """Reads a whole file into memory.

    Accepts groups of any size, groups with one more observation (and step number) than actions, of which the surplus
    one is left out, files without stream attributes (they are one history), and the ``.partial`` files that a killed
    process leaves.

    Raises:
        InputFileError: The file is missing, broken or of another format; the message says which and what to do.
    """
    path = Path(path)
    _check_exists(path)
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path)
    except BlockingIOError:
        raise InputFileError(
            f"{path}: another program has it open for writing, and holds a lock on it. Close it there, or wait for its "
            "end; where nobody writes to it, set HDF5_USE_FILE_LOCKING=FALSE."
        ) from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:  # depending on what is damaged
        raise InputFileError(
            f"{path}: not an HDF5 file, or a truncated or damaged one ({error}). Collect it again, or copy it again "
            "from where it came from."
        ) from error


def _check_exists(path: Path) -> None:
    if path.is_file():
        return
    partial = path.with_name(path.name + ".partial")
    if path.is_dir():
        raise InputFileError(f"{path}: is a directory; give the trajectories.h5 in it.")
    if partial.is_file():
        raise InputFileError(
            f"{path}: no such file, but its collection was begun and did not finish. Collect it again, or read what "
            f"was saved from {partial}."
        )
    raise InputFileError(f"{path}: no such file. Check the path, or collect the trajectories first.")


def _read(file: h5py.File, path: Path) -> Trajectories:
    if not len(file) and not any(name in file.attrs for name in _WRITER_ATTRIBUTES):
        raise InputFileError(f"{path}: holds no groups of transitions. Is it the right file?")
    staged = all(_STAGING_NAME.fullmatch(name) for name in file)
    with np.errstate(all="ignore"):  # of numbers beyond float32: whoever uses them sees that they are infinite
        histories = _read_staged(file, path) if staged else _read_final(file, path)
    if not histories:
        raise InputFileError(f"{path}: holds no transitions: its collection ended too early. Collect it again.")
    return Trajectories(
        path=path,
        histories=histories,
        attributes={name: _plain(value) for name, value in file.attrs.items() if name not in _WRITER_ATTRIBUTES},
        closed_cleanly=not staged and bool(file.attrs.get("closed_cleanly", True)),
    )


def _read_final(file: h5py.File, path: Path) -> list[History]:
    """Groups ``<first>-<last>``, which follow each other; the stream attributes say where environments change."""
    blocks = []
    expected_first = 0
    for first, last, name in sorted(_numbered_groups(file, path)):
        if first != expected_first:
            what = "a gap" if first > expected_first else "an overlap"
            raise InputFileError(
                f"{path}: {what} before group {name!r}: transition {expected_first} should come next. Collect it again."
            )
        expected_first = last + 1
        datasets = _datasets(file[name], path)
        blocks.append(_Block(name, datasets, _group_length(name, datasets, last - first + 1, path)))
    data = _concatenate(blocks, path)

    total = len(data["action"])
    if "stream_env" not in file.attrs or "stream_length" not in file.attrs:
        return [History.of_columns(data, env=0)]
    envs, lengths = (whole_numbers(file, name, path) for name in ("stream_env", "stream_length"))
    if len(envs) != len(lengths) or sum(lengths) != total or min(lengths, default=1) < 1:
        raise InputFileError(
            f"{path}: its attributes stream_env and stream_length tell of {len(envs)} environments and {sum(lengths)} "
            f"transitions in {len(lengths)} streams, but its groups hold {total}. Collect it again."
        )
    stops = np.cumsum(lengths).tolist()
    return [
        History.of_columns({name: values[stop - length : stop] for name, values in data.items()}, env)
        for env, length, stop in zip(envs, lengths, stops, strict=True)
    ]


def _numbered_groups(file: h5py.File, path: Path) -> Iterator[tuple[int, int, str]]:
    for name in file:
        match = _FINAL_NAME.fullmatch(name)
        if match is None or not isinstance(entry(file, name, path), h5py.Group):
            raise InputFileError(
                f"{path}: {name!r} at its top level is not a group of transitions named <first>-<last>. "
                f"If the rest of the file is good, delete that entry (`del h5py.File(path, 'r+')[{name!r}]`)."
            )
        yield int(match[1]), int(match[2]), name


def _group_length(group: str, datasets: dict[str, h5py.Dataset], named_length: int, path: Path) -> int:
    """Transitions in a group, counted by its actions; there may be one more observation and step number."""
    lengths = {name: len(datasets[name]) for name in REQUIRED_FIELDS}
    length = lengths["action"]
    surplus = lengths["proprio_observation"] - length
    alike = lengths["reward"] == length and lengths["step_num"] in (length, length + surplus)
    if not alike or surplus not in (0, 1):
        raise InputFileError(
            f"{path}: the datasets of group {group!r} differ in length: {lengths} (only proprio_observation and "
            "step_num may have one more than action). Collect it again."
        )
    if named_length not in (length, length + surplus):
        raise InputFileError(
            f"{path}: group {group!r} holds {length} transitions, its name promises {named_length}. Collect it again."
        )
    return length


def _read_staged(file: h5py.File, path: Path) -> list[History]:
    """Groups ``env_<env>_block_<block>`` of an unfinished file; stream_length says how many rows are whole."""
    groups: dict[int, dict[int, h5py.Group]] = {}
    for name in file:
        _, env, _, block = name.split("_")
        if not isinstance(group := entry(file, name, path), h5py.Group):
            raise InputFileError(f"{path}: {name!r} at its top level is not a group of transitions. Collect it again.")
        groups.setdefault(int(env), {})[int(block)] = group
    flushed = whole_numbers(file, "stream_length", path)  # [num_envs]
    histories = []
    for env in sorted(groups):
        missing = flushed[env] if env < len(flushed) else 0
        blocks = []
        for block in sorted(groups[env]):
            datasets = _datasets(groups[env][block], path)
            # A flush that was cut short may have lengthened some datasets already.
            length = min([missing, *(len(datasets[name]) for name in REQUIRED_FIELDS)])
            blocks.append(_Block(groups[env][block].name.lstrip("/"), datasets, length))
            missing -= length
        if missing > 0:
            raise InputFileError(
                f"{path}: environment {env} lacks {missing} of {flushed[env]} transitions that had been saved. "
                "Collect it again."
            )
        blocks = [block for block in blocks if block.length > 0]
        if blocks:
            histories.append(History.of_columns(_concatenate(blocks, path), env))
    return histories


def _concatenate(blocks: list[_Block], path: Path) -> dict[str, np.ndarray]:
    """The blocks' transitions one after another: the required fields, and the extras that every block has."""
    total = sum(block.length for block in blocks)
    data = {}
    extras = [name for name in blocks[0].datasets if name not in REQUIRED_FIELDS and _is_extra(name, blocks)]
    # Before there is memory for them.
    check_stored([(b.datasets[name], b.length) for b in blocks for name in (*REQUIRED_FIELDS, *extras)], path)
    joints = blocks[0].datasets["action"].shape[1:]
    layout = ObservationLayout(*joints) if len(joints) == 1 else QUADRUPED
    for name in REQUIRED_FIELDS:
        shape, dtype = fields(layout)[name]
        for block in blocks:
            if block.datasets[name].shape[1:] != shape:
                raise ShapeError(
                    f"{path}: dataset {name!r} of group {block.group!r} has shape "
                    f"{block.datasets[name].shape}, expected {('n', *shape)}. Was it collected with another task?"
                )
        data[name] = _fill(np.empty((total, *shape), dtype), name, blocks)
    for name in extras:
        first = blocks[0].datasets[name]
        data[name] = _fill(np.empty((total, *first.shape[1:]), first.dtype), name, blocks)
    if DEMONSTRATOR in data:
        data.setdefault("mean_action", data.pop(DEMONSTRATOR))
    return data


def _is_extra(name: str, blocks: list[_Block]) -> bool:
    """Whether every block has the dataset, of one shape and type of number, and long enough."""
    datasets = [block.datasets.get(name) for block in blocks]
    like = blocks[0].datasets[name]
    return all(
        dataset is not None
        and like is not None
        and dataset.dtype.kind in NUMBERS
        and len(dataset) >= block.length
        and dataset.shape[1:] == like.shape[1:]
        and dataset.dtype == like.dtype
        for block, dataset in zip(blocks, datasets, strict=True)
    )


def _fill(target: np.ndarray, name: str, blocks: list[_Block]) -> np.ndarray:
    start = 0
    for block in blocks:
        if block.length > 0:
            target[start : start + block.length] = block.datasets[name][: block.length]
        start += block.length
    return target


def _datasets(group: h5py.Group, path: Path) -> dict[str, h5py.Dataset]:
    """A group's datasets with rows, among them all required ones; not the retired."""
    found = {name: entry(group, name, path) for name in group if name not in RETIRED_FIELDS}
    found = {name: dataset for name, dataset in found.items() if isinstance(dataset, h5py.Dataset) and dataset.ndim > 0}
    for name in REQUIRED_FIELDS:
        if name not in found:
            raise InputFileError(
                f"{path}: group {group.name.lstrip('/')!r} has no dataset {name!r}; it needs "
                f"{', '.join(REQUIRED_FIELDS)}. Was it written for another kind of model?"
            )
    return found


def _plain(value: Any) -> Any:
    """An attribute as a plain Python value; arrays stay arrays."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value
