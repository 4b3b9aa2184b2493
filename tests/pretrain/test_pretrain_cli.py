"""`expert`, `distil`, `pretrain` and `leave-one-out` on the command line: refusals, spellings, what they print."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from commands import last_json, spoken, tree
from fakes import TINY, FakeSimulator
from histories_on_disk import TASKS, write_robot
from typer.testing import CliRunner

from vintix_fast.cli import app
from vintix_fast.model import load_checkpoint
from vintix_fast.policy.expert import expert_network
from vintix_fast.pretrain import pretrain as pretrain_module
from vintix_fast.service.files import save_tensors, write_json

TINY_WORDS = [word for key, value in TINY.to_dict().items() for word in ("--model", f"{key}={json.dumps(value)}")]
COMMON = {
    "expert": "--robot-type go2 --output-dir out",
    "distil": "--expert expert --output-dir out",
    "pretrain": "--data go1 --data go2 --output-dir out",
    "leave-one-out": "--data go1 --data go2 --output-dir out",
}
COMMANDS = tuple(COMMON)


def invoke(command, *words):
    return CliRunner().invoke(app, [command, *COMMON[command].split(), *map(str, words)])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """An expert of go2 and histories of two robots; not to be written to."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "expert").mkdir()
    save_tensors(folder / "expert/expert.pth", expert_network([8]).state_dict())
    write_json(folder / "expert/expert.json", {"robot": "go2", "hidden_dims": [8]})
    for i, name in enumerate(("go1", "go2")):
        write_robot(folder / name, name, (12, 14), seed=i)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, inputs):
    """An own folder in which the inputs can be reached by their names."""
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


@pytest.fixture
def refuse(here, monkeypatch):
    """A function that runs a command and asserts how it is refused."""

    def must_not_run(*args, **kwargs):
        raise AssertionError("the simulator was built")

    for module in ("expert", "distil"):
        monkeypatch.setattr(importlib.import_module(f"vintix_fast.pretrain.{module}"), "Simulator", must_not_run)

    def run(line: str, code: int, *texts: str) -> None:
        before = tree(here)
        result = invoke(*line.split())
        said = spoken(result.stderr)
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, said
        assert "Traceback" not in said and result.stdout == ""
        if "Usage:" not in said:
            assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        for text in texts:
            assert text in said
        assert tree(here) == before

    return run


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "option"), [("expert", "iterations"), ("distil", "histories"), ("pretrain", "steps")]
)
def test_counts_must_be_positive(refuse, command, option):
    refuse(f"{command} --{option} 0", 2, f"--{option} is 0", "must be an integer of at least 1")


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("expert --steps-per-iteration 1", ["--steps-per-iteration is 1", "at least 2"]),
        ("expert --lr nan", ["--lr is nan", "must be a finite number"]),
        ("expert --seed -1", ["--seed is -1", "at least 0"]),
        ("distil --steps-per-env 1", ["--steps-per-env is 1", "at least 2"]),
        ("distil --histories 65", ["--histories is 65", "not a multiple of --num-envs 64"]),
        ("distil --expert-fraction 1", ["--expert-fraction is 1.0", "must be less than 1"]),
        ("distil --power 0", ["--power is 0.0", "at least 0.01"]),
        ("pretrain --window-len 1", ["--window-len is 1", "at least 2"]),
        ("pretrain --held-out 1", ["--held-out is 1.0", "must be less than 1"]),
        ("pretrain --lr fast", ["'--lr'", "'fast'"]),
        ("expert --iterations 1.5", ["'--iterations'", "'1.5'", "integer"]),
    ],
)
def test_numbers_out_of_range_are_refused(refuse, line, texts):
    refuse(line, 2, *texts)


@pytest.mark.parametrize("command", ["expert", "distil"])
def test_unknown_robots_are_answered_with_those_known(refuse, command):
    refuse(
        f"{command} --robot-type bittle",
        2,
        "unknown robot 'bittle'",
        "a1 (= unitreea1), anymal_c, b1, b2, go1, go2, laikago, minicheetah",
        ".toml",
    )


@pytest.mark.parametrize("command", ["expert", "distil", "pretrain"])
def test_devices_must_be_there(refuse, command):
    refuse(f"{command} --device tpu", 2, "--device is 'tpu'; it must be one of cpu, cuda")
    refuse(f"{command} --device cuda", 2, "--device cuda", "use --device cpu")


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        ("--model transformer_depth", ["--model is 'transformer_depth'", "must be KEY=VALUE", "transformer_depth=4"]),
        ("--model depth=4", ["--model depth is not known", "transformer_depth"]),
        ("--model transformer_depth=deep", ["transformer_depth must be a positive integer", "'deep'"]),
        ("--model hidden_dim=64", ["hidden_dim is 64", "is 256; the two must be equal"]),
        ("--model action_emb_dim=31", ["hidden_dim is 256", "is 160; the two must be equal"]),
    ],
)
def test_architectures_that_cannot_be_are_refused(refuse, words, texts):
    refuse(f"pretrain {words}", 2, *texts)


@pytest.mark.parametrize("command", ["pretrain", "leave-one-out"])
@pytest.mark.parametrize(
    ("text", "code", "texts"),
    [
        (None, 4, ["--config settings.toml: No such file"]),
        ("steps = ", 4, ["--config settings.toml is not valid TOML"]),
        ("stpes = 5", 2, ["--config settings.toml: stpes is not known", "batch_size"]),
        ("model = 5", 2, ["settings.toml: model is 5", "[model]"]),
        ("steps = 0", 2, ["--steps is 0"]),
        ("[model]\nhidden_dim = 64", 2, ["hidden_dim is 64", "the two must be equal"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_files_of_options_that_cannot_be_used_are_refused(refuse, here, command, text, code, texts):
    if text is not None:
        (here / "settings.toml").write_text(text)
    refuse(f"{command} --config settings.toml", code, *texts)


def test_resume_and_overwrite_exclude_each_other(refuse):
    for command in COMMANDS:
        refuse(f"{command} --resume --overwrite", 2, "--resume and --overwrite exclude each other")


# -- input files -------------------------------------------------------------------------------------------------------


def test_an_expert_that_cannot_be_read_is_refused(refuse, here):
    refuse("distil --expert nowhere", 4, "expert nowhere lacks expert.pth, expert.json", "vintix-fast expert")
    (here / "broken").mkdir()
    (here / "broken/expert.pth").write_text("weights")
    (here / "broken/expert.json").write_text('{"robot": "go2", "hidden_dims": [8]}')
    refuse("distil --expert broken", 4, "broken/expert.pth is broken", "train it again")


def test_an_expert_of_another_robot_is_refused(refuse):
    refuse("distil --robot-type go1", 2, "--expert expert is an expert of go2, not of go1", "give --robot-type go2")


@pytest.mark.parametrize("command", ["pretrain", "leave-one-out"])
def test_histories_that_cannot_be_read_are_refused(refuse, here, command):
    refuse(f"{command} --data nowhere", 4, "--data nowhere: no such directory", "trajectory files")
    (here / "empty").mkdir()
    refuse(f"{command} --data empty", 4, "--data empty: no trajectory files", "vintix-fast distil")


def test_a_broken_robot_file_is_refused(refuse, here):
    (here / "mine.toml").write_text("nmae = 'x'")
    refuse("expert --robot-type mine.toml", 4, "mine.toml:1: nmae is not a key of robot files")


# -- output directories ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["expert", "distil", "pretrain"])
def test_an_output_directory_in_use_is_left_alone(refuse, here, command):
    (here / "out").mkdir()
    (here / "out/notes.txt").write_text("mine")
    for option in ("", "--overwrite"):
        refuse(f"{command} {option}", 2, f"holds no run of `vintix-fast {command}`", "left alone", "empty directory")
    refuse(f"{command} --resume", 2, f"--resume: out holds no run of `{command}`")
    write_json(here / "out/config.json", {"command": command, "options": {}})
    refuse(command, 2, "--output-dir out holds a run: --resume goes on with it, --overwrite replaces it")
    write_json(here / "out/config.json", {"command": "adapt", "options": {}})
    refuse(f"{command} --overwrite", 2, f"holds no run of `vintix-fast {command}`", "left alone")


def test_models_of_leave_one_out_are_left_alone(refuse, here):
    (here / "out/without-go1").mkdir(parents=True)
    (here / "out/without-go1/notes.txt").write_text("mine")
    refuse("leave-one-out", 2, "--output-dir out/without-go1 is not empty", "left alone")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_output_directory_must_be_one(refuse, here, command):
    (here / "file").touch()
    refuse(f"{command} --output-dir file/far/out", 2, "--output-dir file/far/out", "file is not a directory")


# -- what works --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("expert", "steps_per_iteration", 1), ("expert", "max_steps_per_episode", 0), ("distil", "steps_per_env", 1),
        ("distil", "expert_fraction", 1), ("pretrain", "window_len", 1), ("pretrain", "eval_interval", 0),
    ],
)  # fmt: skip
def test_options_can_be_spelt_with_underscores(refuse, command, option, value):
    refuse(f"{command} --{option} {value}", 2, f"--{option.replace('_', '-')} is {value}")


def test_pretrain_takes_options_from_file_and_command_line_and_prints_one_json_object(here):
    (here / "settings.toml").write_text("steps = 9\nbatch_size = 2\nwindow_len = 6\nlong_steps = 0\n")
    result = invoke("pretrain", "--config", "settings.toml", "--steps=2", "--eval_interval", 5, *TINY_WORDS, "--json")
    card = last_json(result)
    assert card["steps"] == 2 and card["tokens"] == 2 * 2 * 6
    assert list(card["robots"]) == [TASKS["go1"], TASKS["go2"]]
    assert [row["step"] for row in card["rows"]] == [2]
    assert card["parameters"] == sum(p.numel() for p in load_checkpoint("out/model").parameters())
    assert "Model: out/model (2 steps" in result.stderr


def test_leave_one_out_prints_one_json_object_of_all_models(here, monkeypatch):
    monkeypatch.setattr(pretrain_module, "write_losses", lambda folder, rows: None)  # slow, and tested above
    table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in TINY.to_dict().items())
    (here / "settings.toml").write_text(f"steps = 1\nbatch_size = 2\nwindow_len = 6\nlong_steps = 0\n[model]\n{table}")
    cards = last_json(invoke("leave-one-out", "--config", "settings.toml", "--json"))
    assert {name: list(card["robots"]) for name, card in cards.items()} == {
        "without-go1": [TASKS["go2"]], "without-go2": [TASKS["go1"]],
    }  # fmt: skip
    assert load_checkpoint("out/without-go1/model").groups == ("go2_locomotion",)


def test_an_expert_is_trained_and_distilled(here, monkeypatch):
    for module in ("expert", "distil"):
        monkeypatch.setattr(importlib.import_module(f"vintix_fast.pretrain.{module}"), "Simulator", FakeSimulator)
    words = "--iterations 1 --num_envs 4 --steps_per_iteration 4 --eval_episodes 4 --max_steps_per_episode 8 --json"
    result = invoke("expert", "--output-dir", "mine", *words.split())
    summary = last_json(result)
    assert summary["robot"] == "go2" and summary["episodes"] == 4 and summary["expert"] == "mine"
    assert "go2: 4 episodes" in result.stderr and "Expert: mine" in result.stderr

    words = "--histories 2 --num_envs 2 --steps_per_env 20 --max_steps_per_episode 8 --json"
    result = invoke("distil", "--expert", "mine", *words.split())
    card = last_json(result)
    assert card["histories"] == 2 and card["env_steps"] == 40 and len(card["return_along_history"]) > 1
    assert "go2: 2 histories" in result.stderr and "Histories: out (40 steps" in result.stderr
    assert len(list(Path("out").glob("trajectories_env_*.h5"))) == 2
