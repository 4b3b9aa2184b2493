"""What only some users install: which packages an extra brings, and what to say where it is missing."""

from __future__ import annotations

import importlib.util
import sys

from vintix_fast.service.errors import UsageError

EXTRAS = {
    "gym": ("gymnasium",),
    "hub": ("huggingface_hub",),
    "lerobot": ("pandas", "pyarrow"),
    "minari": ("gymnasium", "minari"),
    "pretrain": ("onnx", "onnxscript"),
    "wandb": ("wandb",),
}
"""An extra of pyproject.toml -> the modules that are asked for."""


def need(extra: str, what: str) -> None:
    """Raise UsageError, which says that ``what`` needs it, unless an extra's packages are installed."""
    missing = [name for name in EXTRAS[extra] if name not in sys.modules and importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{what} needs {' and '.join(missing)}: pip install 'vintix-fast[{extra}]'")
