"""The ``vintix-fast`` command.  One file a subcommand: options -> dataclass -> call; heavy imports inside.

What a subcommand returns is what ``--json`` prints.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Annotated

import typer

from vintix_fast.cli import (
    adapt,
    bench,
    convert,
    demo,
    distil,
    doctor,
    evaluate,
    expert,
    export,
    hub,
    improve,
    inspect,
    models,
    options,
    play,
    pretrain,
    profile,
    report,
    robot,
    robots,
    stress,
    sweep,
    verify,
)
from vintix_fast.cli.common import Command, fold_name

app = typer.Typer(
    name="vintix-fast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": fold_name, "help_option_names": ["-h", "--help"]},
    help="Teach a pretrained in-context RL transformer (Vintix) to walk on a quadruped it has never seen.",
)


def _say_versions(asked: bool) -> None:
    if asked:
        names = ("vintix-fast", "torch", "genesis-world")
        typer.echo(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
        raise typer.Exit


@app.callback()
def of_all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_versions, is_eager=True, help="Say the versions and exit.")
    ] = False,
) -> None:
    pass


app.command("demo", cls=Command)(demo.demo)
app.command("adapt", cls=Command)(adapt.adapt)
app.command("improve", cls=Command)(improve.improve)
app.command("eval", cls=Command)(evaluate.evaluate)
app.command("stress", cls=Command)(stress.stress)
app.command("expert", cls=Command)(expert.expert)
app.command("distil", cls=Command)(distil.distil)
app.command("pretrain", cls=Command)(pretrain.pretrain)
app.command("leave-one-out", cls=Command)(pretrain.leave_one_out)
app.command("export", cls=Command)(export.export)
app.command("sweep", cls=Command)(sweep.sweep)
app.command("report", cls=Command)(report.report)
app.command("play", cls=Command)(play.play)
app.command("bench", cls=Command)(bench.bench)
app.command("profile", cls=Command)(profile.profile)
app.command("robot", cls=Command)(robot.robot)
app.command("robots", cls=Command)(robots.robots)
app.command("models", cls=Command)(models.models)
app.command("convert", cls=Command)(convert.convert)
app.command("push", cls=Command)(hub.push)
app.command("pull", cls=Command)(hub.pull)
app.command("inspect", cls=Command)(inspect.inspect)
app.command("verify", cls=Command)(verify.verify)
app.command("doctor", cls=Command)(doctor.doctor)
app.command("options", cls=Command, hidden=True)(options.options)


# Torch's threads wait for their next piece of work in a loop, by default for milliseconds, and keep the cores from the
# compiled kernels' own threads and from other programs.  So many turns are some 50 microseconds.
SPIN_COUNT = "3000"


def main() -> None:
    """Entry point of the ``vintix-fast`` script."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read once, when torch is imported
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # no child process executes a random.py of the current folder
    # Whoever reads the output may have enough of it, as `head`, which Rich and Typer call a failure and we do not.
    code = None
    try:
        app()
    except SystemExit as ended:
        code = None if isinstance(ended.__context__, BrokenPipeError) else ended.code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
    if code:
        sys.exit(code)
