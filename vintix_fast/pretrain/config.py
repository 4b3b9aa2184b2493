"""Options of the commands that make a pretrained model, checked before anything is built or written."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vintix_fast.config import RunConfig, check_options, checkpoint_path
from vintix_fast.errors import InputFileError, UsageError

if TYPE_CHECKING:  # torch comes with it, and --help must not wait for that
    from vintix_fast.model import ModelConfig

DEVICES = ("cpu", "cuda")
MINI_BATCHES = 4
"""Of each PPO iteration."""
TARGETS = ("expert", "action")
COMMAND_LINE_ONLY = ("data", "output_dir", "resume", "overwrite", "model")
"""What an options file cannot say, except ``model`` as its table."""
NO_DROPOUT = {"attn_dropout": 0.0, "residual_dropout": 0.0}
"""A few passes over the histories do not overfit, and dropout costs a third of the time on a CPU."""


@dataclass(frozen=True)
class ExpertConfig(RunConfig):
    """One expert: PPO for ``iterations`` of ``num_envs`` environments x ``steps_per_iteration`` steps.

    Raises:
        UsageError: a value is out of range.
    """

    command = "expert"
    may_change = ("iterations", "eval_episodes")

    robot_type: str
    output_dir: Path
    iterations: int = 400
    num_envs: int = 512
    steps_per_iteration: int = 24
    max_steps_per_episode: int = 1000
    hidden_dims: tuple[int, ...] = (256, 128, 64)
    """Widths of the expert's hidden layers, and of its critic's."""
    lr: float = 1e-3
    """The first learning rate; PPO adapts it to the size of its steps."""
    init_noise: float = 1.0
    """Standard deviation of the exploration noise at the beginning, in action units (0.25 rad)."""
    entropy: float = 0.01
    """Weight of the entropy bonus; it fades in the second half of the training."""
    desired_kl: float = 0.02
    """How far PPO lets an update move the policy; it adapts the learning rate to that."""
    eval_episodes: int = 100
    save_interval: int = 20
    """Iterations from one saved state to the next: what a killed run loses at most."""
    seed: int = 5
    device: str = "cpu"
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "output_dir", Path(self.output_dir))
        object.__setattr__(self, "hidden_dims", tuple(self.hidden_dims))
        check_options(
            self,
            at_least={
                "iterations": 1, "num_envs": 1, "steps_per_iteration": 2, "max_steps_per_episode": 1, "lr": 1e-12,
                "desired_kl": 1e-6, "init_noise": 1e-3, "entropy": 0.0, "eval_episodes": 1, "save_interval": 1,
                "seed": 0,
            },
            one_of={"device": DEVICES},
        )  # fmt: skip
        if not self.hidden_dims or not all(type(width) is int and width > 0 for width in self.hidden_dims):
            raise UsageError(f"--hidden-dims is {self.hidden_dims}; it must be one or more positive integers")
        if self.num_envs * self.steps_per_iteration < MINI_BATCHES:
            raise UsageError(
                f"--num-envs {self.num_envs} x --steps-per-iteration {self.steps_per_iteration} is less than one step "
                f"for each of PPO's {MINI_BATCHES} mini-batches; give more"
            )
        self._check_run()


@dataclass(frozen=True)
class DistilConfig(RunConfig):
    """Learning histories of one robot: ``histories`` of them, ``steps_per_env`` steps each.

    Raises:
        UsageError: a value is out of range.
    """

    command = "distil"
    inputs = ("expert",)

    expert: Path
    output_dir: Path
    robot_type: str | None = None
    """None: the expert's; otherwise it must be the expert's."""
    histories: int = 64
    steps_per_env: int = 8000
    num_envs: int = 64
    """Histories that are collected side by side."""
    power: float = 0.5
    expert_fraction: float = 0.05
    """The last part of a history, in which the expert acts alone."""
    max_steps_per_episode: int = 1000
    seed: int = 5
    device: str = "cpu"
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("expert", "output_dir"):
            object.__setattr__(self, name, Path(getattr(self, name)))
        check_options(
            self,
            at_least={
                "histories": 1, "steps_per_env": 2, "num_envs": 1, "power": 0.01, "expert_fraction": 0.0,
                "max_steps_per_episode": 1, "seed": 0,
            },
            one_of={"device": DEVICES},
        )  # fmt: skip
        if self.expert_fraction >= 1.0:
            raise UsageError(f"--expert-fraction is {self.expert_fraction}; it must be less than 1")
        if self.histories % self.num_envs:
            raise UsageError(
                f"--histories is {self.histories}, which is not a multiple of --num-envs {self.num_envs}; rounds of "
                "different sizes would need another scene"
            )
        self._check_run()


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """One pretraining: ``steps`` optimiser steps of ``batch_size`` windows of ``window_len`` steps, longer at the end.

    Raises:
        UsageError: a value is out of range, or the architecture contradicts itself.
    """

    command = "pretrain"
    inputs = ("data", "init_from")

    data: tuple[Path, ...]
    """Directories of histories, one robot's each."""
    output_dir: Path
    model: dict[str, Any] = field(default_factory=dict)
    """The architecture, where it differs from `ModelConfig`'s defaults; no dropout unless it is asked for."""
    init_from: Path | None = None
    """A checkpoint to go on from, whose architecture it is then; robots that it lacks get groups of their own."""
    target: str = "expert"
    """What is predicted at each step: the expert's action there, or the executed one, noise and all (AD-epsilon)."""
    shared_group: bool = False
    """One group for all robots instead of one each."""
    steps: int = 2500
    batch_size: int = 16
    window_len: int = 256
    long_window_len: int = 1024
    """Steps in a window at the end of the training; as many fewer windows, so that a step has as many tokens."""
    long_steps: int = 500
    """How many of the optimiser steps, the last ones, have long windows; at most a fifth."""
    lr: float = 1e-3
    warmup_steps: int = 100
    final_lr_fraction: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    held_out: float = 0.05
    """Share of each robot's histories that are kept for validation; at least one."""
    eval_interval: int = 250
    """Steps from one validation, and one saved state, to the next."""
    eval_batches: int = 4
    bf16: bool = True
    """Multiply matrices in bfloat16; weights and optimiser stay in float32."""
    seed: int = 5
    device: str = "cpu"
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "output_dir", Path(self.output_dir))
        data = (self.data,) if isinstance(self.data, str | Path) else self.data
        object.__setattr__(self, "data", tuple(Path(path) for path in data))
        if self.init_from is not None:
            object.__setattr__(self, "init_from", checkpoint_path(self.init_from))
            for name, given in (("model", self.model), ("shared_group", self.shared_group)):
                if given:
                    raise UsageError(f"--{name.replace('_', '-')} has no effect with --init-from, whose model is taken")
        check_options(
            self,
            at_least={
                "steps": 1, "batch_size": 1, "window_len": 2, "long_window_len": 2, "long_steps": 0, "lr": 1e-12,
                "warmup_steps": 0, "final_lr_fraction": 0.0,
                "weight_decay": 0.0, "max_grad_norm": 1e-6, "held_out": 0.0, "eval_interval": 1, "eval_batches": 1,
                "seed": 0,
            },
            one_of={"device": DEVICES, "target": TARGETS},
            flags=("bf16", "shared_group", "resume", "overwrite"),
        )  # fmt: skip
        self.architecture()
        if not self.data:
            raise UsageError("--data is missing; give each robot's directory of histories, --data DIR --data DIR ...")
        if len({path.resolve() for path in self.data}) < len(self.data):
            raise UsageError("--data names a directory twice; give each robot's once")
        if self.held_out >= 1.0:
            raise UsageError(f"--held-out is {self.held_out}; it must be less than 1")
        if self.final_lr_fraction > 1.0:
            raise UsageError(f"--final-lr-fraction is {self.final_lr_fraction}; it must be at most 1")
        self._check_run()

    def architecture(self) -> ModelConfig:
        """The model's hyper-parameters."""
        from vintix_fast.model import ModelConfig

        _check_known(self.model, ModelConfig, "--model")
        try:
            return ModelConfig(**(NO_DROPOUT | self.model))
        except InputFileError as error:
            raise UsageError(f"--model: {error}") from error


def read_pretrain_config(config: Path | None = None, model: list[str] | None = None, **options: Any) -> PretrainConfig:
    """Options of the command line over those of a TOML file over the defaults.

    Args:
        config: a file with options of `PretrainConfig`, those that say how this call treats its folders excepted; its
            table ``model`` is the architecture.
        model: ``KEY=VALUE`` of the architecture, VALUE as in JSON; a text needs no quotes.
        options: of `PretrainConfig`; None where not given.

    Raises:
        InputFileError: the file is missing or broken.
        UsageError: an option is unknown or out of range, or the architecture contradicts itself.
    """
    table: dict[str, Any] = {}
    if config is not None:
        try:
            table = tomllib.loads(Path(config).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputFileError(f"--config {config}: {error.strerror}") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputFileError(f"--config {config} is not valid TOML: {error}") from error
    architecture = table.pop("model", {})
    if not isinstance(architecture, dict):
        raise UsageError(f"--config {config}: model is {architecture!r}; it must be a table, [model]")
    for pair in model or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--model is {pair!r}; it must be KEY=VALUE, such as transformer_depth=4")
        architecture[key] = _value(value)
    _check_known(table, PretrainConfig, f"--config {config}:")
    given = {key: value for key, value in options.items() if value is not None}
    try:
        return PretrainConfig(**(table | given | {"model": architecture}))
    except TypeError as error:  # something is missing, or of the wrong kind
        raise UsageError(f"--config {config}: {error}") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_known(given: dict[str, Any], of: type, where: str) -> None:
    known = [f.name for f in fields(of) if f.name not in COMMAND_LINE_ONLY]
    for key in given:
        if key not in known:
            raise UsageError(f"{where} {key} is not known; known are {', '.join(known)}")
