"""What the subcommands share: how errors end, where text goes, how options are spelt."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from vintix_fast.config import DEFAULT_CACHE_DTYPE, DEFAULT_DROPPED_MASS
from vintix_fast.errors import UsageError, VintixFastError, cause

ENGINE = "Engine"
Engine = Annotated[
    str, typer.Option(help="auto: the fastest policy; torch: the plain one, in float32", rich_help_panel=ENGINE)
]
CacheDtype = Annotated[
    str | None,
    typer.Option(
        help="float32 or int8: how the context is kept",
        rich_help_panel=ENGINE,
        show_default=f"{DEFAULT_CACHE_DTYPE} with --engine auto",
    ),
]
DroppedMass = Annotated[
    float | None,
    typer.Option(
        help="most attention, of 1, that may be left unread; 0 reads all",
        rich_help_panel=ENGINE,
        show_default=f"{DEFAULT_DROPPED_MASS} with --engine auto",
    ),
]

console = Console(stderr=True)
"""Where everything goes that is not a command's result, and the result too where --json gives it to programs."""


class Command(TyperCommand):
    """A subcommand whose complaint about an option names the value; newer Typers only say what they expected."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            faults = getattr(error.__cause__, "errors", list)()  # of a pydantic ValidationError
            error.message += "".join(f", got {fault['input']!r}" for fault in faults)
            raise


ALIASES = {"max-episodes": "episodes-per-env", "output": "output-dir"}
"""Options of the slow script's evaluation that have another name here."""


def fold_name(name: str) -> str:
    """The slow script spells options ``--like_this``, and calls some otherwise; both work."""
    name = name.replace("_", "-")
    return ALIASES.get(name, name)


def number_of_envs(text: str) -> int | None:
    """What --num-envs says; None for auto."""
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a valid integer nor auto") from None


def reports_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """End a command with its error's exit code and a message instead of a traceback.

    VINTIX_FAST_TRACEBACK=1 in the environment shows the traceback too.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except Exception as error:
            message = _message(error)
            if message is None or os.environ.get("VINTIX_FAST_TRACEBACK") == "1":
                raise
            console.print(f"[bold red]error:[/] {_escape(message)}", highlight=False, soft_wrap=True)
            raise typer.Exit(getattr(error, "exit_code", 1)) from None
        except KeyboardInterrupt:
            console.print("stopped")
            raise typer.Exit(130) from None

    return wrapped


def _message(error: Exception) -> str | None:
    """What a user is told of an error; None of a defect."""
    if isinstance(error, VintixFastError | OSError):
        return str(error)
    torch = sys.modules.get("torch")  # unless it is loaded, nothing of it failed
    ran_out = isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))
    # On a CPU torch raises a plain RuntimeError.
    if ran_out or "DefaultCPUAllocator: can't allocate memory" in str(error):
        said = f" ({cause(error)})" if str(error) else ""
        return (
            f"not enough memory{said}; acting takes less with fewer --num-envs or a shorter --context-len, training "
            "with a smaller --batch-size or a shorter --window-len"
        )
    return None


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def check_file(option: str, path: Path) -> None:
    """Raise UsageError unless ``path``, which ``option`` names, can be written as a file."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{option} {path}: not a file in a directory that exists; choose another path")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{option} {path}: no permission to write it; choose another path")


def result_console(json: bool) -> Console:
    """Where a command that only reports writes its text: standard output, unless that belongs to ``--json``."""
    return console if json else Console()


def print_json(content: Any) -> None:
    """One JSON object on one line of standard output, last.  NaN and infinity, which JSON lacks, become null."""
    sys.stdout.write(json.dumps(_plain(content), allow_nan=False) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
