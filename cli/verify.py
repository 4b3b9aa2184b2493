"""``vintix-fast verify``: does a run's loop give the same weights again?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from vintix_fast.cli.common import PlainJson, print_json, progress, result_console, show


def verify(
    path: Annotated[Path, Argument(help="the --output-dir of an `adapt` run")],
    loop: Annotated[int | None, Option(help="which loop, from 1", show_default="the last")] = None,
    json: PlainJson = False,
) -> None:
    """Repeat one loop of a run from its files, and compare the weights that it gives, bit for bit.

    Says equal or different; ends with exit code 1 if they are different.  The run stays as it is.
    """
    from vintix_fast.verify import verify as run

    found = run(path, loop, progress=progress())
    out = result_console(json)
    show(out, f"Loop {found.loop}, weights then: {found.recorded}\nLoop {found.loop}, weights now:  {found.repeated}")
    if not found.equal:
        where = "fine-tuning" if found.same_collection else "the collection"
        show(out, f"They differ from {where} on.")
    for name, (then, now) in found.other_versions.items():
        show(out, f"The run had {name} {then}, here is {now}.")
    show(out, "equal" if found.equal else "different")
    if json:
        print_json(vars(found) | {"equal": found.equal})
    if not found.equal:
        raise typer.Exit(1)
