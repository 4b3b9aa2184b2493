"""Bad input files end with exit code 4 and a message that helps, before anything is written or simulated."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from fakes import OBSERVATIONS

from vintix_fast.model import ModelConfig, TaskInfo, Vintix, save_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "vintix_tiny"


class Bomb:
    """Pickled, a call that writes a file where it is unpickled."""

    def __reduce__(self):
        return open, ("exploded", "w")


def edit_tasks(change):
    def edit(folder: Path) -> None:
        path = folder / "checkpoint" / "metadata.json"
        tasks = json.loads(path.read_text())
        for info in tasks.values():
            change(info)
        path.write_text(json.dumps(tasks))

    return edit


CHECKPOINTS = {
    "absent": (lambda d: shutil.rmtree(d / "checkpoint"), ["checkpoint does not exist", "model.pth, metadata.json"]),
    "a-file": (
        lambda d: (shutil.rmtree(d / "checkpoint"), (d / "checkpoint").touch()),
        ["checkpoint is a file, not a directory"],
    ),
    "incomplete": (lambda d: (d / "checkpoint/config.json").unlink(), ["checkpoint lacks config.json; copy"]),
    "empty": (
        lambda d: [p.unlink() for p in (d / "checkpoint").iterdir()],
        ["lacks model.pth, metadata.json, config.json"],
    ),
    "truncated": (
        lambda d: os.truncate(d / "checkpoint/model.pth", 100_000),
        ["model.pth is broken (truncated or damaged", "again"],
    ),
    "a-pickled-call": (
        lambda d: torch.save({"x": Bomb()}, d / "checkpoint/model.pth"),
        ["model.pth is broken (holds something other than tensors", "torch.save(model.state_dict()"],
    ),
    "a-bare-pickle": (
        lambda d: (d / "checkpoint/model.pth").write_bytes(pickle.dumps(Bomb())),
        ["model.pth is broken (truncated or damaged"],
    ),
    "no-statistics": (edit_tasks(lambda info: info.pop("obs_mean")), ["metadata.json", "missing key(s): obs_mean"]),
    "statistics-of-another-size": (
        edit_tasks(lambda info: info["obs_std"].pop()),
        ["obs_std has 32 entries, expected"],
    ),
    "sizes-that-contradict-the-tensors": (
        edit_tasks(
            lambda info: info.update(observation_shape={"proprio": [34]}, obs_mean=[0.0] * 34, obs_std=[1.0] * 34)
        ),
        ["does not fit", "[31, 33], expected [31, 34]"],
    ),
}


@pytest.mark.parametrize(("damage", "texts"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_broken_checkpoints_are_refused(refuse, tmp_path, damage, texts):
    damage(tmp_path)
    refuse("adapt", 4, *texts)
    refuse("eval", 4, *texts)
    if (tmp_path / "checkpoint").is_dir():
        refuse("inspect checkpoint", 4, *texts)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("command", ["adapt", "eval"])
@pytest.mark.parametrize(("observations", "actions"), [(48, 12), (33, 8)])
def test_a_checkpoint_of_other_robots_is_refused(refuse, tmp_path, command, observations, actions):
    config = ModelConfig.from_dict(json.loads((GOLDEN / "config.json").read_text()))
    obs, acs = (1.0,) * observations, (1.0,) * actions
    info = TaskInfo(observations, actions, obs, obs, acs, acs, group_name="go2_locomotion")
    save_checkpoint(Vintix(config, {"go2_walking_ad": info}), tmp_path / "checkpoint")
    refuse(command, 4, f"{observations} observations and {actions} actions", "33 and 12", "go2_walking_ad")


def test_missing_groups_are_answered_with_those_there(refuse):
    groups = "go2_locomotion, a1_locomotion"
    refuse("adapt --reference-robot go1", 4, "reference robot go1", groups, "--reference-robot")
    refuse("eval --robot-type go1", 4, "no group for go1", "go2_walking_ad", "vintix-fast adapt")


ROBOT_FILES = {
    "absent": (None, "cannot read robot file mine.toml: No such file"),
    "no-toml": ("name = ", "robot file mine.toml is not valid TOML"),
    "empty": ("", "mine.toml: name, task_names"),
    "unknown-key": ("nmae = 'x'", "mine.toml:1: nmae is not a key of robot files"),
}


@pytest.mark.parametrize("option", ["adapt --robot-type", "adapt --reference-robot", "eval --robot-type"])
@pytest.mark.parametrize(("content", "text"), ROBOT_FILES.values(), ids=ROBOT_FILES)
def test_broken_robot_files_are_refused(refuse, tmp_path, option, content, text):
    if content is not None:
        (tmp_path / "mine.toml").write_text(content)
    refuse(f"{option} mine.toml", 4, text)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("[]", "must be a JSON object"),
        ('{"obs_mean": [0]}', "lacks obs_std"),
        (json.dumps({"obs_mean": [0.0], "obs_std": [1.0]}), "obs_mean has 1 entries, expected 33"),
        (
            json.dumps({"obs_mean": [0.0] * OBSERVATIONS, "obs_std": [1.0] * (OBSERVATIONS - 1) + [0.0]}),
            "obs_std[32] is 0.0",
        ),
    ],
)
def test_broken_statistics_files_are_refused(refuse, tmp_path, content, text):
    if content is not None:
        (tmp_path / "stats.json").write_text(content)
    refuse("adapt --obs-stats stats.json", 4, "--obs-stats stats.json", text)


def test_inspect_says_what_is_wrong_with_a_path(refuse, tmp_path):
    refuse("inspect nothing", 4, "nothing: no such file or directory; give a checkpoint")
    refuse("inspect nothing.h5", 4, "nothing.h5: no such file")
    refuse("inspect checkpoint/model.pth", 4, "give the directory that it is in")
    (tmp_path / "text.h5").write_text("hello")
    refuse("inspect text.h5", 4, "text.h5: not an HDF5 file", "again")


# -- memory ------------------------------------------------------------------------------------------------------------


def out_of_device_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation")


def out_of_cpp_memory():
    raise MemoryError("std::bad_alloc")


@pytest.mark.parametrize(
    ("allocate", "said"),
    [
        (out_of_device_memory, "(CUDA out of memory. Tried to allocate 2.00 GiB.)"),
        (out_of_cpp_memory, "std::bad_alloc"),
        (lambda: torch.empty(10**15), "you tried to allocate 4000000000000000 bytes"),
    ],
)
def test_too_little_memory_is_said_with_the_options_that_need_less(refuse, monkeypatch, allocate, said):
    monkeypatch.setattr("vintix_fast.evaluation.load_checkpoint", lambda *_: allocate())
    refuse("eval", 1, "not enough memory", said, "fewer --num-envs or a shorter --context-len")
