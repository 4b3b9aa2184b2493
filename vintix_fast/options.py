"""How a field of a configuration becomes an option: its check, its name on the command line, its line in config.json.

A configuration is a frozen dataclass that inherits `Options`.  A field made by `option` is an option.  A field that is
itself `Options` is a group: its options lie flat among the others.  Any other field is plain: nothing checks it, only
Python sets it, and its flat name is its path, such as ``improve.critic.gamma``.  Knows no option, no command and no
library of command lines; the commands' parameters are made of `entries` in ``cli/common.py``.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from vintix_fast.service.errors import UsageError

GIVEN = object()
"""In ``only_with``: any value but None, false and 0."""
_entries: dict[type, dict[str, Entry]] = {}


@dataclass(frozen=True)
class Option:
    """What is said of an option, once.  What is left out does not apply."""

    panel: str | None
    """The part of --help that lists it; None: it is not on the command line."""
    help: str
    name: str | None = None
    """Its flat name, with underscores; None: the field's."""
    least: float | None = None
    most: float | None = None
    below: float | None = None
    words: tuple[str, ...] = ()
    """The allowed ones."""
    only_with: dict[str, Any] = field(default_factory=dict)
    """Without effect unless each of these options has one of these values, a tuple or ``GIVEN``."""
    convert: Callable[[Any], Any] | None = None
    """Applied to a path that is given."""
    reads: bool = False
    """It names what a run reads."""
    may_change: bool = False
    """A resumed run may give another value."""
    settled: bool = False
    """Where it is None, a resumed run takes the earlier run's."""
    recorded: bool = True
    """config.json has it."""
    sparse: bool = False
    """It has it only where it is not the default."""
    read: Callable[[Any], Any] | None = None
    """Makes the value of what a user wrote, or of what config.json has; leaves a value as it is."""
    metavar: str | None = None
    """What --help calls such a text."""
    shown: str | None = None
    """What --help calls the default; None: its value."""
    flag: str | None = None
    """How true and false are spelt; None: --name/--no-name.  "--x" alone turns a default around."""
    short: str | None = None
    also: str | None = None
    """Another name, with hyphens."""
    auto: bool = False
    """None is spelt auto."""


PLAIN = Option(None, "")
"""Of a field that is no option."""


def option(default: Any, panel: str | None, help: str = "", **how: Any) -> Any:
    """A field that is an option; ``default`` is MISSING where it is required, ``how`` see `Option`."""
    made = Option(panel, help, **how)
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"option": made})
    return field(default=default, metadata={"option": made})


@dataclass(frozen=True)
class Entry:
    """An option or plain field of a configuration, wherever in its groups it lies."""

    name: str
    path: tuple[str, ...]
    type: Any
    default: Any
    option: Option

    @property
    def plain(self) -> bool:
        return self.option is PLAIN

    @property
    def optional(self) -> bool:
        return types.NoneType in typing.get_args(self.type)

    @property
    def kind(self) -> type:
        """The type but for None, without what it holds: a tuple of paths is a tuple."""
        one = next((t for t in typing.get_args(self.type) if t is not types.NoneType), None)
        kind = one if isinstance(self.type, types.UnionType) else self.type
        return typing.get_origin(kind) or kind

    def of(self, config: Any) -> Any:
        """Its value in a configuration."""
        return functools.reduce(getattr, self.path, config)

    def spelt(self, value: Any = MISSING) -> str:
        """The option as a user writes it, with this value."""
        name = self.name if self.plain else "--" + self.name.replace("_", "-")
        if self.kind is bool and value is not MISSING:
            yes, _, no = (self.option.flag or f"{name}/--no-{name[2:]}").partition("/")
            return yes if value or not no else no
        return f"{name} {value}" if isinstance(value, bool | int | float | str | Path) else name


def entries(of: type[Options]) -> dict[str, Entry]:
    """All options and plain fields of a configuration by their flat names, in the order of --help and config.json."""
    if of in _entries:
        return _entries[of]
    hints, found = typing.get_type_hints(of), []
    for f in sorted(fields(of), key=lambda f: bool(f.kw_only)):
        hint, made = hints[f.name], f.metadata.get("option", PLAIN)
        if isinstance(hint, type) and issubclass(hint, Options):
            for inner in entries(hint).values():
                name = f"{f.name}.{inner.name}" if inner.plain else inner.name
                found.append(replace(inner, name=name, path=(f.name, *inner.path)))
        else:
            default = f.default if f.default_factory is MISSING else f.default_factory()
            found.append(Entry(made.name or f.name, (f.name,), hint, default, made))
    return _entries.setdefault(of, {entry.name: entry for entry in found})


@dataclass(frozen=True)
class Options:
    """A base of frozen dataclasses whose fields are options, groups of options, or plain.

    Raises:
        UsageError: a value is out of range, or has no effect beside the others.
    """

    def __post_init__(self) -> None:
        known = entries(type(self))
        for entry in known.values():
            if not entry.plain and len(entry.path) == 1:
                object.__setattr__(self, entry.path[0], checked(entry, entry.of(self)))
        self._check()
        values = self.options()
        for name, why in without_effect(type(self), values).items():
            if values[name] != known[name].default:
                raise UsageError(f"{known[name].spelt(values[name])} has no effect {why}")

    def _check(self) -> None:
        """Of a subclass: what no single option tells."""

    def options(self) -> dict[str, Any]:
        """Every option and plain field by its flat name; what `from_options` takes."""
        return {name: entry.of(self) for name, entry in entries(type(self)).items()}

    @classmethod
    def from_options(cls, **options: Any) -> Self:
        """A configuration by flat names, as the command line and config.json have them; else a UsageError."""
        known = entries(cls)
        for name in options:
            if name not in known:
                raise UsageError(f"{name} is not known; known are {', '.join(known)}")
        for name, entry in known.items():
            if entry.default is MISSING and name not in options:
                raise UsageError(f"{entry.spelt()} is missing")
        return _built(cls, {known[name].path: value for name, value in options.items()})

    def with_options(self, **options: Any) -> Self:
        """A copy in which these options, by flat name, have these values."""
        return self.from_options(**(self.options() | options))


def _built(cls: type, given: dict[tuple[str, ...], Any]) -> Any:
    """A configuration of values by path; a group is made if one of its own is given."""
    arguments = {}
    for f in fields(cls):
        inner = {path[1:]: value for path, value in given.items() if path[0] == f.name}
        if () in inner:
            arguments[f.name] = inner[()]
        elif inner:
            arguments[f.name] = _built(typing.get_type_hints(cls)[f.name], inner)
    return cls(**arguments)


def without_effect(of: type[Options], options: dict[str, Any]) -> dict[str, str]:
    """Options that have no effect beside these, in words that end "--x has no effect"; what is left out is default."""
    known, found = entries(of), {}
    values = {name: options.get(name, entry.default) for name, entry in known.items()}
    for name, entry in known.items():
        for other, allowed in entry.option.only_with.items():
            value = values.get(other, MISSING)
            if value is MISSING or (value if allowed is GIVEN else value in allowed):
                continue
            if value is None:
                spelt = known[other].spelt()
                found[name] = f"without {spelt}; give {spelt} too, or leave {entry.spelt()} out"
            else:
                found[name] = f"with {known[other].spelt(value)}; leave one of the two out"
    return found


def checked(entry: Entry, value: Any) -> Any:
    """The value as its type keeps it, or a UsageError: texts become paths, lists tuples."""
    made, kind, said = entry.option, entry.kind, entry.spelt()
    if value is None and entry.optional:
        return None
    if made.read is not None:
        return made.read(value)
    try:
        if kind is Path:
            value = (made.convert or Path)(value)
        elif kind is tuple:
            (inner, *_) = typing.get_args(entry.type)
            parts = (value,) if isinstance(value, str | Path) else value
            value = tuple(Path(part) if inner is Path else part for part in parts)
    except TypeError:
        raise UsageError(f"{said} is {value!r}; it must be {'a path' if kind is Path else 'a list'}") from None
    if kind is bool and not isinstance(value, bool):
        raise UsageError(f"{said} is {value!r}; it must be true or false")
    for number in value if kind is tuple and inner is int else (value,) if kind in (int, float) else ():
        _check_number(said, made, int if kind is tuple else kind, number)
    if made.words and value not in made.words:
        raise UsageError(f"{said} is '{value}'; it must be one of {', '.join(made.words)}")
    return value


def _check_number(said: str, made: Option, kind: type, value: Any) -> None:
    wanted = "an integer" if kind is int else "a finite number"
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise UsageError(f"{said} is {value!r}; it must be {wanted}")
    least = -math.inf if made.least is None else made.least
    if not value >= least or math.isinf(value):
        raise UsageError(f"{said} is {value}; it must be {wanted}" + f" of at least {least:g}" * (least > -math.inf))
    if made.most is not None and value > made.most:
        raise UsageError(f"{said} is {value}; it must be at most {made.most}")
    if made.below is not None and value >= made.below:
        raise UsageError(f"{said} is {value}; it must be less than {made.below:g}")
