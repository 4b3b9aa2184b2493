"""What all commands that fill an output directory have in common: what is recorded, and what a resumed run may change.

Knows no command; a run's directory itself is ``rundir.py``'s.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from vintix_fast.options import Entry, Option, Options, entries, option, without_effect
from vintix_fast.service.bundled import BUILTIN_CHECKPOINTS, BUILTIN_PREFIX, checkpoint_path
from vintix_fast.service.errors import UsageError
from vintix_fast.world.robot_file import DESCRIPTIONS

MAIN, RUN = "Main", "Run"
"""Parts of --help."""
ROBOTS = "go1, go2, minicheetah, unitreea1 (= a1), another of `robots`, or a file: .toml, URDF (.urdf) or MJCF (.xml)"
TUNED = ("go1", "go2", "a1", "unitreea1", "minicheetah", "minicheetah-primitive")
"""Robots that the guide's reference is right for."""
MAX_ENVS = 8000
"""What one trajectory file takes."""
TIME_LIMIT = "an episode's time limit, in steps"


def seed_option(panel: str, help: str = "seed of everything random", **how: Any) -> Any:
    return option(5, panel, help, least=0, most=2**63 - 1, **how)


def device_option(panel: str) -> Any:
    return option("cpu", panel, "cpu, cuda, or cuda:N for one of several GPUs", words=("cpu", "cuda"))


def simulator_option(panel: str, default: str = "genesis") -> Any:
    help = "genesis, or mujoco, which starts at once and knows no --device cuda"
    return option(default, panel, help, words=("genesis", "mujoco"), sparse=True)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Options):
    """What the options of every command that fills an output directory have in common; a base of dataclasses.

    ``command`` fills the directory.  ``gone`` names options of earlier versions, each with the value that means what is
    done now; ``before``, what earlier versions did that lacked an option, where that is not its default.
    """

    command: ClassVar[str]
    gone: ClassVar[dict[str, Any]] = {}
    before: ClassVar[dict[str, Any]] = {}
    if TYPE_CHECKING:  # each command says what goes there
        output_dir: Path

    resume: bool = option(False, RUN, "go on with an interrupted run", flag="--resume", recorded=False)
    overwrite: bool = option(False, RUN, "replace an earlier run", flag="--overwrite", recorded=False)

    def to_json(self) -> dict[str, Any]:
        """The options as JSON types, without those that say only how this call treats the folder.

        Plain fields and sparse options are there where they are not what they are by themselves.  `from_options` takes
        all of it.
        """
        known, values = entries(type(self)), self.options()
        sparse = {n for n, e in known.items() if (e.plain or e.option.sparse) and values[n] == e.default}
        written = [n for n, e in known.items() if n not in sparse and (e.plain or e.option.recorded)]
        return {name: _plain(values[name]) for name in written}

    def changed_options(self, old: dict[str, Any]) -> list[str]:
        """Options of an earlier run that this one contradicts, as ``--name was X, now Y``; see `to_json`.

        What an earlier run does not name, since it had no such option, was as `before` says, or as it is by default.
        """
        known, new = entries(type(self)), self.to_json()
        ignored = set(without_effect(type(self), self.options()))
        for name, entry in known.items():
            if entry.option.may_change or (entry.option.settled and new.get(name) is None):
                ignored.add(name)
        changed = []
        for name in dict.fromkeys([*new, *old]):
            entry = known.get(name, Entry(name, (), Any, MISSING, Option(None, "")))  # one that is gone
            was, now = old.get(name, self.before.get(name, _plain(entry.default))), new.get(name, entry.default)
            if isinstance(was, dict) and hasattr(entry.kind, "from_json"):
                was = _plain(entry.kind.from_json(was))  # names what was added to it since, too
            same = was == now or (name not in known and was == self.gone.get(name, MISSING))
            if same or name in ignored or (_is_read(entry, was) and _same_paths(was, now)):
                continue
            changed.append(f"{entry.spelt()} was {was}, {'now gone' if now is MISSING else f'now {now}'}")
        return changed

    def settled(self, old: dict[str, Any]) -> Self:
        """With an earlier run's values where this one leaves open what that had settled."""
        open_ = [e for e in entries(type(self)).values() if e.option.settled and e.of(self) is None]
        return self.with_options(**{entry.name: old.get(entry.name) for entry in open_})

    def input_paths(self) -> dict[str, Path]:
        """The paths that this run reads, by option."""
        paths = {}
        for entry in entries(type(self)).values():
            value = entry.of(self)
            for path in value if isinstance(value, tuple) else (value,):
                if path is not None and _is_read(entry, path):
                    paths[f"{entry.spelt()} {path}"] = Path(path)
        return paths

    def _check(self) -> None:
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite exclude each other: one goes on, the other starts anew")


def _is_read(entry: Entry, value: Any) -> bool:
    """Whether the value of an option names what a run reads; a robot's is a name or a file."""
    return entry.option.reads or (entry.kind is str and str(value).lower().endswith((".toml", *DESCRIPTIONS)))


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
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
