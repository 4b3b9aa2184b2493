"""What the subcommands share: how errors end, where text goes, how options are spelt."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console

from vintix_fast.errors import VintixFastError

console = Console(stderr=True)


def fold_underscores(name: str) -> str:
    """The slow script spells options ``--like_this``; both spellings work."""
    return name.replace("_", "-")


def reports_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """End a command with its error's exit code and a message instead of a traceback.

    VINTIX_FAST_TRACEBACK=1 in the environment shows the traceback too.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (VintixFastError, OSError) as error:
            if os.environ.get("VINTIX_FAST_TRACEBACK") == "1":
                raise
            console.print(f"[bold red]error:[/] {_escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(getattr(error, "exit_code", 1)) from None
        except KeyboardInterrupt:
            console.print("stopped")
            raise typer.Exit(130) from None

    return wrapped


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def print_json(content: Any) -> None:
    """One JSON object on one line of standard output, last."""
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()
