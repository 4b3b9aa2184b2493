"""A report's page: one HTML file that shows everything and fetches nothing.

Pictures and small videos are inside it as data URIs; there is no script.  Takes what `build.py` has made; writes no
files, runs nothing.  What the page says and how it looks is in templates/.
"""

from __future__ import annotations

import base64
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vintix_fast.report.record import EXPERT_MAX_STEPS, RunRecord
from vintix_fast.rundir import loop_seconds

TEMPLATES = Path(__file__).parent / "templates"
INLINE_VIDEO_BYTES = 8_000_000
COLUMNS = (
    ("loop", "loop", "d"), ("episodes", "episodes", "d"), ("env steps", "env_steps", ",d"),
    ("return (noise)", "mean_return", ".2f"), ("± s.e.", "standard_error", ".2f"), ("length", "mean_length", ".0f"),
    ("eval return", "eval_return", ".2f"), ("± s.e.", "eval_standard_error", ".2f"),
    ("cold", "eval_cold_return", ".2f"), ("warm", "eval_warm_return", ".2f"),
    ("eval length", "eval_length", ".0f"), ("loss", "loss", ".4f"),
)  # fmt: skip
"""Of the table of loops: title, a row's key, format."""


def page_html(run: RunRecord, **shown: Any) -> str:
    """The whole page as text.  Columns of the table of loops that no row has are left out.

    Args:
        shown: ``expert``: its return, or None; ``pngs``, ``videos``, ``skipped``: as in `build.Report`; ``gaits``:
            `Recording.gait` by recording.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"shown": format, "data_uri": _data_uri, "seconds": loop_seconds}
    return environment.get_template("page.html.j2").render(
        shown,
        run=run,
        now=f"{datetime.now():%Y-%m-%d %H:%M}",
        columns=[column for column in COLUMNS if any(row.get(column[1]) is not None for row in run.rows)],
        expert_max_steps=EXPERT_MAX_STEPS,
        inline_video_bytes=INLINE_VIDEO_BYTES,
    )


def _data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
