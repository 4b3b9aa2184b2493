"""What a training's options may be, in a file, on the command line and in Python."""

import pytest
from histories_on_disk import SMALL, TINY_MODEL

from vintix_fast.pretrain.config import PretrainConfig, read_pretrain_config
from vintix_fast.pretrain.pretrain import pretrain
from vintix_fast.service.errors import InputFileError, UsageError


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": TINY_MODEL | {"hidden_dim": 64}}, UsageError, "--model: hidden_dim is 64, but .* is 32"),
        ({"model": {"depth": 3}}, UsageError, "--model depth is not known; known are .*transformer_depth"),
        ({"model": TINY_MODEL | {"transformer_heads": 33}}, UsageError, "transformer_heads 33 is more than hidden_dim"),
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
        ({"long_steps": 0, "long_window_len": 9}, UsageError, "--long-window-len 9 has no effect with --long-steps 0"),
        ({"lr": 0.0}, UsageError, "--lr is 0.0"),
        ({"lr": float("inf")}, UsageError, "--lr is inf"),
        ({"weight_decay": -1.0}, UsageError, "--weight-decay is -1.0"),
        ({"reward_dropout": 1.0}, UsageError, "--reward-dropout is 1.0; it must be less than 1"),
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
    read = read_pretrain_config(settings, data=["a", "b"], output_dir="out", steps=7)
    default = PretrainConfig(data=("a",), output_dir="out")
    assert (read.steps, read.lr, read.bf16, read.batch_size) == (7, 0.5, False, default.batch_size)
    assert [str(path) for path in read.data] == ["a", "b"] and str(read.output_dir) == "out"
    assert read_pretrain_config(data=["a"], output_dir="out") == default
    assert read_pretrain_config(settings, data=["a"], output_dir="out", bf16=True).bf16 is True
    assert read_pretrain_config(settings, data=["a"], output_dir="out").steps == 70


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
        ("resume = true", [], UsageError, r"settings\.toml: resume is not known"),
        ("output_dir = 'out'", [], UsageError, r"settings\.toml: output_dir is not known"),
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
