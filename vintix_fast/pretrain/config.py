"""Options of the commands that make a pretrained model, checked before anything is built or written."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vintix_fast.options import GIVEN, option
from vintix_fast.run_config import MAIN, MAX_ENVS, ROBOTS, RUN, TIME_LIMIT, RunConfig, device_option, seed_option
from vintix_fast.service.bundled import checkpoint_path
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.service.files import read_toml
from vintix_fast.world.task_config import TaskConfig
from vintix_fast.world.task_file import check_world, task_option, vary_option
from vintix_fast.world.variation import Variation

if TYPE_CHECKING:  # torch comes with it, and --help must not wait for that
    from vintix_fast.model import ModelConfig

TRAINING, HISTORIES = "Training", "Histories"
MINI_BATCHES = 4
"""Of each PPO iteration."""
COMMAND_LINE_ONLY = ("data", "output_dir", "resume", "overwrite", "model")
"""What an options file cannot say, except ``model`` as its table."""
NO_DROPOUT = {"attn_dropout": 0.0, "residual_dropout": 0.0}
"""A few passes over the histories do not overfit, and dropout costs a third of the time on a CPU."""


@dataclass(frozen=True)
class ExpertConfig(RunConfig):
    """One expert: PPO for ``iterations`` of ``num_envs`` environments x ``steps_per_iteration`` steps."""

    command = "expert"

    robot_type: str = option(MISSING, MAIN, ROBOTS)
    output_dir: Path = option(MISSING, MAIN, "where the expert goes", may_change=True)
    init_from: Path | None = option(
        None, MAIN, "an expert to go on from, of this robot or one whose joints turn alike", reads=True,
        shown="random weights",
    )  # fmt: skip
    """Its network, its critic and its exploration noise are taken over, its optimiser is not."""
    iterations: int = option(400, TRAINING, "PPO iterations", least=1, may_change=True)
    num_envs: int = option(512, TRAINING, "environments side by side; 4096 suits a GPU", least=1, most=MAX_ENVS)
    steps_per_iteration: int = option(24, TRAINING, "steps of each environment in an iteration", least=2)
    max_steps_per_episode: int = option(1000, TRAINING, TIME_LIMIT, least=1)
    hidden_dims: tuple[int, ...] = option((256, 128, 64), None, least=1)
    """Widths of the expert's hidden layers, and of its critic's."""
    lr: float = option(1e-3, TRAINING, "first learning rate; PPO adapts it", least=1e-12)
    init_noise: float = option(
        1.0, TRAINING, "exploration noise at the beginning, in action units", least=1e-3,
        only_with={"init_from": (None,)},
    )  # fmt: skip
    """A standard deviation; an action unit is 0.25 rad."""
    entropy: float = option(0.01, TRAINING, "entropy bonus at the beginning; it fades", least=0.0)
    """It fades in the second half of the training."""
    desired_kl: float = option(0.02, TRAINING, "how far an update may move the policy", least=1e-6)
    """PPO adapts the learning rate to that."""
    eval_episodes: int = option(100, RUN, "episodes of the evaluation at the end", least=1, may_change=True)
    save_interval: int = option(20, RUN, "iterations that a killed run loses at most", least=1)
    seed: int = seed_option(RUN)
    device: str = device_option(RUN)
    task: TaskConfig = task_option()
    vary: Variation | None = vary_option()

    def _check(self) -> None:
        super()._check()
        check_world(self)
        if not self.hidden_dims:
            raise UsageError("--hidden-dims is empty; it must be one or more positive integers")
        if self.num_envs * self.steps_per_iteration < MINI_BATCHES:
            raise UsageError(
                f"--num-envs {self.num_envs} x --steps-per-iteration {self.steps_per_iteration} is less than one step "
                f"for each of PPO's {MINI_BATCHES} mini-batches; give more"
            )


@dataclass(frozen=True)
class DistilConfig(RunConfig):
    """Learning histories of one robot: ``histories`` of them, ``steps_per_env`` steps each."""

    command = "distil"

    expert: Path = option(MISSING, MAIN, "directory that `vintix-fast expert` filled", reads=True)
    output_dir: Path = option(MISSING, MAIN, "where the histories go", may_change=True)
    robot_type: str | None = option(None, MAIN, "the robot; an expert of another is refused", shown="the expert's")
    histories: int = option(64, HISTORIES, "histories, a file each", least=1)
    steps_per_env: int = option(8000, HISTORIES, "steps of each history", least=2)
    num_envs: int = option(64, HISTORIES, "histories collected side by side", least=1, most=MAX_ENVS)
    power: float = option(0.5, HISTORIES, "exponent p of the noise schedule", least=0.01)
    expert_fraction: float = option(0.05, HISTORIES, "last part of a history, without noise", least=0.0, below=1.0)
    max_steps_per_episode: int = option(1000, HISTORIES, TIME_LIMIT, least=1)
    seed: int = seed_option(RUN)
    device: str = device_option(RUN)
    task: TaskConfig = task_option()
    vary: Variation | None = vary_option()

    def _check(self) -> None:
        super()._check()
        check_world(self)
        if self.histories % self.num_envs:
            raise UsageError(
                f"--histories is {self.histories}, which is not a multiple of --num-envs {self.num_envs}; rounds of "
                "different sizes would need another scene"
            )


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """One pretraining: ``steps`` optimiser steps of ``batch_size`` windows of ``window_len`` steps, longer at the end.

    What has no place on the command line may stand in an options file.

    Raises:
        UsageError: a value is out of range, or the architecture contradicts itself.
    """

    command = "pretrain"

    data: tuple[Path, ...] = option(MISSING, MAIN, "a robot's histories; once for each robot", reads=True)
    output_dir: Path = option(MISSING, MAIN, "where the model goes", may_change=True)
    model: dict[str, Any] = option({}, None, only_with={"init_from": (None,)})
    """The architecture, where it differs from `ModelConfig`'s defaults; no dropout unless it is asked for."""
    init_from: Path | None = option(
        None, MAIN, "checkpoint to go on from, or builtin:<name>; robots that it lacks get groups of their own",
        convert=checkpoint_path, reads=True, shown="random weights",
    )  # fmt: skip
    """The architecture is then the checkpoint's."""
    target: str = option(
        "expert", MAIN, "predict the expert's action at each step, or the executed action", words=("expert", "action")
    )
    """The executed one, noise and all, is AD-epsilon's."""
    shared_group: bool = option(
        False, MAIN, "one group for all robots, or one each",
        flag="--shared-group/--own-groups", only_with={"init_from": (None,)},
    )  # fmt: skip
    steps: int = option(2500, TRAINING, "optimiser steps", least=1)
    batch_size: int = option(16, TRAINING, "windows per step", least=1)
    window_len: int = option(256, TRAINING, "steps in a window", least=2)
    long_window_len: int = option(
        1024, TRAINING, "steps in a window at the end", least=2, only_with={"long_steps": GIVEN}
    )
    """There are as many fewer of these windows, so that a step has as many tokens."""
    long_steps: int = option(500, TRAINING, "last optimiser steps, with long windows; at most a fifth of all", least=0)
    lr: float = option(1e-3, TRAINING, "peak learning rate", least=1e-12)
    warmup_steps: int = option(100, TRAINING, "steps up to the peak", least=0)
    final_lr_fraction: float = option(0.05, None, least=0.0, most=1)
    weight_decay: float = option(0.0, TRAINING, "of AdamW", least=0.0)
    max_grad_norm: float = option(1.0, None, least=1e-6)
    reward_dropout: float = option(
        0.0, TRAINING, "share of windows in which the model is told its mean reward instead of each step's",
        least=0.0, below=1.0, sparse=True,
    )  # fmt: skip
    """So that it needs the reward less, which a robot cannot measure."""
    held_out: float = option(0.05, RUN, "share of histories for validation", least=0.0, below=1.0)
    """Of each robot's; at least one is kept."""
    eval_interval: int = option(250, RUN, "steps from one validation and saved state to the next", least=1)
    eval_batches: int = option(4, None, least=1)
    bf16: bool = option(True, TRAINING, "multiply matrices in bfloat16")
    """Weights and optimiser stay in float32."""
    seed: int = seed_option(RUN)
    device: str = device_option(RUN)

    def _check(self) -> None:
        super()._check()
        self.architecture()
        if not self.data:
            raise UsageError("--data is missing; give each robot's directory of histories, --data DIR --data DIR ...")
        if len({path.resolve() for path in self.data}) < len(self.data):
            raise UsageError("--data names a directory twice; give each robot's once")

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
        options: of `PretrainConfig`, those that are given.

    Raises:
        InputFileError: the file is missing or broken.
        UsageError: an option is unknown or out of range, or the architecture contradicts itself.
    """
    # The file first: what the command line says goes over it.
    table: dict[str, Any] = {}
    if config is not None:
        table = read_toml(Path(config), "correct it there", "--config")
    architecture = table.pop("model", {})
    if not isinstance(architecture, dict):
        raise UsageError(f"--config {config}: model is {architecture!r}; it must be a table, [model]")
    # Its table of the architecture, with what the command line changes of that.
    for pair in model or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--model is {pair!r}; it must be KEY=VALUE, such as transformer_depth=4")
        architecture[key] = _value(value)
    # Data and folders are the command line's: a file that names them is refused.
    _check_known(table, PretrainConfig, f"--config {config}:")
    try:
        return PretrainConfig.from_options(**(table | options | {"model": architecture}))
    except UsageError as error:
        raise UsageError(f"{error} (of --config {config} and the command line)" if config else str(error)) from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _check_known(given: dict[str, Any], of: type, where: str) -> None:
    known = [f.name for f in fields(of) if f.name not in COMMAND_LINE_ONLY]
    for key in given:
        if key not in known:
            raise UsageError(f"{where} {key} is not known; known are {', '.join(known)}")
