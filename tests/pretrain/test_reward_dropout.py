"""Pretraining with hidden rewards: which windows are told what, and that the export says the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import make_history
from histories_on_disk import NO_DROPOUT, TASKS, TINY_MODEL, config, write_history

from vintix_fast.data import read_trajectories
from vintix_fast.export.contract import make_contract
from vintix_fast.model import add_group, load_checkpoint
from vintix_fast.pretrain import pretrain as pretrain_module
from vintix_fast.pretrain.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("plots_are_empty")
GO2 = TASKS["go2"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory, data):
    """By share: the card, the model's directory, and the batches that were trained on and validated with."""
    found = {}
    original = pretrain_module.mixed_loss
    for share in (0.0, 0.5):
        trained, validated = [], []

        def spy(model, batches, bf16, trained=trained, validated=validated):
            (trained if torch.is_grad_enabled() else validated).append(batches)
            return original(model, batches, bf16)

        out = tmp_path_factory.mktemp("dropout") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pretrain_module, "mixed_loss", spy)
            patch.setattr(pretrain_module, "write_losses", lambda folder, rows: None)
            card = pretrain(config(out, data[:2], steps=12, eval_interval=12, reward_dropout=share))
        found[share] = card, out / "model", trained, validated
    return found


def late_reward(folder, held_out):
    """Of the histories' last tenth, but for the one that is held out."""
    histories = [read_trajectories(path).histories[0] for path in sorted(folder.glob("*.h5"))]
    (trained,) = [h for i, h in enumerate(histories) if i != held_out]
    return np.mean(trained.reward[-(len(trained) // 10) :])


def test_a_share_of_whole_windows_is_told_the_mean_of_the_late_rewards(seen, data):
    held_out = int(np.random.default_rng(5).permutation(2)[0])
    for name, folder in zip(("go1", "go2"), data[:2], strict=True):
        told, hidden, kept = late_reward(folder, held_out), 0, 0
        assert load_checkpoint(seen[0.5][1]).tasks[TASKS[name]].reward_told == pytest.approx(told, abs=1e-7)
        for plain, dropped in zip(seen[0.0][2], seen[0.5][2], strict=True):
            plain, dropped = plain[TASKS[name]], dropped[TASKS[name]]
            assert torch.equal(plain.observation, dropped.observation), "the same windows"
            for true, row in zip(plain.prev_reward, dropped.prev_reward, strict=True):
                same = torch.equal(true, row)
                kept, hidden = kept + same, hidden + (not same)
                assert same or np.allclose(row, told, atol=1e-7)
        assert 6 <= hidden <= 18 and kept + hidden == 24


def test_validation_is_with_the_true_rewards_and_then_without(seen):
    (true,), (again, hidden) = seen[0.0][3], seen[0.5][3]
    assert all(torch.equal(true[name].prev_reward, again[name].prev_reward) for name in true)
    assert all(hidden[name].prev_reward.unique().numel() == 1 for name in hidden)
    row = seen[0.5][0]["rows"][-1]
    assert row["held_out_loss_without_rewards"] == pytest.approx(
        np.mean([row[f"held_out_loss_without_rewards/{TASKS[name]}"] for name in ("go1", "go2")])
    )
    assert row["held_out_loss_without_rewards"] != row["held_out_loss"]
    assert not any("without_rewards" in key for key in seen[0.0][0]["rows"][-1])


def test_the_export_tells_a_robot_what_the_pretraining_told(seen, go2):
    model = load_checkpoint(seen[0.5][1])
    told = model.tasks[GO2].reward_told
    assert make_contract(model, go2)["reward"]["value"] == told
    add_group(model, "new", "new_group", GO2)  # as for a robot that is adapted to
    assert model.tasks["new"].reward_told == told
    never = load_checkpoint(seen[0.0][1])
    assert make_contract(never, go2)["reward"]["value"] == pytest.approx(0.024)


def test_without_the_option_nothing_says_that_there_is_one(seen):
    for share, names in ((0.0, False), (0.5, True)):
        card, model = seen[share][:2]
        assert ("reward_told" in json.loads((model / "metadata.json").read_text())[GO2]) == names
        assert ("reward_dropout" in card["options"]) == names


def test_a_model_whose_rewards_were_hidden_needs_them_less(tmp_path):
    """The expert wants what the last reward tells exactly, and an observation roughly."""
    rng = np.random.default_rng(3)
    for env in range(4):
        made = make_history([300], seed=env)
        wanted = rng.normal(size=(300, 1)).astype(np.float32)
        observation = made.observation.copy()
        observation[:, 9:10] = wanted + 0.5 * rng.normal(size=(300, 1))
        reward = np.roll(wanted[:, 0], -1)  # of a step; the next one is told it
        expert = {"mean_action": np.tile(wanted, (1, made.action.shape[1]))}
        history = replace(made, observation=observation, reward=reward, extras=made.extras | expert)
        write_history(tmp_path / f"go2/trajectories_env_{env:04d}.h5", history, task_name=GO2)
    loss = {}
    for share in (1e-9, 0.5):
        options = dict(model=TINY_MODEL | NO_DROPOUT, steps=80, batch_size=8, window_len=16, lr=2e-2, eval_interval=80)
        run = config(tmp_path / f"run{share}", (tmp_path / "go2",), reward_dropout=share, **options)
        loss[share] = pretrain(run)["rows"][-1]
    assert loss[1e-9]["held_out_loss"] < 0.1 < 0.6 < loss[1e-9]["held_out_loss_without_rewards"]
    assert loss[0.5]["held_out_loss_without_rewards"] < 0.5 * loss[1e-9]["held_out_loss_without_rewards"]
