"""Options of every command that lets a checkpoint act: which one, as whose copy, how its context is kept, and where.

Owns what these commands refuse alike.  Knows no command.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vintix_fast.options import GIVEN, Options, entries, option
from vintix_fast.run_config import MAIN, RUN, device_option
from vintix_fast.service.bundled import checkpoint_path
from vintix_fast.service.errors import UsageError

DEFAULT_CACHE_DTYPE = "int8"
"""This and the next: the fastest that did not change returns, see ``docs/performance.md``."""
DEFAULT_DROPPED_MASS = 0.01

ENGINE, EPISODES = "Engine", "Episodes"
CONTEXT = "steps of history that the policy sees"
MAPS = ("convert", "kinematic", "none")
"""Of a reference robot's joints to another's, see `vintix_fast.world.transplant`."""
AUDITION, DEFAULT_REFERENCE = "auto", "go2"


def checkpoint_option(default: Any, panel: str, help: str) -> Any:
    return option(default, panel, help, convert=checkpoint_path, reads=True, shown="the bundled checkpoint")


def init_map_option(panel: str, help: str, **how: Any) -> Any:
    return option("convert", panel, help, words=MAPS, **how)


def copied_option() -> Any:
    """Of commands that measure a model as it is."""
    return option(None, MAIN, "measure a copy of its adapter on a robot that the checkpoint has not seen")


def copied_map_option() -> Any:
    help = "convert, kinematic or none: how that copy is made, as in adapt"
    return init_map_option(MAIN, help, only_with={"reference_robot": GIVEN})


def token_order_option() -> Any:
    orders = ("action-reward-observation", "observation-action-reward")
    shown = "the checkpoint's; the former where it does not say"
    return option(None, RUN, " or ".join(orders), words=orders, shown=shown)


@dataclass(frozen=True)
class EngineConfig(Options):
    """How the policy acts, and where; see `vintix_fast.policy.make_policy`.

    What the engine uses stands where None was given, so that what is recorded is true.
    """

    device: str = device_option(ENGINE)
    kind: str = option(
        "auto", ENGINE, "auto: the fastest policy; torch: the plain one, in float32",
        name="engine", words=("auto", "torch"),
    )  # fmt: skip
    cache_dtype: str | None = option(
        None, ENGINE, "float32 or int8: how the context is kept",
        words=("float32", "int8"), shown=f"{DEFAULT_CACHE_DTYPE} with --engine auto",
    )  # fmt: skip
    dropped_mass: float | None = option(
        None, ENGINE, "most attention, of 1, that the acting policy may leave unread; 0 reads all",
        least=0.0, most=0.5, shown=f"{DEFAULT_DROPPED_MASS} with --engine auto",
    )  # fmt: skip

    @property
    def policy_options(self) -> dict[str, Any]:
        """The options of `vintix_fast.policy.make_policy`."""
        return {"engine": self.kind, "cache_dtype": self.cache_dtype, "dropped_mass": self.dropped_mass}

    def _check(self) -> None:
        plain = self.kind == "torch"
        used = {
            "cache_dtype": "float32" if plain else DEFAULT_CACHE_DTYPE,
            "dropped_mass": 0.0 if plain else DEFAULT_DROPPED_MASS,
        }
        for name, value in used.items():
            given = getattr(self, name)
            if plain and given not in (None, value):
                raise UsageError(
                    f"--{name.replace('_', '-')} is {given}, but --engine torch keeps the context in float32 and "
                    "reads all of it; leave one of the two out"
                )
            object.__setattr__(self, name, value if given is None else given)


def check_film(path: Path | None) -> None:
    """Refuse what no video can be written to."""
    if path is not None and path.suffix.lower() != ".mp4":
        raise UsageError(f"--record is {path}; it must be an .mp4 file")
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"--record {path}: {path.parent} is no directory; make it, or give another path")


def check_simulator(config: Any) -> None:
    if config.simulator != "mujoco":
        return
    if config.task.vary:
        raise UsageError("--simulator mujoco varies nothing between environments; leave it out, or what varies")
    if config.task.further.measured:
        raise UsageError("--simulator mujoco tells no forces, which the task's reward asks for; leave one of them out")
    if config.engine.device != "cpu":
        raise UsageError(
            f"--device {config.engine.device} has no effect with --simulator mujoco, which simulates on the CPU; leave "
            "one of the two out"
        )


def check_audition(config: Any, *decided: str) -> None:
    """Refuse options that an audition decides."""
    for name in decided if config.reference_robot == AUDITION else ():
        value, entry = getattr(config, name), entries(type(config))[name]
        if value != entry.default:
            raise UsageError(
                f"{entry.spelt()} is {value}, but --reference-robot {AUDITION} tries every copy in a group of its own; "
                "name a reference robot, or leave the option out"
            )
