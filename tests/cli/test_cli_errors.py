"""Bad options and output directories end with exit code and a message that helps, before anything is written."""

import json
import os
from pathlib import Path

import pytest
from commands import tree
from typer.testing import CliRunner

from vintix_fast.cli import app
from vintix_fast.config import AdaptConfig

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
    "adapt --improver ppo": "critic, clone",
    "adapt --init-map some": "convert, kinematic, none",
    "adapt --group mine": "own, shared",
    "adapt --token-order aro": "action-reward-observation, observation-action-reward",
    "eval --token-order aro": "action-reward-observation, observation-action-reward",
    "adapt --device tpu": "cpu, cuda",
    "adapt --engine jax": "auto, torch",
    "eval --cache-dtype float16": "float32, int8",
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


@pytest.mark.parametrize(
    "line", ["adapt --robot-type bittle", "adapt --reference-robot bittle", "eval --robot-type bittle"]
)
def test_unknown_robots_are_answered_with_those_known(refuse, line):
    refuse(
        line, 2, "unknown robot 'bittle'", "a1 (= unitreea1), anymal_c, b1, b2, go1, go2, laikago, minicheetah", ".toml"
    )


def test_what_an_evaluation_is_to_record_or_weigh_must_be_possible(refuse, tmp_path):
    refuse("eval --record film.gif", 2, "--record is film.gif; it must be an .mp4 file")
    refuse("eval --record nowhere/film.mp4", 2, "--record nowhere/film.mp4: nowhere is no directory")
    refuse("eval --base-mass 0", 2, "--base-mass is 0.0; it must be a finite number of at least 0.01")
    refuse("eval --base-mass heavy", 2, "'--base-mass'", "'heavy'")


def test_a_shared_group_is_never_a_copy(refuse):
    refuse("adapt --group shared --reinitialize", 2, "--reinitialize", "--group shared", "leave one of the two out")


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
    config = AdaptConfig.from_options(
        robot_type="minicheetah", output_dir="out", pretrained_path="checkpoint", context_len=64, **options
    )
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
    refuse("adapt --resume", 2, "--lr was 0.25, now 0.0005", "another --output-dir")


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": []}'])
def test_a_broken_state_is_found_before_the_simulator_is_built(refuse, tmp_path, content):
    begun_run(tmp_path)
    (tmp_path / "out/state.json").write_text(content)
    refuse("adapt --resume", 4, "state.json is broken", "--overwrite")


def test_an_earlier_evaluation_is_not_replaced_unasked(refuse, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/eval.json").write_text("{}")
    refuse("eval", 2, "--output-dir out already holds an evaluation", "--overwrite")


WITHOUT_EFFECT = {
    "adapt --no-gate --gate-episodes 7": "--gate-episodes 7 has no effect with --no-gate",
    "adapt --no-gate --target-return 7": "--target-return 7.0 has no effect with --no-gate",
    "adapt --improver clone --replay all": "--replay all has no effect with --improver clone",
    "adapt --improver clone --noise 0 --no-noise-ladder": "--no-noise-ladder has no effect with --noise 0",
    "adapt --group shared --reinitialize": "--reinitialize has no effect with --group shared",
    "eval --init-map none": "--init-map none has no effect without --reference-robot",
    "eval --no-parallel": "--num-envs 2 has no effect with --no-parallel",
    "eval --fixed-starts": "--num-envs 2 has no effect with --fixed-starts",
    "eval --fixed-starts --num-envs 1 --seed 7": "--seed 7 has no effect with --fixed-starts",
}


@pytest.mark.parametrize("line", WITHOUT_EFFECT)
def test_an_option_that_would_be_ignored_is_refused(refuse, line):
    refuse(line, 2, WITHOUT_EFFECT[line], "leave")


def test_an_evaluation_that_finds_its_own_folder_has_nothing_to_overwrite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["eval", "--robot-type", "go2", "--overwrite"])
    assert result.exit_code == 2 and "--overwrite has no effect without --output-dir" in result.stderr
