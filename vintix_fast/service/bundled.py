"""The bundled checkpoints: what they are called and where they lie.  Reads nothing of them but their cards.

Not in model/, which imports torch: options name a checkpoint, and ``--help`` must not wait for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vintix_fast.service.errors import UsageError
from vintix_fast.service.files import read_json

BUILTIN_CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
BUILTIN_PREFIX = "builtin:"
CARD_FILE = "card.json"
"""Beside a model: what was measured of it, and the task that it was made for where that is another."""
BUILTIN_CHECKPOINT = BUILTIN_CHECKPOINTS / "without-minicheetah"
"""The default: it has seen every robot but Mini Cheetah."""


def bundled_checkpoints() -> dict[str, Path]:
    """The bundled checkpoints by name."""
    return {path.name: path for path in sorted(BUILTIN_CHECKPOINTS.iterdir()) if (path / "model.pth").is_file()}


def bundled_models() -> dict[str, dict[str, Any]]:
    """The bundled checkpoints' cards by name: where each lies, its size, and what was measured."""
    return {
        name: {"path": str(path), "bytes": sum(f.stat().st_size for f in path.iterdir())}
        | read_json(path / CARD_FILE, "install the package anew", {"returns": dict})
        for name, path in bundled_checkpoints().items()
    }


def checkpoint_path(value: str | Path) -> Path:
    """A checkpoint's directory: ``builtin:<name>`` is a bundled one, or a UsageError; anything else a path."""
    text = str(value)
    if not text.startswith(BUILTIN_PREFIX):
        return Path(value)
    bundled, name = bundled_checkpoints(), text.removeprefix(BUILTIN_PREFIX)
    if name not in bundled:
        known = ", ".join(BUILTIN_PREFIX + other for other in bundled)
        raise UsageError(f"no bundled checkpoint is called {name!r}; there are {known}")
    return bundled[name]
