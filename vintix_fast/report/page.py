"""A report's page: one HTML file that shows everything and fetches nothing.

Pictures and small videos are inside it as data URIs; there is no script.  Takes what `build.py` has made; writes no
files, runs nothing.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from vintix_fast.report.record import EXPERT_MAX_STEPS, RunRecord

INLINE_VIDEO_BYTES = 8_000_000

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; background: #f4f6f8; margin: 0; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 19px; margin: 36px 0 10px; }
.path, figcaption, .note { color: #5a6875; font-size: 13px; } .path { overflow-wrap: anywhere; }
figure, .cards div, table { background: #fff; border: 1px solid #dde3e8; border-radius: 8px; }
figure { margin: 0 0 14px; padding: 12px; } figure img, figure video { display: block; width: 100%; }
figure img.plot { max-width: 860px; margin: 0 auto; } figcaption { margin-top: 8px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 18px 0; }
.cards div { padding: 10px 14px; } .cards b { display: block; font-size: 22px; }
.cards span { color: #5a6875; font-size: 13px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 14px; }
.note { background: #fff8e6; border: 1px solid #eedfae; border-radius: 8px; padding: 8px 12px; margin: 0 0 14px; }
.wide { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 5px 12px; text-align: right; border-bottom: 1px solid #eef1f4; } tr:last-child td { border: 0; }
th { color: #5a6875; font-weight: 600; } .left th, .left td { text-align: left; overflow-wrap: anywhere; }
td:first-child, th:first-child { text-align: left; } tr.best td { background: #e9f5ec; } tr.no td { color: #8c98a4; }
"""


@dataclass(frozen=True)
class Page:
    """What a page shows; ``skipped`` as in `build.Report`, ``gaits`` as `Recording.gait` by recording."""

    run: RunRecord
    expert: float | None
    pngs: dict[str, Path]
    videos: dict[str, Path]
    skipped: dict[str, str]
    gaits: dict[str, dict[str, float]]


def page_html(page: Page) -> str:
    """The whole page as text."""
    run = page.run
    robot = escape(str(run.options["robot_type"]))
    loops = f"{run.loops_done} of {run.options.get('num_improvement_loops', '?')} loops"
    state = f"finished, {loops}" if run.finished else f"unfinished, {loops}; the same `adapt` with --resume goes on"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Adaptation to {robot}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>Adaptation to {robot}</h1>",
            f'<div class="path">{escape(str(run.path.resolve()))}: {escape(state)}. '
            f"Reported on {datetime.now():%Y-%m-%d %H:%M}.</div>",
            _cards(page),
            _learning(page),
            _walking(page),
            "<h2>Loops</h2>",
            _loops(run),
            f'<p class="path">{_steps_counted(run)}</p>',
            "<h2>Options</h2>",
            _pairs({k: "" if v is None else v for k, v in run.options.items()}),
            "<h2>Versions</h2>",
            _pairs(run.versions),
            "</main></body></html>\n",
        ]
    )


def _cards(page: Page) -> str:
    """The numbers that a reader looks for first."""
    run, zero, best = page.run, page.run.zero_shot, page.run.best
    cards = []
    if zero:
        cards.append((f"{zero['eval_return']:.2f}", "return, zero-shot"))
    if best and (not zero or best["loop"] > 0):
        cards.append((f"{best['eval_return']:.2f}", f"return, best (loop {best['loop']})"))
    elif best:
        cards.append(("none", "of the loops was better"))
    if page.expert is not None:
        cards.append((f"{page.expert:.2f}", "return of the robot's own expert"))
        if zero and best and best["loop"] > 0 and page.expert > zero["eval_return"]:
            closed = (best["eval_return"] - zero["eval_return"]) / (page.expert - zero["eval_return"])
            cards.append((f"{closed:.0%}", "of the gap to the expert closed"))
    cards.append((f"{run.total('env_steps'):,.0f}", "environment steps collected"))
    cards.append((f"{sum(map(_seconds, run.rows)) / 60:.1f} min", "collecting, training, evaluating"))
    return (
        '<div class="cards">' + "".join(f"<div><b>{b}</b><span>{escape(s)}</span></div>" for b, s in cards) + "</div>"
    )


def _learning(page: Page) -> str:
    expert = (
        "The expert's level is the mean return of the bundled models that were pretrained on this robot."
        if page.expert is not None
        else "No expert's level is shown: it is known for the bundled robots and episodes of "
        f"{EXPERT_MAX_STEPS} steps only."
    )
    return "<h2>Learning</h2>" + "".join(
        [
            _picture(page, "returns", f"Return against collected steps; small numbers are loops. {expert}"),
            _picture(page, "lengths", "Length of the same episodes."),
            _picture(
                page, "by_episode",
                "Adaptation in context: return by the episode's number within its environment, with exploration noise; "
                "mean and standard deviation over environments.",
            ),
        ]
    )  # fmt: skip


def _walking(page: Page) -> str:
    """Before and after: videos, gait, traces."""
    parts = ["<h2>Walking</h2>"]
    if "after" in page.skipped:
        parts.append(_note(f"Only the initial policy is shown: {page.skipped['after']}."))
    if page.videos:
        parts.append(f'<div class="pair">{"".join(_video(name, path) for name, path in page.videos.items())}</div>')
    if "video" in page.skipped:
        parts.append(_note(f"No video: {page.skipped['video']}."))
    parts.append(_picture(page, "before_after", "Frames of both videos.", wide=True))
    if page.gaits:
        rows = [
            f"<tr><td>{escape(what)}</td>{''.join(f'<td>{gait[what]:.4g}</td>' for gait in page.gaits.values())}</tr>"
            for what in next(iter(page.gaits.values()))
        ]
        head = "".join(f"<th>{escape(name)}</th>" for name in page.gaits)
        parts.append(
            f'<div class="wide"><table><tr><th>from a cold context</th>{head}</tr>{"".join(rows)}</table></div>'
        )
        parts.append('<p class="path">Four robots, the same starts, 6 s without noise; all but the falls are of the '
                     "last 2 s.</p>")  # fmt: skip
    parts.append(
        _picture(
            page, "traces",
            "One of these robots in its last two seconds: joint positions, and which lower legs touch the ground. "
            "A red line is a fall, after which the robot is put back to its start.",
            wide=True,
        )
    )  # fmt: skip
    return "".join(parts)


def _picture(page: Page, name: str, caption: str, wide: bool = False) -> str:
    if name not in page.pngs:
        return _note(f"No {name}.png: {page.skipped[name]}.") if name in page.skipped else ""
    kind = "" if wide else ' class="plot"'
    source = _data_uri(page.pngs[name], "image/png")
    return f'<figure><img{kind} alt="{name}" src="{source}"><figcaption>{escape(caption)}</figcaption></figure>'


def _video(name: str, path: Path) -> str:
    if path.stat().st_size > INLINE_VIDEO_BYTES:
        shown = f'<a href="{escape(path.name)}">{escape(path.name)}</a> beside this page (too large to be inside it)'
    else:
        shown = f'<video controls loop muted autoplay playsinline src="{_data_uri(path, "video/mp4")}"></video>'
    what = {"before": "Before: the initial policy", "after": "After: the adapted model"}.get(name, name)
    return f"<figure>{shown}<figcaption>{escape(what)}</figcaption></figure>"


def _data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _seconds(row: dict[str, Any]) -> float:
    keys = ("posture_seconds", "collect_seconds", "train_seconds", "eval_seconds")
    return sum(row.get(key) or 0.0 for key in keys)


def _loops(run: RunRecord) -> str:
    """The table of loops; the best one's line is marked."""
    columns = (
        ("loop", "loop", "d"), ("episodes", "episodes", "d"), ("env steps", "env_steps", ",d"),
        ("return (noise)", "mean_return", ".2f"), ("± s.e.", "standard_error", ".2f"), ("length", "mean_length", ".0f"),
        ("eval return", "eval_return", ".2f"), ("± s.e.", "eval_standard_error", ".2f"),
        ("cold", "eval_cold_return", ".2f"), ("warm", "eval_warm_return", ".2f"),
        ("eval length", "eval_length", ".0f"), ("loss", "loss", ".4f"),
    )  # fmt: skip
    columns = [column for column in columns if any(row.get(column[1]) is not None for row in run.rows)]
    head = "".join(f"<th>{title}</th>" for title, _, _ in columns) + "<th>kept</th><th>seconds</th>"
    best, lines = run.best, []
    for row in run.rows:
        cells = [format(row[key], form) if row.get(key) is not None else "" for _, key, form in columns]
        cells += [{True: "yes", False: "no", None: ""}[row.get("accepted")], f"{_seconds(row):.1f}"]
        kind = ' class="best"' if row is best else ' class="no"' if row.get("accepted") is False else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>' if lines else _note("None yet.")


def _steps_counted(run: RunRecord) -> str:
    return (
        f"Collected for learning: {run.total('env_steps'):,.0f} environment steps. The evaluations took "
        f"{run.total('eval_env_steps') + run.total('posture_env_steps'):,.0f} more, trials of stances included, which "
        "the critic learnt nothing from. Loop 0 is the initial policy."
    )


def _pairs(values: dict[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in values.items())
    return f'<div class="wide"><table class="left">{rows}</table></div>'
