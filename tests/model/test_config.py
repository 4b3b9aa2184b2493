"""Hyper-parameters and statistics are read faithfully, and wrong ones are named with their value."""

import json
from pathlib import Path

import pytest
from fakes import OBSERVATIONS

from vintix_fast.model import ModelConfig, TaskInfo
from vintix_fast.service.errors import InputFileError

GOLDEN = Path(__file__).parents[1] / "golden/vintix_tiny"


@pytest.fixture
def config():
    return json.loads((GOLDEN / "config.json").read_text())


@pytest.fixture
def task():
    return json.loads((GOLDEN / "metadata.json").read_text())["go2_walking_ad"]


def test_the_defaults_are_the_usual_model():
    config = ModelConfig()
    assert (config.observation_emb_dim, config.action_emb_dim, config.reward_emb_dim) == (127, 127, 2)
    assert (config.hidden_dim, config.transformer_depth, config.transformer_heads) == (256, 3, 4)
    assert (config.context_len, config.intermediate_size, config.head_dim) == (2048, 128, 64)
    assert config.token_order == "action-reward-observation"


def test_config_round_trip_adds_the_token_order(config):
    assert ModelConfig.from_dict(config).to_dict() == {**config, "token_order": "action-reward-observation"}


def test_config_ignores_what_it_does_not_know_and_fills_a_null_mlp_width(config):
    assert ModelConfig.from_dict({**config, "lr": 1e-4, "intermediate_size": None}).intermediate_size == 256


@pytest.mark.parametrize(("heads", "head_dim"), [(4, 16), (6, 10), (64, 1)])
def test_a_head_is_as_wide_as_whole_numbers_allow(config, heads, head_dim):
    assert ModelConfig.from_dict({**config, "transformer_heads": heads}).head_dim == head_dim


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_dim", 65, r"hidden_dim is 65, .* is 64"),
        ("transformer_heads", 65, "transformer_heads 65 is more than hidden_dim 64"),
        ("transformer_depth", 0, "transformer_depth .* 0"),
        ("context_len", -3, "context_len .* -3"),
        ("action_emb_dim", "31", "action_emb_dim .* '31'"),
        ("hidden_dim", True, "hidden_dim .* True"),
        ("bias", 1, "bias must be true or false, got 1"),
        ("attn_dropout", 1.5, "attn_dropout .* 1.5"),
        ("norm_class", "BatchNorm", "norm_class .*LayerNorm, RMSNorm; got 'BatchNorm'"),
        ("mlp_class", ["x"], "mlp_class .*GptNeoxMLP"),
        ("token_order", "reward", "token_order .*'reward'"),
        ("shared_attention_norm", True, "needs parallel_residual"),
    ],
)
def test_bad_hyper_parameters_are_named(config, key, value, message):
    with pytest.raises(InputFileError, match=message):
        ModelConfig.from_dict({**config, key: value})


def test_missing_hyper_parameters_are_named(config):
    del config["norm_obs"], config["hidden_dim"]
    with pytest.raises(InputFileError, match="missing.*hidden_dim, norm_obs"):
        ModelConfig.from_dict(config)


def test_task_round_trip_and_default_group(task):
    info = TaskInfo.from_dict(task)
    assert info.to_dict() == task
    assert (info.observation_dim, info.action_dim, info.group_name) == (33, 12, "go2_locomotion")
    del task["group_name"]
    assert TaskInfo.from_dict(task).group_name == "quadruped_locomotion"


def test_other_dimensions_are_fine(task):
    task.update(observation_shape={"proprio": [3]}, action_dim=1, acs_mean=[0.0], acs_std=[1.0])
    task.update(obs_mean=[0, 1, 2], obs_std=[0.0, 1.0, 1.0])
    assert TaskInfo.from_dict(task).obs_mean == (0.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("obs_mean", [0.0] * 32, "obs_mean has 32 entries, expected 33"),
        ("acs_std", [float("nan")] + [1.0] * 11, r"acs_std\[0\] .*nan"),
        ("acs_std", [1.0] * 11 + [-1.0], r"acs_std\[11\] .*negative, got -1.0"),
        ("obs_std", ["1"] * OBSERVATIONS, r"obs_std\[0\] .*'1'"),
        ("obs_std", None, "missing.*obs_std"),
        ("reward_scale", float("inf"), "reward_scale .*inf"),
        ("reward_told", float("nan"), "reward_told .*nan"),
        ("reward_scale", -(10**400), r"reward_scale .*, got -1000+\.\.\.0+"),
        ("obs_mean", [1.1e6] * OBSERVATIONS, r"obs_mean\[0\] must be .* no larger than 1e.06, got 1100000"),
        ("action_dim", 0, "action_dim .*0"),
        ("action_type", "discrete", "action_type .*discrete"),
        ("observation_shape", {"image": [3, 64, 64]}, "observation_shape .*image"),
        ("group_name", "a.b", "without dots, got 'a.b'"),
    ],
)
def test_bad_task_entries_are_named(task, key, value, message):
    with pytest.raises(InputFileError, match=message):
        TaskInfo.from_dict({**task, key: value})
