"""Options: the guide's defaults, and values that cannot be are refused with their option's name and value."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from vintix_fast.benchmarks.config import BenchConfig
from vintix_fast.config import AdaptConfig
from vintix_fast.eval_config import EvalConfig
from vintix_fast.service.bundled import BUILTIN_CHECKPOINT
from vintix_fast.service.errors import UsageError
from vintix_fast.world.task_config import FurtherWeights, TaskConfig


def adapt_config(**options):
    return AdaptConfig.from_options(**({"robot_type": "go1", "output_dir": "out"} | options))


def eval_config(**options):
    return EvalConfig.from_options(**({"vintix_path": "model", "robot_type": "go1"} | options))


def test_defaults_are_those_of_the_guide_but_for_how_it_trains():
    config = adapt_config()
    guides = {
        "reference_robot": "go2", "num_improvement_loops": 5, "episodes_per_loop": 50, "finetune_steps_per_loop": 1000,
        "max_steps_per_episode": 1000, "context_len": 2048, "batch_size": 16, "lr": 5e-4, "seed": 5,
    }  # fmt: skip
    assert config.options().items() >= guides.items()
    assert config.pretrained_path == BUILTIN_CHECKPOINT and (BUILTIN_CHECKPOINT / "model.pth").is_file()
    assert (eval_config().num_envs, eval_config().max_steps) == (100, 1000)


NOT_POSITIVE = [
    (name, value)
    for name in (
        "num_improvement_loops", "episodes_per_loop", "finetune_steps_per_loop", "max_steps_per_episode", "context_len",
        "batch_size", "num_envs", "window_len", "gate_episodes", "critic_updates",
    )
    for value in (0, -3)
]  # fmt: skip
OUT_OF_RANGE = [
    ("lr", 0.0), ("lr", -1e-4), ("lr", math.nan), ("lr", math.inf), ("noise", -0.1), ("noise", math.nan),
    ("noise", math.inf), ("seed", -1), ("min_steps_per_loop", -1), ("improver", "magic"), ("init_map", "turn"),
    ("train", "encoder"), ("replay", "some"), ("group", "mine"), ("improvement_step", -0.1),
    ("target_return", math.nan), ("target_return", math.inf), ("token_order", "reward-first"), ("device", "tpu"),
    ("seed", 2**63), ("num_envs", 8001), ("episodes_per_loop", 2.5), ("batch_size", True), ("lr", "fast"),
    ("engine", "jax"), ("cache_dtype", "float16"), ("dropped_mass", -0.1), ("dropped_mass", 0.6),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), NOT_POSITIVE + OUT_OF_RANGE)
def test_bad_values_are_refused_by_name_and_value(name, value):
    with pytest.raises(UsageError) as error:
        adapt_config(**{name: value})
    message = str(error.value)
    assert message.startswith("--" + name.replace("_", "-") + " is ") and str(value) in message
    assert "must be" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_envs", 0), ("max_steps", -1), ("episodes_per_env", 0), ("context_len", 0), ("seed", -2),
        ("device", "gpu"), ("engine", "jax"), ("cache_dtype", "float16"), ("dropped_mass", 0.6), ("base_mass", 0.0),
        ("base_mass", math.nan), ("record", Path("film.gif")),
    ],
)  # fmt: skip
def test_bad_values_of_an_evaluation_are_refused(name, value):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} is .*{value}.*must be"):
        eval_config(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        ("improver", "x", "critic, clone"),
        ("init_map", "x", "convert, kinematic, none"),
        ("replay", "x", "current, all"),
    ],
)
def test_choices_are_listed(name, value, choices):
    with pytest.raises(UsageError, match=choices):
        adapt_config(**{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"noise": 0.0, "improver": "clone"}, {"seed": 0},
        {"num_envs": 1, "episodes_per_loop": 1, "batch_size": 1, "context_len": 1},
        {"num_envs": None, "window_len": None, "token_order": None}, {"lr": 1e-12}, {"min_steps_per_loop": 0},
    ],
)  # fmt: skip
def test_values_at_their_bounds_are_accepted(options):
    config = adapt_config(**options)
    assert config.options().items() >= options.items()


def test_windows_are_no_longer_than_what_the_policy_sees():
    assert adapt_config(window_len=64, context_len=64).finetune.window_len == 64
    with pytest.raises(UsageError, match="--window-len is 65.*--context-len 64"):
        adapt_config(window_len=65, context_len=64)


def bench_config(**options):
    return BenchConfig.from_options(**options)


@pytest.mark.parametrize("make", [adapt_config, eval_config, bench_config])
def test_the_engine_is_recorded_as_it_acts(make):
    assert make().engine.policy_options == {"engine": "auto", "cache_dtype": "int8", "dropped_mass": 0.01}
    given = {"engine": "auto", "cache_dtype": "float32", "dropped_mass": 0.0}
    assert make(**given).engine.policy_options == given
    plain = {"engine": "torch", "cache_dtype": "float32", "dropped_mass": 0.0}
    config = make(engine="torch")
    assert config.engine.policy_options == plain == replace(config).engine.policy_options
    for name, value in (("cache_dtype", "int8"), ("dropped_mass", 0.1)):
        option = "--" + name.replace("_", "-")
        with pytest.raises(UsageError, match=f"{option} is {value}, but --engine torch keeps .* float32 and reads all"):
            make(engine="torch", **{name: value})


def test_resume_and_overwrite_exclude_each_other():
    with pytest.raises(UsageError, match="--resume.*--overwrite"):
        adapt_config(resume=True, overwrite=True)


@pytest.mark.parametrize(
    ("options", "envs"),
    [
        ({}, 25),
        ({"episodes_per_loop": 7}, 4),
        ({"episodes_per_loop": 1}, 1),
        ({"episodes_per_loop": 500}, 64),
        ({"num_envs": 3}, 3),
    ],
)
def test_two_episodes_an_environment_so_that_the_second_has_a_warm_context(options, envs):
    assert adapt_config(**options).envs == envs


def test_paths_may_be_texts():
    config = adapt_config(output_dir="a/b", pretrained_path="c", obs_stats="d.json")
    assert (config.output_dir, config.pretrained_path, config.obs_stats) == (Path("a/b"), Path("c"), Path("d.json"))


def test_changed_options_are_named_and_harmless_ones_are_not():
    old = json.loads(json.dumps(adapt_config(obs_stats="stats.json").to_json()))
    assert adapt_config(obs_stats="stats.json", resume=True).changed_options(old) == []
    harmless = adapt_config(obs_stats="stats.json", output_dir="elsewhere", num_improvement_loops=9)
    assert harmless.changed_options(old) == []
    changed = adapt_config(lr=2e-4, gate=False, robot_type="go2").changed_options(old)
    assert changed == [
        "--robot-type was go1, now go2",
        "--lr was 0.0005, now 0.0002",
        "--obs-stats was stats.json, now None",
        "--gate was True, now False",
    ]


def test_another_name_of_the_same_path_is_no_change(monkeypatch, tmp_path):
    default = adapt_config()
    old = default.to_json()
    assert old["pretrained_path"] == f"builtin:{BUILTIN_CHECKPOINT.name}"  # wherever the package lies
    assert default.changed_options(old | {"pretrained_path": str(BUILTIN_CHECKPOINT)}) == []
    monkeypatch.chdir(tmp_path)
    relative = adapt_config(pretrained_path="model", obs_stats="stats.json").to_json()
    assert adapt_config(pretrained_path=tmp_path / "model", obs_stats="./stats.json").changed_options(relative) == []
    moved = adapt_config(pretrained_path=tmp_path / "other", obs_stats="stats.json").changed_options(relative)
    assert moved == [f"--pretrained-path was model, now {tmp_path / 'other'}"]


def test_a_target_return_needs_the_gate():
    with pytest.raises(UsageError, match="--target-return 20.0 has no effect with --no-gate; leave one of the two out"):
        adapt_config(target_return=20.0, gate=False)


def test_a_critic_needs_exploration():
    with pytest.raises(UsageError, match="--noise is 0; --improver critic learns from exploration"):
        adapt_config(improver="critic", noise=0.0)


def test_an_option_that_an_older_run_did_not_have_was_as_by_default():
    old = adapt_config().to_json()
    del old["replay"]
    assert adapt_config().changed_options(old) == []
    assert adapt_config(replay="all").changed_options(old) == ["--replay was current, now all"]
    assert adapt_config(seed=6).changed_options(adapt_config(seed=4).to_json()) == ["--seed was 4, now 6"]


def test_a_task_of_before_a_term_of_the_reward_was_added_is_the_same_task():
    task = TaskConfig(further=FurtherWeights(torque=-1e-5))
    config = AdaptConfig(robot_type="go1", output_dir=Path("out"), task=task)
    old = json.loads(json.dumps(config.to_json()))
    del old["task"]["further"]["alive"], old["task"]["reward"]["similar_to_default"]
    assert config.changed_options(old) == []
    old["task"]["further"]["torque"] = -2e-5
    assert len(config.changed_options(old)) == 1
