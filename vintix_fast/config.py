"""What a run is: frozen dataclasses, checked before anything is built or written.

The commands parse into these; Python users make them by hand.  Knows nothing about how a run is carried out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from vintix_fast.errors import UsageError

BUILTIN_CHECKPOINTS = Path(__file__).parent / "checkpoints"
BUILTIN_PREFIX = "builtin:"
BUILTIN_CHECKPOINT = BUILTIN_CHECKPOINTS / "without-minicheetah"
"""The default: it has seen every robot but Mini Cheetah."""
IMPROVERS = ("critic", "awr", "topk", "clone")
INIT_MAPS = ("convert", "none")
GROUPS = ("own", "shared")
TRAIN_ON = ("last", "all")
TRAIN = ("adapter", "decoder")
REPLAY = ("current", "all")
ENGINES = ("auto", "torch")
CACHE_DTYPES = ("float32", "int8")
DEFAULT_CACHE_DTYPE = "int8"
"""This and the next: the fastest that did not change returns, see ``benchmarks/RESULTS.md``."""
DEFAULT_DROPPED_MASS = 0.01
TOKEN_ORDERS = ("action-reward-observation", "observation-action-reward")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def bundled_checkpoints() -> dict[str, Path]:
    """The bundled checkpoints by name."""
    return {path.name: path for path in sorted(BUILTIN_CHECKPOINTS.iterdir()) if (path / "model.pth").is_file()}


def bundled_models() -> dict[str, dict[str, Any]]:
    """The bundled checkpoints' cards by name: where each lies, its size, and what was measured."""
    return {
        name: {"path": str(path), "bytes": sum(f.stat().st_size for f in path.iterdir())}
        | json.loads((path / "card.json").read_text(encoding="utf-8"))
        for name, path in bundled_checkpoints().items()
    }


def checkpoint_path(value: str | Path) -> Path:
    """A checkpoint's directory: ``builtin:<name>`` is a bundled one, anything else a path.

    Raises:
        UsageError: no bundled checkpoint has this name.
    """
    text = str(value)
    if not text.startswith(BUILTIN_PREFIX):
        return Path(value)
    bundled, name = bundled_checkpoints(), text.removeprefix(BUILTIN_PREFIX)
    if name not in bundled:
        known = ", ".join(BUILTIN_PREFIX + other for other in bundled)
        raise UsageError(f"no bundled checkpoint is called {name!r}; there are {known}")
    return bundled[name]


MAX_ENVS = 8000
"""What one trajectory file takes."""
ENVS_ON_A_CPU = 64
"""Beyond this two cores hardly step faster; `calibrate` finds out about more."""
MAX_SEED = 2**63 - 1


def check_options(
    config: Any, at_least: dict[str, float], one_of: dict[str, tuple[str, ...]], flags: tuple[str, ...] = ()
) -> None:
    """Raise UsageError for numbers out of range and unknown words; a least value of an int wants an int."""
    for name in flags:
        if not isinstance(getattr(config, name), bool):
            raise UsageError(f"{_option(name)} is {getattr(config, name)!r}; it must be true or false")
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
        most = {"num_envs": MAX_ENVS, "seed": MAX_SEED, "dropped_mass": 0.5}.get(name)
        if most is not None and value > most:
            raise UsageError(f"{_option(name)} is {value}; it must be at most {most}")
    for name, allowed in one_of.items():
        value = getattr(config, name)
        if value is not None and value not in allowed:
            raise UsageError(f"{_option(name)} is '{value}'; it must be one of {', '.join(allowed)}")


class RunConfig:
    """What the options of every command that fills an output directory have in common; a base of dataclasses.

    ``command`` fills the directory; ``may_change`` names the options that a resumed run may give differently,
    ``settled`` those that are the earlier run's where they are None, ``inputs`` those that are paths to read.
    """

    command: ClassVar[str]
    may_change: ClassVar[tuple[str, ...]] = ()
    settled: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON types, without the two options that say only how this call treats the folder."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return {k: v for k, v in plain.items() if k not in ("resume", "overwrite")}

    def changed_options(self, old: dict[str, Any]) -> list[str]:
        """Options of an earlier run that this one contradicts, as ``--name was X, now Y``; see `to_json`."""
        new = self.to_json()
        left = [name for name in self.settled if new[name] is None]
        names = [name for name in new if name not in ("output_dir", *self.may_change, *left)]
        return [
            f"{_option(n)} {f'was {old[n]}' if n in old else 'did not exist'}, now {new[n]}"
            for n in names
            if old.get(n) != new[n] and not (n in self.inputs and _same_paths(old.get(n), new[n]))
        ]

    def input_paths(self) -> dict[str, Path]:
        """The paths that this run reads, by option."""
        paths = {}
        for name in self.inputs:
            value = getattr(self, name)
            for path in value if isinstance(value, tuple) else (value,):
                if path is not None:
                    paths[f"{_option(name)} {path}"] = path
        return paths

    def _check_run(self) -> None:
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite exclude each other: one goes on, the other starts anew")


class EngineOptions:
    """How the policy acts: ``engine``, ``cache_dtype`` and ``dropped_mass``; a base of dataclasses that have them."""

    @property
    def engine_options(self) -> dict[str, Any]:
        """The options of `vintix_fast.rollout.make_policy`."""
        return {name: getattr(self, name) for name in ("engine", "cache_dtype", "dropped_mass")}

    def _settle_engine(self) -> None:
        """Check the three, and put what the engine uses where they are None, so that what is recorded is true."""
        check_options(self, {"dropped_mass": 0.0}, {"engine": ENGINES, "cache_dtype": CACHE_DTYPES})
        plain = self.engine == "torch"
        used = {
            "cache_dtype": "float32" if plain else DEFAULT_CACHE_DTYPE,
            "dropped_mass": 0.0 if plain else DEFAULT_DROPPED_MASS,
        }
        for name, value in used.items():
            given = getattr(self, name)
            if plain and given not in (None, value):
                raise UsageError(
                    f"{_option(name)} is {given}, but --engine torch keeps the context in float32 and reads all of it; "
                    "leave one of the two out"
                )
            object.__setattr__(self, name, value if given is None else given)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path) and value.parent == BUILTIN_CHECKPOINTS:
        return BUILTIN_PREFIX + value.name  # another installation has them elsewhere
    return str(value) if isinstance(value, Path) else value


def _same_paths(old: Any, new: Any) -> bool:
    """Whether two values of an option, as `_plain` writes them, name the same files in other words."""
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same_paths, old, new))
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    return checkpoint_path(old).resolve() == checkpoint_path(new).resolve()


@dataclass(frozen=True)
class AdaptConfig(RunConfig, EngineOptions):
    """One adaptation run.  The first block is the slow script's, with its defaults; the rest is this engine's.

    Raises:
        UsageError: a value is out of range.
    """

    command = "adapt"
    may_change = ("num_improvement_loops", "target_return")
    settled = ("num_envs",)
    inputs = ("pretrained_path", "obs_stats")

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
    """None: ``most_envs``; on a CPU 64 of them, or more where a trial shows that more are faster.  The run records the
    number, and a resumed one takes it."""
    min_steps_per_loop: int = 0
    """Short episodes are run again, all of a loop's, until they give this many environment steps."""
    device: str = "cpu"
    engine: str = "auto"
    """How the policy acts; this and the next two: see `vintix_fast.rollout.make_policy`."""
    cache_dtype: str | None = None
    """None, here and in the next: what ``engine`` uses."""
    dropped_mass: float | None = None
    improver: str = "critic"
    noise: float = 0.3
    """Largest standard deviation of the exploration ladder, in action units (0.25 rad)."""
    noise_ladder: bool = True
    """False: every environment explores with ``noise``."""
    critic_updates: int = 2000
    improvement_step: float = 0.2
    """How far targets move in the first loop, in action units; see `vintix_fast.train.ImproverConfig`."""
    replay: str = "current"
    """Collections to learn from.  current: those that the loop's own model made, more than one after an undone loop."""
    window_len: int | None = None
    """Tokens in a training window; None: ``context_len``."""
    train_on: str = "last"
    train: str = "adapter"
    """adapter: the robot's encoders and decoder; decoder: the decoder alone."""
    bf16: bool | None = None
    """Fine-tune in bfloat16; None: where the processor has instructions for it."""
    init_map: str = "convert"
    group: str = "own"
    """own: a group of the robot's own, which changes no other robot; shared: the group that its task, or the reference
    robot's, has in the checkpoint, with all robots that use it."""
    obs_stats: Path | None = None
    gate: bool = True
    gate_episodes: int = 50
    target_return: float | None = None
    """Stop after the first loop whose evaluation reaches this return; None: never."""
    random_starts: bool = True
    token_order: str | None = None
    reinitialize: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "pretrained_path", checkpoint_path(self.pretrained_path))
        for name in ("output_dir", "obs_stats"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        check_options(
            self,
            at_least={
                "num_improvement_loops": 1, "episodes_per_loop": 1, "finetune_steps_per_loop": 1,
                "max_steps_per_episode": 1, "context_len": 1, "batch_size": 1, "num_envs": 1, "window_len": 1,
                "gate_episodes": 1, "critic_updates": 1, "lr": 1e-12, "noise": 0.0, "seed": 0,
                "min_steps_per_loop": 0, "improvement_step": 0.0, "target_return": -1e6,
            },
            one_of={
                "improver": IMPROVERS, "init_map": INIT_MAPS, "group": GROUPS,
                "train_on": TRAIN_ON, "train": TRAIN, "replay": REPLAY,
                "token_order": TOKEN_ORDERS, "device": ("cpu", "cuda"),
            },
        )  # fmt: skip
        self._settle_engine()
        if self.window_len is not None and self.window_len > self.context_len:
            raise UsageError(
                f"--window-len is {self.window_len}; the policy sees only --context-len {self.context_len} steps"
            )
        if self.improver in ("critic", "awr") and self.noise == 0.0:
            raise UsageError(
                f"--noise is {self.noise:g}; --improver {self.improver} learns from exploration: give more, or "
                "--improver topk or clone"
            )
        if self.group == "shared" and self.reinitialize:
            raise UsageError("--reinitialize copies a group, which --group shared never does; leave one of the two out")
        if self.target_return is not None and not self.gate:
            raise UsageError("--target-return needs the gate's evaluations: leave --no-gate out")
        self._check_run()

    @property
    def most_envs(self) -> int:
        """Half as many environments as a loop has episodes, so that the others begin with a warm context."""
        return min(-(-self.episodes_per_loop // 2), MAX_ENVS)

    @property
    def envs(self) -> int:
        """The number of environments, before more are tried."""
        return self.num_envs or min(self.most_envs, ENVS_ON_A_CPU if self.device == "cpu" else MAX_ENVS)

    @property
    def planned_steps(self) -> int:
        """Steps of all environments in the whole run, evaluations included, if every episode takes its full time."""
        episodes = -(-self.episodes_per_loop // self.envs) * self.num_improvement_loops
        if self.gate:
            episodes += -(-self.gate_episodes // self.envs) * (self.num_improvement_loops + 1)
        return episodes * self.max_steps_per_episode


@dataclass(frozen=True)
class EvalConfig(EngineOptions):
    """One evaluation: ``episodes_per_env`` episodes in each of ``num_envs`` environments, no exploration noise.

    Raises:
        UsageError: a value is out of range.
    """

    vintix_path: Path
    robot_type: str
    reference_robot: str | None = None
    """Evaluate a copy of this robot's adapter where the checkpoint has no group for ``robot_type``."""
    init_map: str = "convert"
    """How it is copied, as in `AdaptConfig`."""
    num_envs: int = 100
    max_steps: int = 1000
    episodes_per_env: int = 1
    context_len: int | None = None
    """Tokens of history that the model sees; None: what it was made for."""
    random_starts: bool = True
    """False: every environment would run the same episode, so one environment runs it."""
    base_mass: float | None = None
    """Mass of the robot's base link in kg; None: the robot's own."""
    record: Path | None = None
    """An MP4 file for a video of some seconds of the first environment; None: none."""
    seed: int = 5
    device: str = "cpu"
    engine: str = "auto"
    cache_dtype: str | None = None
    dropped_mass: float | None = None
    """How the policy acts, as in `AdaptConfig`."""
    token_order: str | None = None
    output_dir: Path | None = None
    """Where eval.json and eval.csv go; None: nowhere."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "vintix_path", checkpoint_path(self.vintix_path))
        for name in ("output_dir", "record"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        if not self.random_starts:
            object.__setattr__(self, "num_envs", 1)
        check_options(
            self,
            at_least={
                "num_envs": 1, "max_steps": 1, "episodes_per_env": 1, "context_len": 1, "seed": 0, "base_mass": 0.01
            },
            one_of={"token_order": TOKEN_ORDERS, "init_map": INIT_MAPS, "device": ("cpu", "cuda")},
        )  # fmt: skip
        if self.record is not None and self.record.suffix.lower() != ".mp4":
            raise UsageError(f"--record is {self.record}; it must be an .mp4 file")
        self._settle_engine()
