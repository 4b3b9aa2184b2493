"""Bad input ends with its exit code and a message that helps, before anything is written or simulated."""

import importlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from commands import spoken
from typer.testing import CliRunner

from vintix_fast.cli import app
from vintix_fast.config import AdaptConfig
from vintix_fast.model import ModelConfig, TaskInfo, Vintix, save_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "vintix_tiny"  # has go2 and a1, context 64
COMMON = {
    "adapt": "--pretrained-path checkpoint --robot-type minicheetah --output-dir out --context-len 64",
    "eval": "--vintix-path checkpoint --robot-type go2 --output-dir out --num-envs 2",
    "inspect": "",
}


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def refuse(tmp_path, monkeypatch):
    """A function that runs a command in a folder with ``checkpoint`` and asserts how it is refused."""

    def must_not_run(*args, **kwargs):
        raise AssertionError("the simulator was built")

    for module in ("vintix_fast.calibrate", "vintix_fast.evaluate"):
        monkeypatch.setattr(importlib.import_module(module), "Simulator", must_not_run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shutil.copytree(GOLDEN, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("io.npz"))
    monkeypatch.chdir(tmp_path)

    def run(line: str, code: int, *texts: str) -> None:
        command, *words = line.split()
        before = tree(tmp_path)
        result = CliRunner().invoke(app, [command, *COMMON[command].split(), *words])  # the last of two options counts
        said = spoken(result.stderr)
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, said
        assert "Traceback" not in said
        assert result.stdout == ""
        for text in texts:
            assert text in said
        assert tree(tmp_path) == before

    return run


# -- options -----------------------------------------------------------------------------------------------------------

POSITIVE = {
    "adapt": "num-improvement-loops episodes-per-loop finetune-steps-per-loop max-steps-per-episode context-len "
    "batch-size num-envs window-len gate-episodes critic-updates",
    "eval": "num-envs max-steps episodes-per-env context-len",
}
POSITIVE_OPTIONS = [(command, name) for command, names in POSITIVE.items() for name in names.split()]
NOT_NEGATIVE_OPTIONS = [("adapt", "seed"), ("adapt", "noise"), ("adapt", "min-steps-per-loop"), ("eval", "seed")]


@pytest.mark.parametrize("value", ["0", "-1"])
@pytest.mark.parametrize(("command", "option"), POSITIVE_OPTIONS)
def test_counts_must_be_positive(refuse, command, option, value):
    refuse(f"{command} --{option} {value}", 2, f"--{option} is {value}", "must be an integer of at least 1")


@pytest.mark.parametrize(("command", "option"), NOT_NEGATIVE_OPTIONS)
def test_negative_numbers_are_refused(refuse, command, option):
    refuse(f"{command} --{option} -1", 2, f"--{option} is -1", "of at least 0")


@pytest.mark.parametrize("value", ["many", "1.5"])
@pytest.mark.parametrize(("command", "option"), POSITIVE_OPTIONS + [("adapt", "seed"), ("eval", "seed")])
def test_counts_must_be_whole_numbers(refuse, command, option, value):
    refuse(f"{command} --{option} {value}", 2, f"'--{option}'", f"'{value}'", "integer")


@pytest.mark.parametrize("option", ["lr", "noise"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-0.1"])
def test_rates_must_be_finite(refuse, option, value):
    refuse(f"adapt --{option} {value}", 2, f"--{option} is {value}", "must be")


def test_rates_must_be_numbers(refuse):
    refuse("adapt --lr 0", 2, "--lr is 0.0", "must be a finite number of at least")
    refuse("adapt --lr fast", 2, "'--lr'", "'fast'")


CHOICES = {
    "adapt --improver ppo": "critic, awr, topk, clone",
    "adapt --init-map some": "convert, none",
    "adapt --train-on first": "last, all",
    "adapt --token-order aro": "action-reward-observation, observation-action-reward",
    "eval --token-order aro": "action-reward-observation, observation-action-reward",
    "adapt --device tpu": "cpu, cuda",
    "adapt --engine jax": "auto, torch",
    "eval --cache-dtype float16": "float32, bfloat16, int8",
    "eval --device cuda:7": "cpu, cuda",
}


@pytest.mark.parametrize(("line", "allowed"), CHOICES.items())
def test_unknown_names_are_answered_with_those_allowed(refuse, line, allowed):
    option, value = line.split()[1:]
    refuse(line, 2, f"{option} is '{value}'; it must be one of {allowed}")


@pytest.mark.parametrize("command", ["adapt", "eval"])
def test_options_that_the_plain_engine_does_not_have_are_refused(refuse, command):
    plain = f"{command} --engine torch"
    refuse(f"{plain} --cache-dtype int8", 2, "--cache-dtype is int8, but --engine torch", "leave one of the two out")
    refuse(f"{plain} --dropped-mass 0.1", 2, "--dropped-mass is 0.1, but --engine torch", "leave one of the two out")


@pytest.mark.parametrize("line", ["adapt --robot-type spot", "adapt --reference-robot spot", "eval --robot-type spot"])
def test_unknown_robots_are_answered_with_those_known(refuse, line):
    refuse(line, 2, "unknown robot 'spot'", "a1 (= unitreea1), go1, go2, minicheetah", ".toml")


@pytest.mark.parametrize("command", ["adapt", "eval"])
def test_a_context_beyond_the_models_is_refused(refuse, command):
    refuse(f"{command} --context-len 65", 2, "--context-len 65 is more than the model's 64")


@pytest.mark.parametrize("command", ["adapt", "eval"])
def test_cuda_must_be_there(refuse, command):
    refuse(f"{command} --device cuda", 2, "--device cuda", "use --device cpu")


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("adapt --robot-type go2", "'--output-dir'"),
        ("adapt --output-dir out", "'--robot-type'"),
        ("eval", "'--robot-type'"),
        ("inspect", "'path'"),
    ],
)
def test_required_options_are_named(words, missing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 2
    assert missing in result.stderr and "Missing" in result.stderr and "-h" in result.stderr
    assert tree(tmp_path) == {}


def test_unknown_commands_and_options_are_refused(refuse):
    refuse("adapt --epochs 3", 2, "--epochs")
    assert "'train'" in CliRunner().invoke(app, ["train"]).stderr


# -- input files -------------------------------------------------------------------------------------------------------


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
        ["model.pth is truncated or damaged", "again"],
    ),
    "a-pickled-call": (
        lambda d: torch.save({"x": Bomb()}, d / "checkpoint/model.pth"),
        ["model.pth holds something other than tensors", "torch.save(model.state_dict()"],
    ),
    "a-bare-pickle": (
        lambda d: (d / "checkpoint/model.pth").write_bytes(pickle.dumps(Bomb())),
        ["model.pth is truncated or damaged"],
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
        ('{"obs_mean": [0]}', "no 'obs_std'"),
        (json.dumps({"obs_mean": [0.0], "obs_std": [1.0]}), "obs_mean has 1 entries, expected 33"),
        (json.dumps({"obs_mean": [0.0] * 33, "obs_std": [1.0] * 32 + [0.0]}), "obs_std[32] is 0.0"),
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
    monkeypatch.setattr(importlib.import_module("vintix_fast.evaluate"), "load_checkpoint", lambda *_: allocate())
    refuse("eval", 1, "not enough memory", said, "fewer --num-envs or a shorter --context-len")


# -- output directories ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["adapt", "eval"])
def test_the_output_directory_must_be_one(refuse, tmp_path, command):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    for path in ("file", "file/out", "file/far/out", "dangling"):
        refuse(f"{command} --output-dir {path}", 2, f"--output-dir {path}", "is not a directory; choose another")


@pytest.mark.parametrize("command", ["adapt", "eval"])
def test_the_output_directory_must_be_writable(refuse, tmp_path, command, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    refuse(f"{command} --output-dir deep/out", 1, "--output-dir deep/out", "no permission to write", "choose another")


def begun_run(folder: Path, **options) -> None:
    """What `adapt` leaves behind when it is stopped in its first loop."""
    config = AdaptConfig("minicheetah", "out", pretrained_path="checkpoint", context_len=64, **options)
    (folder / "out").mkdir()
    (folder / "out/config.json").write_text(json.dumps({"options": config.to_json()}))


def test_an_output_directory_in_use_is_left_alone(refuse, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    for option in ("", "--overwrite"):
        refuse(f"adapt {option}", 2, "--output-dir out is not empty and holds no run", "left alone", "empty directory")
    refuse("adapt --resume", 2, "--resume: out holds no run")


def test_a_checkpoint_is_not_taken_for_a_run(refuse):
    refuse("adapt --output-dir checkpoint --overwrite", 2, "--output-dir checkpoint", "left alone")
    refuse("adapt --output-dir checkpoint --resume", 2, "--resume: checkpoint holds no run")


def test_an_earlier_run_is_not_replaced_unasked(refuse, tmp_path):
    begun_run(tmp_path)
    refuse("adapt", 2, "--output-dir out", "--resume", "--overwrite")


def test_overwriting_spares_the_pretrained_model(refuse, tmp_path):
    begun_run(tmp_path)
    (tmp_path / "checkpoint").rename(tmp_path / "out/models")
    refuse("adapt --pretrained-path out/models --overwrite", 2, "would delete --pretrained-path out/models")


def test_only_a_run_can_be_resumed_and_with_its_own_options(refuse, tmp_path):
    refuse("adapt --resume", 2, "--resume: out holds no run", "leave the option out")
    refuse("adapt --resume --overwrite", 2, "--resume and --overwrite exclude each other")
    begun_run(tmp_path, lr=0.25)
    refuse("adapt --resume", 2, "--lr was 0.25, now 0.0001", "another --output-dir")


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": []}'])
def test_a_broken_state_is_found_before_the_simulator_is_built(refuse, tmp_path, content):
    begun_run(tmp_path)
    (tmp_path / "out/state.json").write_text(content)
    refuse("adapt --resume", 4, "state.json is broken", "--overwrite")


def test_an_earlier_evaluation_is_not_replaced_unasked(refuse, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/eval.json").write_text("{}")
    refuse("eval", 2, "--output-dir out already holds an evaluation", "--overwrite")
