"""What a run is: frozen dataclasses, checked before anything is built or written.

The commands parse into these; Python users make them by hand.  Knows nothing about how a run is carried out.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vintix_fast.errors import UsageError

BUILTIN_CHECKPOINT = Path(__file__).parent / "checkpoints" / "go1-go2"
IMPROVERS = ("critic", "clone")
INIT_MAPS = ("convert", "none")
TRAIN_ON = ("last", "all")
TOKEN_ORDERS = ("action-reward-observation", "observation-action-reward")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


MAX_ENVS = 8000
"""What one trajectory file takes."""
MAX_SEED = 2**63 - 1


def _check(config: Any, at_least: dict[str, float], one_of: dict[str, tuple[str, ...]]) -> None:
    """Raise UsageError for numbers out of range and unknown words; a least value of an int wants an int."""
    for name, least in at_least.items():
        value = getattr(config, name)
        if value is None:
            continue
        whole = isinstance(least, int)
        kind = "an integer" if whole else "a finite number"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise UsageError(f"{_option(name)} is {value!r}; it must be {kind}")
        if not value >= least or value == math.inf:
            raise UsageError(f"{_option(name)} is {value}; it must be {kind} of at least {least:g}")
        most = {"num_envs": MAX_ENVS, "seed": MAX_SEED}.get(name)
        if most is not None and value > most:
            raise UsageError(f"{_option(name)} is {value}; it must be at most {most}")
    for name, allowed in one_of.items():
        value = getattr(config, name)
        if value is not None and value not in allowed:
            raise UsageError(f"{_option(name)} is '{value}'; it must be one of {', '.join(allowed)}")


@dataclass(frozen=True)
class AdaptConfig:
    """One adaptation run.  The first block is the slow script's, with its defaults; the rest is this engine's.

    Raises:
        UsageError: a value is out of range.
    """

    robot_type: str
    output_dir: Path
    pretrained_path: Path = BUILTIN_CHECKPOINT
    reference_robot: str = "go2"
    num_improvement_loops: int = 5
    episodes_per_loop: int = 50
    finetune_steps_per_loop: int = 1000
    max_steps_per_episode: int = 1000
    context_len: int = 2048
    batch_size: int = 4
    lr: float = 1e-4
    seed: int = 5

    num_envs: int | None = None
    """None: as many as there are episodes in a loop, at most 64."""
    min_steps_per_loop: int = 0
    """Short episodes are run again, all of a loop's, until they give this many environment steps."""
    device: str = "cpu"
    improver: str = "critic"
    noise: float = 0.3
    """Largest standard deviation of the exploration ladder, in action units (0.25 rad)."""
    critic_updates: int = 2000
    window_len: int | None = None
    """Tokens in a training window; None: ``context_len``."""
    train_on: str = "last"
    init_map: str = "convert"
    obs_stats: Path | None = None
    gate: bool = True
    gate_episodes: int = 50
    random_starts: bool = True
    token_order: str | None = None
    reinitialize: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("output_dir", "pretrained_path", "obs_stats"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        _check(
            self,
            at_least={
                "num_improvement_loops": 1, "episodes_per_loop": 1, "finetune_steps_per_loop": 1,
                "max_steps_per_episode": 1, "context_len": 1, "batch_size": 1, "num_envs": 1, "window_len": 1,
                "gate_episodes": 1, "critic_updates": 1, "lr": 1e-12, "noise": 0.0, "seed": 0,
                "min_steps_per_loop": 0,
            },
            one_of={
                "improver": IMPROVERS, "init_map": INIT_MAPS, "train_on": TRAIN_ON, "token_order": TOKEN_ORDERS,
                "device": ("cpu", "cuda"),
            },
        )  # fmt: skip
        if self.window_len is not None and self.window_len > self.context_len:
            raise UsageError(
                f"--window-len is {self.window_len}; the policy sees only --context-len {self.context_len} steps"
            )
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite exclude each other: one goes on, the other starts anew")

    @property
    def envs(self) -> int:
        return self.num_envs or min(self.episodes_per_loop, 64)

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON types, without the two options that say only how this call treats the folder."""
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}
        return {k: v for k, v in plain.items() if k not in ("resume", "overwrite")}


def changed_options(old: dict[str, Any], config: AdaptConfig) -> list[str]:
    """Options of an earlier run that this one contradicts, as ``--name was X, now Y``; see `AdaptConfig.to_json`."""
    new = config.to_json()
    may_change = {"output_dir", "num_improvement_loops"}
    names = [f.name for f in fields(config) if f.name in new and f.name not in may_change]
    return [f"{_option(n)} was {old.get(n)}, now {new[n]}" for n in names if old.get(n) != new[n]]


@dataclass(frozen=True)
class EvalConfig:
    """One evaluation: ``episodes_per_env`` episodes in each of ``num_envs`` environments, no exploration noise.

    Raises:
        UsageError: a value is out of range.
    """

    vintix_path: Path
    robot_type: str
    num_envs: int = 100
    max_steps: int = 1000
    episodes_per_env: int = 1
    context_len: int | None = None
    """Tokens of history that the model sees; None: what it was made for."""
    random_starts: bool = False
    seed: int = 5
    device: str = "cpu"
    token_order: str | None = None
    output_dir: Path | None = None
    """Where eval.json and eval.csv go; None: nowhere."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "vintix_path", Path(self.vintix_path))
        if self.output_dir is not None:
            object.__setattr__(self, "output_dir", Path(self.output_dir))
        _check(
            self,
            at_least={"num_envs": 1, "max_steps": 1, "episodes_per_env": 1, "context_len": 1, "seed": 0},
            one_of={"token_order": TOKEN_ORDERS, "device": ("cpu", "cuda")},
        )
