"""A robot file as parsed: which keys it has, and typed access to them; docs/robots.md describes the format.

Owns what a key may hold.  Errors name the file, the line and the value.  Knows nothing of URDFs or legs.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from vintix_fast.service.errors import InputFileError

MJCF_SUFFIXES = (".xml", ".mjcf")
DESCRIPTIONS = (".urdf", *MJCF_SUFFIXES)
"""Ends of the names of files that a robot file can be made of."""
_REQUIRED = (
    *("name", "task_names", "group_name", "urdf", "base_link", "start_height_m", "target_height_m"),
    *("joints", "default_pose_rad", "kp", "kd"),
)
PHYSICS = ("armature", "friction", "damping")
_OPTIONAL = ("aliases", "urdf_package", "feet", "mass_kg", "base_mass_kg", *PHYSICS)
LIMITS = {  # from, to: no quadruped lies beyond, but values in other units do
    "start_height_m": (0.05, 3.0),
    "target_height_m": (0.05, 3.0),
    "kp": (0.01, 10_000.0),
    "kd": (0.0001, 1_000.0),
    "mass_kg": (0.5, 500.0),
    "base_mass_kg": (0.01, 500.0),
    "armature": (0.0, 10.0),
    "friction": (0.0, 1_000.0),
    "damping": (0.0, 1_000.0),
}
SHOWN = 80
"""Letters of a wrong value that a message shows."""
_WORD = re.compile(r"[A-Za-z0-9_-]+")  # a group's name becomes part of tensor names, where a dot would split it


class RobotFile:
    """A robot file as parsed, with typed access to its keys; errors name the file, the line and the value."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.source = path.read_text(encoding="utf-8-sig")
            self.table = tomllib.loads(self.source)
        except OSError as error:
            raise InputFileError(f"cannot read robot file {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise InputFileError(f"robot file {path} is not UTF-8 text: {error}") from error
        except (ValueError, RecursionError) as error:  # also of integers and lists that only Python has limits for
            raise InputFileError(f"robot file {path} is not valid TOML: {error}") from error

    def error(self, key: str, problem: str) -> InputFileError:
        match = re.search(rf"^[ \t]*[\"']?{re.escape(key)}[\"']?[ \t]*[=.]", self.source, re.MULTILINE)
        line = f":{self.source.count(chr(10), 0, match.start()) + 1}" if match else ""
        return InputFileError(f"{self.path}{line}: {key} {problem}")

    def check_keys(self) -> None:
        known = ", ".join((*_REQUIRED, *_OPTIONAL))
        for key in self.table:
            if key not in _REQUIRED + _OPTIONAL:
                raise self.error(key, f"is not a key of robot files; the keys are {known}")
        missing = [key for key in _REQUIRED if key not in self.table]
        if missing:
            raise InputFileError(f"{self.path}: {', '.join(missing)} missing; docs/robots.md shows a complete file")

    def text(self, key: str) -> str:
        value = self.table.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, f"must be a text that is not empty, got {_shown(value)}")
        return value

    def word(self, key: str) -> str:
        return self._as_word(key, self.text(key))

    def texts(self, key: str, count: int | None = None) -> tuple[str, ...]:
        values = self._list(key, count)
        for value in values:
            if not isinstance(value, str) or not value.strip():
                raise self.error(key, f"must hold texts only, got {_shown(value)}")
            if values.count(value) > 1:
                raise self.error(key, f"names {value!r} twice")
        return tuple(values)

    def words(self, key: str) -> tuple[str, ...]:
        return tuple(self._as_word(key, value) for value in self.texts(key))

    def numbers(self, key: str, count: int, order: str) -> tuple[float, ...]:
        return tuple(self._as_number(key, value) for value in self._list(key, count, order))

    def number(self, key: str) -> float | None:
        """A number within `LIMITS`; None where the file does not say."""
        if key not in self.table:
            return None
        value, (low, high) = self._as_number(key, self.table[key]), LIMITS[key]
        if value < low or value > high:
            raise self.error(key, f"must be from {low:g} to {high:g}, got {value:g}; docs/robots.md has its unit")
        return value

    def _list(self, key: str, count: int | None, order: str = "legs FR, FL, RR, RL") -> list:
        value = self.table.get(key, [])
        if not isinstance(value, list):
            raise self.error(key, f"must be a list, got {_shown(value)}")
        if count is not None and len(value) != count:
            raise self.error(key, f"must have {count} entries ({order}), got {len(value)}")
        return value

    def _as_word(self, key: str, value: str) -> str:
        if not _WORD.fullmatch(value):
            raise self.error(key, f"may use letters, digits, _ and - only, got {_shown(value)}")
        return value

    def _as_number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise self.error(key, f"must be made of finite numbers, got {_shown(value)}")
        return float(value)


def _shown(value: object) -> str:
    """A value as the file has it, if that is short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists
        return f"one too long to be shown ({type(value).__name__})"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
