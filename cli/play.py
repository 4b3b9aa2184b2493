"""``vintix-fast play``: watch a robot walk, and disturb it, in a window or the browser."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument

from vintix_fast.cli.common import progress, takes
from vintix_fast.play.config import PlayConfig


@takes(PlayConfig, but=("model",))
def play(
    model: Annotated[
        str | None, Argument(help="checkpoint directory, builtin:<name>, or the --output-dir of an `adapt`")
    ] = None,
    **options: Any,
) -> None:
    """Let a robot walk before your eyes, where it can be steered, pushed, loaded and given other models.

    A window opens where there is a display; without one, a page of the browser is served.  Of a run of adapt its
    models can be switched while it walks: initial, loop_01, ..., best.
    """
    config = PlayConfig.from_options(model=model, **options)

    from vintix_fast.play.play import play as run

    run(config, progress=progress())
