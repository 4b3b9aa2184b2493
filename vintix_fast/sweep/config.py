"""What a sweep is: its trials' options, from a TOML file, checked by `adapt`'s and `eval`'s own configurations."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from vintix_fast.config import AdaptConfig
from vintix_fast.eval_config import EvalConfig
from vintix_fast.options import entries, option
from vintix_fast.run_config import MAIN, RunConfig
from vintix_fast.service.errors import UsageError
from vintix_fast.service.files import read_toml

EVALUATION = {"seed": 1000}
"""Other starts than those of the gate, which has chosen the model by its own."""


@dataclass(frozen=True)
class Trial:
    """One run, ``<robot>-<setting>-<seed>``, and the evaluation of its best model."""

    name: str
    robot: str
    setting: str
    adapt: AdaptConfig
    eval: EvalConfig

    @property
    def eval_file(self) -> Path:
        """What the evaluation writes last."""
        assert self.eval.output_dir is not None  # a sweep gives one to each
        return self.eval.output_dir / "eval.json"


@dataclass(frozen=True)
class SweepConfig(RunConfig):
    """Robots x settings x seeds; all but the directory is the file's.

    Raises:
        UsageError: a value is out of range, or no trial can be made of it.
    """

    command = "sweep"

    output_dir: Path = option(MISSING, MAIN, "where the trials and their table go", may_change=True)
    robots: dict[str, dict[str, Any]] = option(MISSING, None, may_change=True)
    """Names -> ``robot_type``, beside options of `adapt` for its trials alone; given without these as the type, or as a
    list of types, which are names too."""
    seeds: tuple[int, ...] = option((5,), None, least=0, may_change=True)
    adapt: dict[str, Any] = option({}, None, may_change=True)
    """Options of `adapt`, for all trials."""
    settings: dict[str, dict[str, Any]] = option({}, None, may_change=True)
    """Others, by the setting's name; none: one setting that has no name."""
    eval: dict[str, Any] = option({}, None, may_change=True)
    """Options of `eval`, over `EVALUATION`."""
    cores: float = option(1.0, None, least=0.1, may_change=True)
    """Of each trial, as the next."""
    gpus: float = option(0.0, None, least=0.0, may_change=True)
    retries: int = option(3, None, least=0, may_change=True)
    """How often a trial's process may be killed."""

    def _check(self) -> None:
        super()._check()
        object.__setattr__(self, "robots", _robots(self.robots))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UsageError(f"seeds is {list(self.seeds)}; it must be one or more numbers, each once")
        tables = [("[adapt]", self.adapt), ("[eval]", self.eval), ("[settings]", self.settings)]
        if isinstance(self.settings, dict):
            tables += [(f"[settings.{name}]", table) for name, table in self.settings.items()]
        for where, table in tables:
            if not isinstance(table, dict):
                raise UsageError(f"{where} is {table!r}; it must be a table")
        for name in (*self.robots, *self.settings):
            if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
                raise UsageError(f"{name!r} becomes part of directories' names; it must be letters, digits, _, . and -")
        names = [trial.name for trial in self.trials()]  # each option, and each beside the others
        if twice := {name for name in names if names.count(name) > 1}:
            raise UsageError(f"two trials are called {min(twice)}; give a robot or a setting another name")

    def trials(self) -> Iterator[Trial]:
        """All of them, checked; those of one robot together."""
        for (robot, own), (setting, options), seed in itertools.product(
            self.robots.items(), (self.settings or {"": {}}).items(), self.seeds
        ):
            name = "-".join(filter(None, (robot, setting, str(seed))))
            where = f"[settings.{setting}]" if setting else "[adapt]"
            own = dict(own)
            word = own.pop("robot_type")
            if own:
                where = f"[robots.{robot}] with {where}"
            adapt = _made(AdaptConfig, where, self.adapt | own | options, {
                "robot_type": word, "seed": seed, "output_dir": self.output_dir / name,
            })  # fmt: skip
            if (adapt.engine.device == "cpu") != (self.gpus == 0):
                raise UsageError(
                    f"gpus is {self.gpus:g}, but {where} has device {adapt.engine.device}; give both or neither"
                )
            evaluation = _made(EvalConfig, "[eval]", EVALUATION | self.eval, {
                "robot_type": word, "vintix_path": adapt.output_dir / "models" / "best", "device": adapt.engine.device,
                "output_dir": self.output_dir / f"{name}.eval", "overwrite": True, "task": adapt.task,
            })  # fmt: skip
            yield Trial(name, robot, setting, adapt, evaluation)


def read_sweep(file: Path, **options: Any) -> SweepConfig:
    """What a TOML file says, with options of the command line over it.

    Raises:
        InputFileError: the file is missing or broken.
        UsageError: see `SweepConfig`.
    """
    table = read_toml(file, "correct it there")
    known = [name for name in entries(SweepConfig) if name not in ("output_dir", "resume", "overwrite")]
    for key in table:
        if key not in known:
            raise UsageError(f"{file}: {key} is not known; known are {', '.join(known)}")
    try:
        return SweepConfig.from_options(**(table | options))
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def _robots(given: Any) -> dict[str, dict[str, Any]]:
    """What `SweepConfig.robots` is, of any of the three ways to give it."""
    robots = given
    if isinstance(robots, list) and all(isinstance(word, str) for word in robots):
        robots = {Path(word).stem if "." in word else word: word for word in robots}
        if len(robots) < len(given):
            raise UsageError(f"robots are {given}, of which two have one name; give a table [robots]")
    if isinstance(robots, dict) and robots:
        robots = {name: {"robot_type": of} if isinstance(of, str) else of for name, of in robots.items()}
        if all(isinstance(of, dict) and isinstance(of.get("robot_type"), str) for of in robots.values()):
            return robots
    raise UsageError(
        f'robots is {given!r}; it must be a list such as ["go2", "a1"], or a table of names, each with its robot_type'
    )


def _made(of: type, where: str, options: dict[str, Any], own: dict[str, Any]) -> Any:
    """A configuration of options that the file gave and of the sweep's own."""
    options = {name.replace("-", "_"): value for name, value in options.items()}
    for name in options:
        if name in (*own, "resume", "overwrite"):
            raise UsageError(f"{where} has {name}, which is the sweep's to give; leave it out")
    try:
        return of.from_options(**(options | own))  # type: ignore[attr-defined]
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
