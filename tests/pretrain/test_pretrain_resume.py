"""Trainings that are stopped, go on, or begin anew."""

import os
import shutil

import pytest
import torch
from histories_on_disk import TINY_MODEL, Watcher, comparable, config, write_robot
from runs import assert_same_model

from vintix_fast.pretrain.pretrain import pretrain
from vintix_fast.service.errors import InputFileError, Interrupted, UsageError

pytestmark = pytest.mark.usefixtures("plots_are_empty")


def stop_and_go_on(out, data, at, **options):
    with pytest.raises(Interrupted, match="--resume") as stop:
        pretrain(config(out, data, **options), progress=Watcher(at))
    assert stop.value.exit_code == 130
    torch.manual_seed(12345)  # whatever else the process does with randomness
    watcher = Watcher()
    return pretrain(config(out, data, resume=True, **options), progress=watcher), watcher


@pytest.mark.parametrize(
    ("at", "saved"),
    [
        (("on_training_step", 1), 0),
        (("on_training_step", 3), 2),
        (("on_validation", 1), 2),
        (("on_training_step", 6), 6),
    ],
    ids=str,
)
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(finished, tmp_path, two, at, saved):
    whole, whole_card, _ = finished
    assert TINY_MODEL["attn_dropout"] == TINY_MODEL["residual_dropout"] == 0.1
    card, watcher = stop_and_go_on(tmp_path / "run", two, at)
    assert_same_model(tmp_path / "run/model", whole / "model")
    assert comparable(card["rows"]) == comparable(whole_card["rows"]) and card["tokens"] == whole_card["tokens"]
    assert list(watcher.losses) == list(range(saved + 1, 7))


@pytest.mark.parametrize(
    "options",
    [{"bf16": False}, {"long_steps": 3, "long_window_len": 16, "reward_dropout": 0.5}],
    ids=["float32", "among-long-windows"],
)
def test_other_trainings_go_on_as_well(tmp_path, two, options):
    card, _ = stop_and_go_on(tmp_path / "run", two, ("on_training_step", 5), **options)
    whole = pretrain(config(tmp_path / "whole", two, **options))
    assert_same_model(tmp_path / "run/model", tmp_path / "whole/model")
    assert comparable(card["rows"]) == comparable(whole["rows"]) and card["tokens"] == whole["tokens"]


def test_a_stopped_training_leaves_no_model(tmp_path, two):
    with pytest.raises(Interrupted):
        pretrain(config(tmp_path / "run", two), progress=Watcher(("on_training_step", 5)))
    assert not (tmp_path / "run/model").exists() and not (tmp_path / "run/pretrain.json").exists()


def test_resuming_a_finished_training_changes_nothing(finished, tmp_path, two):
    out = shutil.copytree(finished[0], tmp_path / "run")
    watcher = Watcher()
    again = pretrain(config(out, two, resume=True), progress=watcher)
    assert watcher.losses == {} and again | {"options": None} == finished[1] | {"options": None}
    assert_same_model(out / "model", finished[0] / "model")


def test_resuming_with_other_options_names_them(finished, tmp_path, two):
    out = shutil.copytree(finished[0], tmp_path / "run")
    with pytest.raises(UsageError, match="--lr was 0.003, now 0.1"):
        pretrain(config(out, two, lr=0.1, resume=True))
    with pytest.raises(UsageError, match="--model was .*'transformer_depth': 2.* now .*'transformer_depth': 1"):
        pretrain(config(out, two, model=TINY_MODEL | {"transformer_depth": 1}, resume=True))
    with pytest.raises(UsageError, match="--data was"):
        pretrain(config(out, two[:1], resume=True))


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "text": lambda path: path.write_text("weights"),
    "something-else": lambda path: torch.save({"step": 2}, path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_broken_state_is_named(finished, tmp_path, two, damage):
    out = shutil.copytree(finished[0], tmp_path / "run")
    damage(out / "training.pth")
    with pytest.raises(InputFileError, match=r"training\.pth is broken .*--overwrite"):
        pretrain(config(out, two, resume=True))


def test_overwriting_begins_anew(finished, tmp_path, two):
    out = tmp_path / "run"
    pretrain(config(out, two, seed=9, steps=1))
    pretrain(config(out, two, overwrite=True))
    assert_same_model(out / "model", finished[0] / "model")


def test_overwriting_spares_the_histories_in_the_directory(tmp_path):
    out = tmp_path / "run"
    write_robot(tmp_path / "go2", "go2", (24, 30))
    pretrain(config(out, (tmp_path / "go2",), steps=1))
    inside = (tmp_path / "go2").rename(out / "tensorboard.old")
    with pytest.raises(UsageError, match="would delete --data .*tensorboard.old"):
        pretrain(config(out, (inside,), steps=1, overwrite=True))
    assert len(list(inside.glob("*.h5"))) == 2
