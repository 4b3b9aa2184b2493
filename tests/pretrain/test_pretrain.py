"""Training whole models on several robots' histories: what is learnt, what is left, going on, options."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from fakes import TINY, make_history, tiny_model
from histories_on_disk import TASKS, Watcher, write_foreign, write_robot
from runs import assert_same_model

from vintix_fast.data import Targets, Windows, read_trajectories
from vintix_fast.errors import InputFileError, Interrupted, UsageError
from vintix_fast.model import load_checkpoint
from vintix_fast.pretrain import pretrain as pretrain_module
from vintix_fast.pretrain.config import PretrainConfig, read_pretrain_config
from vintix_fast.pretrain.pretrain import leave_one_out, mixed_loss, pretrain, shares, window_sizes
from vintix_fast.train.finetune import action_loss

TINY_MODEL = TINY.to_dict()
NO_DROPOUT = {"attn_dropout": 0.0, "residual_dropout": 0.0}
SMALL = dict(
    model=TINY_MODEL, steps=6, batch_size=4, window_len=8, long_steps=0, lr=3e-3, warmup_steps=2, eval_interval=2,
    eval_batches=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three robots' directories of histories; not to be written to."""
    folder = tmp_path_factory.mktemp("data")
    names = ("go1", "go2", "minicheetah")
    return tuple(write_robot(folder / name, name, (24, 30), seed=i) for i, name in enumerate(names))


@pytest.fixture
def two(data):
    return data[:2]


def config(out, data, **options):
    return PretrainConfig(data=data, output_dir=out, **(SMALL | options))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A training of two robots that nothing disturbed, and what it told; not to be written to."""
    out, watcher = tmp_path_factory.mktemp("finished") / "run", Watcher()
    return out, pretrain(config(out, data[:2]), progress=watcher), watcher


@pytest.fixture(autouse=True)
def plots_are_empty(monkeypatch, finished):
    """Half of a small run's time is its plot; ``finished`` has a real one."""
    monkeypatch.setattr(pretrain_module, "write_losses", lambda folder, rows: None)


def stop_and_go_on(out, data, at, **options):
    with pytest.raises(Interrupted, match="--resume") as stop:
        pretrain(config(out, data, **options), progress=Watcher(at))
    assert stop.value.exit_code == 130
    torch.manual_seed(12345)  # whatever else the process does with randomness
    watcher = Watcher()
    return pretrain(config(out, data, resume=True, **options), progress=watcher), watcher


def comparable(rows):
    return [{key: value for key, value in row.items() if key != "tokens_per_s"} for row in rows]


# -- what it leaves ----------------------------------------------------------------------------------------------------


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


# -- stopping and going on ---------------------------------------------------------------------------------------------


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
    "options", [{"bf16": False}, {"long_steps": 3, "long_window_len": 16}], ids=["float32", "among-long-windows"]
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


# -- bad options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": TINY_MODEL | {"hidden_dim": 64}}, UsageError, "--model: hidden_dim is 64, but .* is 32"),
        ({"model": {"depth": 3}}, UsageError, "--model depth is not known; known are .*transformer_depth"),
        ({"model": TINY_MODEL | {"transformer_heads": 5}}, UsageError, "not divisible by transformer_heads 5"),
        ({"model": TINY_MODEL | {"norm_class": "BatchNorm"}}, UsageError, "norm_class must be one of LayerNorm"),
        ({"model": TINY_MODEL | {"norm_obs": 1}}, UsageError, "norm_obs must be true or false"),
        ({"data": ()}, UsageError, "--data is missing"),
        ({"data": ("nowhere",)}, InputFileError, "--data nowhere: no such directory"),
        ({"held_out": 1.0}, UsageError, "--held-out is 1.0; it must be less than 1"),
        ({"held_out": -0.1}, UsageError, "--held-out is -0.1"),
        ({"steps": 0}, UsageError, "--steps is 0"),
        ({"batch_size": 0}, UsageError, "--batch-size is 0"),
        ({"window_len": 1}, UsageError, "--window-len is 1"),
        ({"long_window_len": 1}, UsageError, "--long-window-len is 1"),
        ({"long_steps": -1}, UsageError, "--long-steps is -1"),
        ({"lr": 0.0}, UsageError, "--lr is 0.0"),
        ({"lr": float("inf")}, UsageError, "--lr is inf"),
        ({"weight_decay": -1.0}, UsageError, "--weight-decay is -1.0"),
        ({"eval_interval": 0}, UsageError, "--eval-interval is 0"),
        ({"eval_batches": 0}, UsageError, "--eval-batches is 0"),
        ({"device": "tpu"}, UsageError, "--device is 'tpu'"),
        ({"target": "reward"}, UsageError, "--target is 'reward'; it must be one of expert, action"),
        ({"resume": True}, UsageError, "holds no run of `pretrain`"),
        ({"resume": True, "overwrite": True}, UsageError, "exclude each other"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, two, options, error, words):
    with pytest.raises(error, match=words):
        pretrain(PretrainConfig(**({"data": two, "output_dir": tmp_path / "run"} | SMALL | options)))
    assert list(tmp_path.iterdir()) == []


# -- options from a file and from the command line ---------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('steps = 70\nlr = 0.5\nbf16 = false\n[model]\ntransformer_depth = 2\nnorm_class = "RMSNorm"\n')
    return path


def test_the_command_line_counts_more_than_the_file_and_the_file_than_the_defaults(settings):
    read = read_pretrain_config(settings, data=["a", "b"], output_dir="out", steps=7, lr=None, batch_size=None)
    default = PretrainConfig(data=("a",), output_dir="out")
    assert (read.steps, read.lr, read.bf16, read.batch_size) == (7, 0.5, False, default.batch_size)
    assert [str(path) for path in read.data] == ["a", "b"] and str(read.output_dir) == "out"
    assert read_pretrain_config(data=["a"], output_dir="out") == default
    assert read_pretrain_config(settings, data=["a"], output_dir="out", bf16=True).bf16 is True
    assert read_pretrain_config(settings, data=["a"], output_dir="out", steps=0.0 or None).steps == 70


def test_a_key_of_the_command_line_changes_one_entry_of_the_files_architecture(settings):
    read = read_pretrain_config(settings, ["transformer_depth=5", "context_len=64"], data=["a"], output_dir="out")
    architecture = read.architecture()
    assert (architecture.transformer_depth, architecture.context_len) == (5, 64)
    assert architecture.norm_class == "RMSNorm" and architecture.hidden_dim == 256


def test_values_of_the_architecture_are_numbers_words_and_truths(tmp_path):
    pairs = [
        "transformer_depth=2", "attn_dropout=0.25", "norm_class=RMSNorm", 'mlp_class="LLaMAMLP"', "norm_obs=false",
        "token_order=observation-action-reward",
    ]  # fmt: skip
    architecture = read_pretrain_config(None, pairs, data=["a"], output_dir="out").architecture()
    assert (architecture.transformer_depth, architecture.attn_dropout, architecture.norm_obs) == (2, 0.25, False)
    assert (architecture.norm_class, architecture.mlp_class) == ("RMSNorm", "LLaMAMLP")
    assert architecture.token_order == "observation-action-reward" and architecture.residual_dropout == 0.0


@pytest.mark.parametrize(
    ("text", "pairs", "error", "words"),
    [
        ("stpes = 3", [], UsageError, r"settings\.toml: stpes is not known; known are .*steps"),
        ("[model]\ndepth = 3", [], UsageError, "--model depth is not known; known are .*transformer_depth"),
        ("model = 3", [], UsageError, r"model is 3; it must be a table, \[model\]"),
        ("steps = 'many'", [], UsageError, "--steps is 'many'; it must be an integer"),
        ("steps = 1.5", [], UsageError, "--steps is 1.5; it must be an integer"),
        ("steps = ", [], InputFileError, r"settings\.toml is not valid TOML"),
        (b"\xff\xfe", [], InputFileError, r"settings\.toml is not valid TOML"),
        ("", ["transformer_depth"], UsageError, "--model is 'transformer_depth'; it must be KEY=VALUE"),
        ("", ["depth=3"], UsageError, "--model depth is not known"),
        ("", ["transformer_depth=deep"], UsageError, "transformer_depth must be a positive integer, got 'deep'"),
        ("", ["hidden_dim=512"], UsageError, "hidden_dim is 512, but .* is 256"),
        ("bf16 = 'no'", [], UsageError, "bf16"),
        ("shared_group = 'no'", [], UsageError, "shared[-_]group"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_file_or_an_option_cannot_say_is_named(tmp_path, text, pairs, error, words):
    path = tmp_path / "settings.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    given = {"output_dir": "out"} | ({} if "data" in str(text) else {"data": ["a"]})
    with pytest.raises(error, match=words):
        read_pretrain_config(path, pairs, **given)


def test_a_file_of_options_must_be_there(tmp_path):
    with pytest.raises(InputFileError, match="--config .*absent.toml: No such file"):
        read_pretrain_config(tmp_path / "absent.toml", data=["a"], output_dir="out")
    with pytest.raises(InputFileError, match="--config .*: Is a directory"):
        read_pretrain_config(tmp_path, data=["a"], output_dir="out")


# -- leaving one out ---------------------------------------------------------------------------------------------------

LEFT_OUT = ["without-go1", "without-go2", "without-minicheetah"]


@pytest.fixture(scope="module")
def left_out(tmp_path_factory, data):
    """One model without each robot; not to be written to."""
    out = tmp_path_factory.mktemp("leave") / "models"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_module, "write_losses", lambda folder, rows: None)
        cards = leave_one_out(config(out, data, steps=2))
    return out, cards


def test_every_model_lacks_one_robot(left_out, data):
    out, cards = left_out
    assert sorted(path.name for path in out.iterdir()) == sorted(cards) == LEFT_OUT
    for folder in data:
        name = f"without-{folder.name}"
        others = [other.name for other in data if other != folder]
        model = load_checkpoint(out / name / "model")
        assert list(model.tasks) == list(cards[name]["robots"]) == [TASKS[other] for other in others]
        assert model.groups == tuple(f"{other}_locomotion" for other in others)


def test_a_model_of_leave_one_out_is_that_of_pretrain_without_the_robot(left_out, tmp_path, data):
    pretrain(config(tmp_path / "run", data[1:], steps=2))
    assert_same_model(tmp_path / "run/model", left_out[0] / "without-go1/model")


def test_leave_one_out_goes_on_where_it_was_stopped(left_out, tmp_path, data):
    out = tmp_path / "models"
    with pytest.raises(Interrupted):
        leave_one_out(config(out, data, steps=2), progress=Watcher(("on_training_step", 3)))
    assert sorted(path.name for path in out.iterdir()) == LEFT_OUT[:2]
    assert (out / "without-go1/model").is_dir() and not (out / "without-go2/model").exists()
    watcher = Watcher()
    cards = leave_one_out(config(out, data, steps=2, resume=True), progress=watcher)
    assert len(watcher.rows) == 2  # one validation each of the two models that were not finished
    assert list(cards) == LEFT_OUT
    for name in LEFT_OUT:
        assert_same_model(out / name / "model", left_out[0] / name / "model")


def test_leave_one_out_leaves_finished_models_alone_unless_told(left_out, tmp_path, data):
    out = shutil.copytree(left_out[0], tmp_path / "models")
    with pytest.raises(UsageError, match="without-go1 holds a run: --resume.*--overwrite"):
        leave_one_out(config(out, data, steps=1))
    assert_same_model(out / "without-go1/model", left_out[0] / "without-go1/model")
    cards = leave_one_out(config(out, data, steps=1, overwrite=True))
    assert [card["steps"] for card in cards.values()] == [1, 1, 1]
