"""Training whole models on several robots' histories: what is learnt and what is left."""

import json
import os

import numpy as np
import pytest
import torch
from fakes import make_history, tiny_model
from histories_on_disk import NO_DROPOUT, TASKS, TINY_MODEL, Watcher, comparable, config, write_foreign, write_robot
from runs import assert_same_model

from vintix_fast.data import Targets, Windows, read_trajectories
from vintix_fast.model import load_checkpoint
from vintix_fast.pretrain import pretrain as pretrain_module
from vintix_fast.pretrain.pretrain import mixed_loss, pretrain, shares, window_sizes
from vintix_fast.service.errors import UsageError
from vintix_fast.train.losses import action_loss

# -- what it leaves ----------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.usefixtures("plots_are_empty")


def test_a_training_leaves_a_model_its_state_and_its_curves(finished):
    out, card, _ = finished
    assert {path.name for path in out.iterdir()} == {
        "model", "training.pth", "pretrain.json", "config.json", "tensorboard", "loss.png",
    }  # fmt: skip
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((out / "pretrain.json").read_text())
    assert card.items() <= written.items()
    assert written["options"]["steps"] == 6 and "torch" in written["versions"]
    assert card["steps"] == 6 and card["tokens"] == 6 * 4 * 8
    for task in (TASKS["go1"], TASKS["go2"]):
        robot = card["robots"][task]
        assert (robot["histories"], robot["held_out"], robot["skipped"]) == (1, 1, [])
    assert card["parameters"] == sum(p.numel() for p in load_checkpoint(out / "model").parameters())


def test_the_model_loads_and_is_what_was_trained(finished):
    out, _, _ = finished
    model = load_checkpoint(out / "model")
    assert list(model.tasks) == [TASKS["go1"], TASKS["go2"]]
    assert model.groups == ("go1_locomotion", "go2_locomotion")
    assert json.loads((out / "model/config.json").read_text()) == TINY_MODEL
    saved = torch.load(out / "training.pth", weights_only=True)
    assert saved["step"] == 6
    assert all(torch.equal(value, saved["model"][name]) for name, value in model.state_dict().items())


def test_the_model_normalises_by_the_data(tmp_path, two):
    pretrain(config(tmp_path / "run", two, held_out=0.0, steps=1))
    tasks = load_checkpoint(tmp_path / "run/model").tasks
    for folder in two:
        histories = [read_trajectories(path).histories[0] for path in folder.glob("*.h5")]
        observation = np.concatenate([h.observation for h in histories])
        info = tasks[TASKS[folder.name]]
        np.testing.assert_allclose(info.obs_mean, observation.mean(axis=0), atol=1e-6)
        moving = observation.std(axis=0) > 0.01
        np.testing.assert_allclose(np.array(info.obs_std)[moving], observation.std(axis=0)[moving], rtol=1e-4)
        assert info.obs_std[6:9] == (1.0, 1.0, 1.0)
        action = np.concatenate([h.action for h in histories])
        np.testing.assert_allclose(info.acs_std, action.std(axis=0), rtol=1e-4)
        assert info.reward_scale == 1.0


def test_a_shared_group_serves_all_robots(tmp_path, two):
    pretrain(config(tmp_path / "run", two, shared_group=True, steps=2))
    model = load_checkpoint(tmp_path / "run/model")
    assert model.groups == ("quadruped_locomotion",) and list(model.tasks) == [TASKS["go1"], TASKS["go2"]]


def test_without_asking_there_is_no_dropout(tmp_path, two):
    model = {key: value for key, value in TINY_MODEL.items() if not key.endswith("_dropout")}
    pretrain(config(tmp_path / "run", two, model=model, steps=1))
    written = json.loads((tmp_path / "run/model/config.json").read_text())
    assert written == TINY_MODEL | NO_DROPOUT


def test_every_validation_has_the_held_out_loss_of_each_robot(finished):
    _, card, watcher = finished
    assert [row["step"] for row in card["rows"]] == [2, 4, 6]
    for row in card["rows"]:
        each = [row[f"held_out_loss/{TASKS[name]}"] for name in ("go1", "go2")]
        assert row["held_out_loss"] == pytest.approx(np.mean(each)) and min(each) > 0
    assert watcher.rows == card["rows"]
    for row in card["rows"]:
        mean = (watcher.losses[row["step"] - 1] + watcher.losses[row["step"]]) / 2
        assert row["loss"] == pytest.approx(mean)


def test_without_held_out_histories_there_is_no_held_out_loss(tmp_path, two):
    card = pretrain(config(tmp_path / "run", two, held_out=0.0, steps=2))
    assert not any("held_out" in key for row in card["rows"] for key in row)
    assert [robot["held_out"] for robot in card["robots"].values()] == [0, 0]


def test_the_last_step_is_validated_too(tmp_path, two):
    card = pretrain(config(tmp_path / "run", two, steps=5, eval_interval=3))
    assert [row["step"] for row in card["rows"]] == [3, 5]


# -- what it learns ----------------------------------------------------------------------------------------------------


def test_a_model_learns_what_there_is_to_learn(tmp_path):
    data = tuple(write_robot(tmp_path / name, name, (300, 300, 300, 60)) for name in ("go1", "go2"))
    options = dict(model=TINY_MODEL | NO_DROPOUT, steps=60, batch_size=8, window_len=16, lr=2e-2, eval_interval=10)
    rows = pretrain(config(tmp_path / "run", data, **options))["rows"]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    for task, info in load_checkpoint(tmp_path / "run/model").tasks.items():
        of_a_constant = np.mean(np.square(info.acs_std))
        assert rows[-1][f"held_out_loss/{task}"] < 0.4 * of_a_constant


@pytest.mark.parametrize(("target", "column"), [("expert", "mean_action"), ("action", "action")])
def test_what_is_predicted_is_the_experts_action_or_the_executed_one(monkeypatch, tmp_path, data, target, column):
    used = []

    class Spy(Windows):
        def __init__(self, histories, targets, *rest):
            used.extend((history, wanted) for history, wanted in zip(histories, targets, strict=True))
            super().__init__(histories, targets, *rest)

    monkeypatch.setattr(pretrain_module, "Windows", Spy)
    pretrain(config(tmp_path / "run", data[:1], steps=1, target=target))
    assert len(used) == 2  # one to train on, one held out
    for history, wanted in used:
        assert (history.extras["mean_action"] != history.action).all()
        np.testing.assert_array_equal(wanted.action, (history.extras | {"action": history.action})[column])
        assert (wanted.weight == 1.0).all()


def test_histories_that_do_not_know_the_expert_can_teach_what_was_done(tmp_path):
    folder = tmp_path / "data/go2"
    for env in range(2):
        path = folder / f"trajectories_env_{env:04d}.h5"
        write_foreign(path, make_history([9, 8], seed=env), task_name=TASKS["go2"])
    with pytest.raises(UsageError, match="--target expert: the histories of go2_walking_ad .*give --target action"):
        pretrain(config(tmp_path / "run", (folder,), steps=1))
    assert not (tmp_path / "run").exists()
    card = pretrain(config(tmp_path / "run", (folder,), steps=1, target="action"))
    assert card["robots"][TASKS["go2"]]["env_steps"] == 17


def test_every_part_of_the_model_is_trained(finished, tmp_path, two):
    pretrain(config(tmp_path / "run", two, steps=1, lr=1e-12))
    initial = load_checkpoint(tmp_path / "run/model").state_dict()
    trained = load_checkpoint(finished[0] / "model").state_dict()
    assert [name for name in initial if torch.allclose(initial[name], trained[name], atol=1e-6, rtol=0)] == []


def test_a_seed_decides_the_model(finished, tmp_path, two):
    torch.manual_seed(777)
    card = pretrain(config(tmp_path / "again", two))
    assert_same_model(tmp_path / "again/model", finished[0] / "model")
    assert comparable(card["rows"]) == comparable(finished[1]["rows"])
    pretrain(config(tmp_path / "other", two, seed=6, steps=1, lr=1e-12))
    ours, others = (load_checkpoint(path / "model").state_dict() for path in (finished[0], tmp_path / "other"))
    weight = "transformer.blocks.0.mlp.fc.weight"
    assert (ours[weight] - others[weight]).abs().max() > 0.05


def test_files_that_are_left_out_are_said_and_written_down(tmp_path):
    folder = write_robot(tmp_path / "data/go2", "go2")
    os.truncate(folder / "trajectories_env_0001.h5", 500)
    watcher = Watcher()
    card = pretrain(config(tmp_path / "run", (folder,), steps=1), progress=watcher)
    (skipped,) = card["robots"][TASKS["go2"]]["skipped"]
    assert "trajectories_env_0001.h5" in skipped and f"skipped: {skipped}" in watcher.said
    assert card["robots"][TASKS["go2"]]["histories"] + card["robots"][TASKS["go2"]]["held_out"] == 2


# -- a step ------------------------------------------------------------------------------------------------------------


def test_the_mixed_loss_is_each_tasks_own():
    """From one pass over windows of different lengths, also where a task's own windows differ."""
    model = tiny_model()
    rng = np.random.default_rng(0)
    batches = {}
    for name, lengths in (("go2_walking_ad", (9, 30, 21)), ("go1_walking_ad", (5, 3))):
        histories = [make_history([length - 2, 2], seed=length) for length in lengths]
        targets = [Targets(h.action, np.ones(len(h), np.float32)) for h in histories]
        batches[name] = Windows(histories, targets, 25).batch(6, rng)
    widths = {name: batch.weight.shape[1] for name, batch in batches.items()}
    assert widths["go2_walking_ad"] > widths["go1_walking_ad"]
    assert any((batch.weight == 0).any() for batch in batches.values())
    with torch.inference_mode():
        mixed = mixed_loss(model, batches, bf16=False)
        alone = {name: action_loss(model, name, batch) for name, batch in batches.items()}
        rough = mixed_loss(model, batches, bf16=True)
    assert mixed.keys() == alone.keys()
    for name in alone:
        torch.testing.assert_close(mixed[name], alone[name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(rough[name], alone[name], atol=0, rtol=0.05)
        assert rough[name].dtype == torch.float32


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 16])
def test_tasks_share_every_batch_and_are_drawn_equally_often(batch_size, num_tasks):
    rounds = [shares(batch_size, num_tasks, step) for step in range(5 * num_tasks)]
    for counts in rounds:
        assert len(counts) == num_tasks and sum(counts) == batch_size
        assert min(counts) >= 0 and max(counts) - min(counts) <= 1
    assert len({sum(counts[task] for counts in rounds) for task in range(num_tasks)}) == 1


def test_a_batch_smaller_than_the_number_of_robots_trains_them_in_turns(tmp_path, data):
    card = pretrain(config(tmp_path / "run", data, batch_size=1, steps=3, lr=1e-2))
    assert card["tokens"] == 3 * 8
    pretrain(config(tmp_path / "initial", data, batch_size=1, steps=1, lr=1e-12))
    trained, initial = (load_checkpoint(tmp_path / name / "model") for name in ("run", "initial"))
    for group in trained.groups:
        before = dict(initial.group_parameters(group))
        assert all((value - before[name]).abs().max() > 1e-4 for name, value in trained.group_parameters(group)), group


def test_the_last_steps_have_longer_windows_and_as_many_tokens():
    settings = config("run", ("data",), steps=20, batch_size=16, window_len=8, long_steps=3, long_window_len=32)
    sizes = [window_sizes(settings, step) for step in range(20)]
    assert sizes == [(16, 8)] * 17 + [(4, 32)] * 3
    short = config("run", ("data",), steps=10, batch_size=16, window_len=8, long_steps=3, long_window_len=32)
    assert [window_sizes(short, step) for step in (7, 8)] == [(16, 8), (4, 32)]  # a fifth at most
    fewest = config("run", ("data",), steps=10, batch_size=2, window_len=8, long_steps=3, long_window_len=32)
    assert window_sizes(fewest, 9) == (1, 32)


def test_long_windows_are_drawn_at_the_end(tmp_path, two):
    card = pretrain(
        config(tmp_path / "run", two, batch_size=6, window_len=4, steps=10, long_steps=2, long_window_len=12)
    )
    assert card["tokens"] == 8 * 6 * 4 + 2 * 2 * 12
