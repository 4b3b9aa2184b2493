"""``vintix-fast report``: one page on an adaptation run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from vintix_fast.cli.common import PlainJson, console, progress, show


def report(
    path: Annotated[Path, Argument(help="the --output-dir of an `adapt` run, finished or not")],
    no_video: Annotated[bool, Option("--no-video", help="draw no videos of the robot")] = False,
    no_rollout: Annotated[bool, Option("--no-rollout", help="only what needs no simulator")] = False,
    json: PlainJson = False,
) -> Any:
    """Write PATH/report/report.html: a run's returns, gait and videos of the robot before and after.

    The page fetches nothing and can be sent as it is; its pictures and videos lie beside it too.
    """
    from vintix_fast.report.build import build_report

    made = build_report(path, rollout=not no_rollout, video=not no_video, progress=progress())
    for part, reason in made.skipped.items():
        show(console, f"No {part}: {reason}")
    show(console, f"Report: {made.html}")
    return {
        "html": made.html,
        "pngs": list(made.pngs.values()),
        "videos": list(made.videos.values()),
        "video_skipped_reason": made.skipped.get("video"),
        "skipped": made.skipped,
    }
