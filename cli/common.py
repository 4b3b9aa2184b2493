"""What the subcommands share: how errors end, where text goes, how options are spelt."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import os
import re
import secrets
import sys
import typing
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

from vintix_fast.eval_config import EvalConfig
from vintix_fast.options import Entry, Options, entries, without_effect
from vintix_fast.run_config import RUN
from vintix_fast.service.errors import UsageError, VintixFastError, cause

Json = Annotated[bool, typer.Option("--json", help="print one JSON object last", rich_help_panel=RUN)]
"""What the command returns; see `Command.invoke`."""
PlainJson = Annotated[bool, typer.Option("--json", help="print one JSON object last")]
"""The same, of a command whose options are too few for panels."""

console = Console(stderr=True)
"""Where everything goes that is not a command's result, and the result too where --json gives it to programs."""


class Command(TyperCommand):
    """A subcommand: how its errors end, and what --json prints."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """A complaint about an option names the value; newer Typers only say what they expected."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            faults: list[Any] = getattr(error.__cause__, "errors", list)()  # of a pydantic ValidationError
            error.message += "".join(f", got {fault['input']!r}" for fault in faults)
            raise

    def invoke(self, ctx: Any) -> None:
        """Run it; with --json, what it returns is printed last.

        An error ends it with the error's exit code and a message instead of a traceback.  VINTIX_FAST_TRACEBACK=1 in
        the environment shows the traceback too.
        """
        try:
            result = super().invoke(ctx)
            if ctx.params.get("json") and result is not None:
                print_json(result)
        except BrokenPipeError:  # see `main`
            raise
        except Exception as error:
            message = _message(error)
            if message is None or os.environ.get("VINTIX_FAST_TRACEBACK") == "1":
                raise
            console.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
            raise typer.Exit(getattr(error, "exit_code", 1)) from None
        except KeyboardInterrupt:
            console.print("stopped")
            raise typer.Exit(130) from None


def fold_name(name: str) -> str:
    """The slow script spells options ``--like_this``, and calls some of `eval` otherwise; both work."""
    name = name.replace("_", "-")
    also = {e.option.also: e.name.replace("_", "-") for e in entries(EvalConfig).values()}
    return also.get(name, name)


def takes(of: type[Options], only: tuple[str, ...] = (), but: tuple[str, ...] = (), **defaults: Any) -> Any:
    """Give ``command(**options)`` the options of a configuration as its parameters.

    It is called with those that the user gave, over ``defaults``, which are its own.  A parameter that it has itself is
    its own: it stands in the place of the option of its name, or last, and is given always.

    Args:
        only, but: the options that it takes, or does not take.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        # What the command has itself, and what it has from the configuration.
        own = {n: p.replace(kind=keyword) for n, p in inspect.signature(command, eval_str=True).parameters.items()}
        del own["options"]
        own["context"] = inspect.Parameter("context", keyword, annotation=typer.Context)
        known = {n: e for n, e in entries(of).items() if e.option.panel and n not in but}
        taken = {n: _parameter(e, defaults.get(n, e.default)) for n, e in known.items() if not only or n in only}

        def call(*, context: typer.Context, **values: Any) -> Any:
            # A default is left to the configuration, or to a file that the command reads.
            said = {n for n in taken if getattr(context.get_parameter_source(n), "name", None) == "COMMANDLINE"}
            given = {n: v for n, v in values.items() if n in own or n in said}
            options = defaults | given
            for name in without_effect(of, options):
                if name not in given:  # a default of this command's
                    options.pop(name, None)
            return command(**options)

        # Typer makes the parameters of the signature; the page of options reads the entries.
        called: Any = functools.wraps(command)(call)
        called.__signature__ = inspect.Signature(list((taken | own).values()))
        called.entries = known
        return called

    return decorate


def _parameter(entry: Entry, default: Any) -> inspect.Parameter:
    """An option as Typer's parameter."""
    made, names = entry.option, []
    kind: Any = entry.type
    how: dict[str, Any] = {"help": made.help, "rich_help_panel": made.panel}
    if made.also:
        how["help"] += f" (= --{made.also})"
    if made.shown:
        how["show_default"] = made.shown
    if made.auto:
        how |= {"parser": number_or_auto, "metavar": "INTEGER|auto"}
    if entry.name == "device":
        how |= {"parser": device, "metavar": "TEXT"}
    if made.metavar:
        how["metavar"] = made.metavar
    if made.read is not None:  # of what is no type that Typer knows; what it means is said by the configuration
        kind = str
        default = None if default is entry.default else default
    if made.short:
        names = [f"--{entry.name.replace('_', '-')}", made.short]
    if made.flag:
        names = [made.flag]
        if default is True and "/" not in made.flag:  # it turns the default around
            names, how["show_default"] = [f" /{made.flag}"], False
    if entry.kind is tuple:
        kind = list[Path]
        if int in typing.get_args(entry.type):
            kind, default = Any, ",".join(map(str, default))  # Typer parses defaults too
            how |= {"parser": numbers, "metavar": "INTEGER,..."}
    default = inspect.Parameter.empty if default is dataclasses.MISSING else default
    annotated: Any = Annotated  # of a type that is not known before
    annotation = annotated[kind, typer.Option(*names, **how)]
    return inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def numbers(text: str) -> tuple[int, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not numbers with commas, such as 16,64") from None


def device(text: str) -> str:
    """cuda where one GPU of several is named, which is then the only one that this process sees."""
    if numbered := re.fullmatch(r"cuda:(\d+)", text):
        from vintix_fast.service.device import choose_gpu

        try:
            choose_gpu(int(numbered[1]))
        except UsageError as error:
            raise typer.BadParameter(str(error)) from None
        return "cuda"
    return text


def number_or_auto(text: str) -> int | None:
    """None for auto."""
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a valid integer nor auto") from None


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


def check_file(option: str, path: Path) -> None:
    """Raise UsageError unless ``path``, which ``option`` names, can be written as a file."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{option} {path}: not a file in a directory that exists; choose another path")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{option} {path}: no permission to write it; choose another path")


def progress() -> Any:
    """What tells of a run in the terminal."""
    from vintix_fast.service.console import ConsoleProgress

    return ConsoleProgress(console)


def dated_folder(parent: str, robot_type: str) -> Path:
    """A name for results that nobody named; those of one second, as of a cluster's jobs, differ too."""
    stamp = f"{datetime.now().strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    return Path(parent) / f"{Path(robot_type).stem}-{stamp}"


def result_console(json: bool) -> Console:
    """Where a command that only reports writes its text: standard output, unless that belongs to ``--json``."""
    return console if json else Console()


def show(out: Console, text: str) -> None:
    """A line for people and their tools: neither coloured nor wrapped."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


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
