"""A training that goes on from a checkpoint: whose robots it takes over, and what new ones begin with."""

import json

import numpy as np
import pytest
import torch
from commands import invoke, last_json
from fakes import save_tiny, tiny_model
from histories_on_disk import NO_DROPOUT, TASKS, TINY_MODEL, Watcher, config, write_robot
from runs import assert_same_model

from vintix_fast.model import load_checkpoint
from vintix_fast.pretrain.config import PretrainConfig
from vintix_fast.pretrain.pretrain import pretrain
from vintix_fast.service.errors import InputFileError, Interrupted, UsageError

pytestmark = pytest.mark.usefixtures("plots_are_empty")
STILL = {"steps": 1, "lr": 1e-12}
"""A training that changes hardly anything, so that what it began with shows."""


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A checkpoint of go2 and, under its older name, a1; not to be written to."""
    tasks = {"go2_walking_ad": "go2_locomotion", "unitreea1_walking_ad": "a1_locomotion"}
    return save_tiny(tmp_path_factory.mktemp("known") / "checkpoint", tasks, **NO_DROPOUT)


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    """Directories of histories by robot; not to be written to."""
    folder = tmp_path_factory.mktemp("histories")
    return {name: write_robot(folder / name, name, (24, 30), seed=i) for i, name in enumerate(("a1", "go1"))}


def gone_on(out, known, *data, **options):
    return config(out, data, model={}, init_from=known, **options)


def assert_kept(before, after):
    """Every tensor of an earlier model is in a later one, but for rounding."""
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0, msg=name)


def test_a_robot_that_is_known_by_its_older_name_goes_on_under_the_newer_one(tmp_path, known, histories):
    watcher = Watcher()
    card = pretrain(gone_on(tmp_path / "run", known, histories["a1"], **STILL), progress=watcher)
    before, after = load_checkpoint(known), load_checkpoint(tmp_path / "run/model")
    assert list(after.tasks) == ["go2_walking_ad", "a1_walking_ad"] and after.groups == before.groups
    assert after.tasks["a1_walking_ad"] == before.tasks["unitreea1_walking_ad"], "its encoders expect its statistics"
    assert_kept(before.state_dict(), after.state_dict())
    assert after.config == before.config and list(card["robots"]) == ["a1_walking_ad"]
    assert not any("new to" in line for line in watcher.said)


def test_a_robot_that_is_new_gets_a_group_of_its_own(tmp_path, known, histories):
    watcher = Watcher()
    pretrain(gone_on(tmp_path / "run", known, histories["go1"], held_out=0.0, **STILL), progress=watcher)
    before, after = load_checkpoint(known), load_checkpoint(tmp_path / "run/model")
    assert list(after.tasks) == [*before.tasks, TASKS["go1"]] and after.groups == (*before.groups, "go1_locomotion")
    assert_kept(before.state_dict(), after.state_dict())
    assert after.tasks[TASKS["go1"]].obs_std[6:9] == (1.0, 1.0, 1.0), "statistics of the data"
    assert f"go1_walking_ad is new to {known}: it gets the group go1_locomotion" in watcher.said


def test_what_is_trained_is_the_robots_that_there_are_data_of_and_the_transformer(tmp_path, known, histories):
    rows = pretrain(gone_on(tmp_path / "run", known, *histories.values(), steps=30, lr=1e-2))["rows"]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    before, after = load_checkpoint(known).state_dict(), load_checkpoint(tmp_path / "run/model").state_dict()
    moved = {name: float((after[name] - value).abs().max()) for name, value in before.items()}
    assert all(by < 0.05 for name, by in moved.items() if ".go2_locomotion." in name), "weight decay alone"
    trained = [by for name, by in moved.items() if ".a1_locomotion." in name or name.startswith("transformer.")]
    assert np.median(trained) > 0.05


def test_a_stopped_training_goes_on_as_if_nothing_had_happened(tmp_path, known, histories):
    whole, out = (tmp_path / name for name in ("whole", "run"))
    data = list(histories.values())
    pretrain(gone_on(whole, known, *data))
    with pytest.raises(Interrupted):
        pretrain(gone_on(out, known, *data), progress=Watcher(("on_training_step", 4)))
    pretrain(gone_on(out, known, *data, resume=True))
    assert_same_model(out / "model", whole / "model")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": TINY_MODEL}, "--model has no effect with --init-from .*; leave one of the two out"),
        ({"shared_group": True}, "--shared-group has no effect with --init-from"),
        ({"init_from": "builtin:nothing"}, "no bundled checkpoint is called 'nothing'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_contradicts_the_checkpoint_is_refused(known, options, words):
    with pytest.raises(UsageError, match=words):
        PretrainConfig(**({"data": ("go1",), "output_dir": "out", "init_from": known} | options))


def test_a_checkpoint_that_is_not_there_is_refused_before_anything_is_written(tmp_path, histories):
    with pytest.raises(InputFileError, match="nowhere does not exist"):
        pretrain(gone_on(tmp_path / "run", tmp_path / "nowhere", histories["go1"]))
    assert list(tmp_path.iterdir()) == []


def test_overwriting_spares_the_checkpoint_in_the_directory(tmp_path, known, histories):
    out = tmp_path / "run"
    pretrain(gone_on(out, known, histories["a1"], **STILL))
    with pytest.raises(UsageError, match="would delete --init-from"):
        pretrain(gone_on(out, out / "model", histories["a1"], overwrite=True))
    assert (out / "model/model.pth").is_file()


def test_the_command_takes_a_checkpoint(tmp_path, known, histories):
    words = ("--data", histories["go1"], "--output-dir", tmp_path / "out", "--init-from", known, "--json")
    result = invoke("pretrain", *words, "--steps", 1, "--batch-size", 2, "--window-len", 6, "--long-steps", 0)
    card = last_json(result)
    assert card["options"]["init_from"] == str(known) and "go1_walking_ad is new to" in result.stderr
    written = json.loads((tmp_path / "out/model/config.json").read_text())
    assert written == tiny_model(**NO_DROPOUT).config.to_dict()
    refused = invoke("pretrain", *words, "--model", "transformer_depth=3")
    assert refused.exit_code == 2 and "--model has no effect with --init-from" in refused.stderr
