"""Modules by the names that they had in earlier versions, so that scripts that import them go on to work.

To go with version 0.2.  An old name gives the very module of the new one, and a DeprecationWarning that says which.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "vintix_fast.adapt": "vintix_fast.adaptation",
    "vintix_fast.errors": "vintix_fast.service.errors",
    "vintix_fast.memory": "vintix_fast.service.memory",
    "vintix_fast.report.progress": "vintix_fast.service.progress",
    "vintix_fast.robots": "vintix_fast.world.robot",
    "vintix_fast.sim": "vintix_fast.world.simulator",
}
NAMES = {
    "vintix_fast.config": {
        "EvalConfig": "vintix_fast.eval_config",
        "bundled_checkpoints": "vintix_fast.service.bundled",
    },
    "vintix_fast.rollout": {"make_policy": "vintix_fast.policy"},
}
"""Module -> what it held -> where that is."""


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by their old names."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        now = MODULES[spec.name]
        warnings.warn(f"{spec.name} is now {now}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(now)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # which the import system had replaced


def old_name(module: str, name: str) -> Any:
    """What a module held under this name; AttributeError if it never did."""
    if name not in NAMES[module]:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    now = NAMES[module][name]
    warnings.warn(f"{module}.{name} is now in {now}", DeprecationWarning, stacklevel=3)
    return getattr(importlib.import_module(now), name)


class Package(ModuleType):
    """The package itself, whose `adapt` stays the function when the module of that old name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (f"{self.__name__}.{name}" in MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def find_old_names() -> None:
    """Let the import system find them."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
        sys.modules["vintix_fast"].__class__ = Package
