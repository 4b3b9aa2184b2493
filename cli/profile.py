"""``vintix-fast profile``: where the time of one loop of ``adapt`` goes.

Takes adapt's own options, so that what is profiled is what the user runs; only what makes a loop long is smaller by
default.  The regions are marked where the work is done, see `vintix_fast.service.regions`.
"""

from __future__ import annotations

import json as jsonlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from vintix_fast.cli.common import Json, check_file, progress, result_console, show, takes
from vintix_fast.config import AdaptConfig, FinetuneConfig
from vintix_fast.run_config import MAIN, RUN
from vintix_fast.service.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from vintix_fast.service.regions import Recording, RegionTime

DEFAULTS: dict[str, Any] = {"robot_type": "go2", "finetune_steps_per_loop": 20, "gate_episodes": 25}
"""What differs from adapt's; episodes stay as they are, because training windows are as long as they are."""
LEFT_OUT = ("num_improvement_loops", "target_return", "replay", "resume", "wandb")
"""What means nothing to a single loop."""
PARTS = {"acting": ("posture", "collect", "gate"), "training": ("train",), "starting": ("start-up", "compile")}
"""The outermost regions of `vintix_fast.adaptation`."""
Folder = Annotated[
    Path | None,
    Option(help="where data and models go", rich_help_panel=MAIN, show_default="nowhere: deleted at the end"),
]
Trace = Annotated[Path, Option(help="file for Chrome's chrome://tracing or ui.perfetto.dev", rich_help_panel=RUN)]


@takes(AdaptConfig, but=LEFT_OUT, **DEFAULTS)
def profile(
    output_dir: Folder = None, trace: Trace = Path("profile-trace.json"), json: Json = False, **options: Any
) -> Any:
    """Profile one loop of adapt: where its time goes, and a trace.

    Takes adapt's options, with fewer optimiser steps and evaluations by default: about two minutes on two cores.
    """
    from vintix_fast.service.files import write_text
    from vintix_fast.service.regions import recording, region

    if options.get("overwrite") and output_dir is None:
        raise UsageError("--overwrite has no effect without --output-dir; give it too, or leave --overwrite out")
    check_file("--trace", trace)
    with tempfile.TemporaryDirectory(prefix="vintix-fast-profile-") as folder:
        run_dir = output_dir or Path(folder) / "run"
        config = AdaptConfig.from_options(output_dir=run_dir, num_improvement_loops=1, **options)
        with recording() as recorded:
            with region("start-up"):
                from vintix_fast.adaptation import adapt as run

                told = progress()
            try:
                result = run(config, progress=told)
            except Interrupted as stop:  # adapt's message says how to go on, which a profile does not
                raise Interrupted("stopped before the loop was done: no profile, no trace") from stop
    write_text(trace, jsonlib.dumps(recorded.trace()))
    summary = _summary(recorded, config, result.rows[-1])
    out = result_console(json)
    out.print(_table(recorded))
    for line in _lines(summary):
        show(out, line)
    show(out, f"Trace: {trace} (chrome://tracing, ui.perfetto.dev)")
    return summary | {"trace": str(trace)}


def _summary(recorded: Recording, config: AdaptConfig, row: dict[str, Any]) -> dict[str, Any]:
    """What ``--json`` prints."""
    import torch

    from vintix_fast.service.files import versions

    times, wall = recorded.times(), recorded.seconds

    # Regions without one around them, so that their shares add up to the run's time.
    def outermost(names: tuple[str, ...]) -> dict[str, float]:
        seconds = sum(t.seconds for t in times if len(t.path) == 1 and t.path[0] in names)
        return {"seconds": seconds, "share": seconds / wall}

    return {
        "wall_seconds": wall,
        **{part: outermost(names) for part, names in PARTS.items()},
        "env_steps_per_s": row["env_steps_per_s"],
        "finetune_seconds_per_step": _seconds_per_step(times),
        "writer_wait_seconds": row["writer_wait_seconds"],
        # Every region by thread and nesting, as the table shows it; then by name, wherever it was nested.
        "regions": [
            {
                "thread": t.thread, "region": "/".join(t.path), "calls": t.calls, "seconds": t.seconds,
                "self_seconds": t.self_seconds, "share": t.seconds / wall, "longest_seconds": t.longest_seconds,
            }
            for t in times
        ],
        "totals": recorded.totals(),
        # What the figures depend on.
        "device": config.engine.device,
        "threads": torch.get_num_threads(),
        "options": config.to_json(),
        "versions": versions(),
    }  # fmt: skip


def _seconds_per_step(times: list[RegionTime]) -> float:
    """Of fine-tuning, without each region's longest call, which is the first: memory is fetched and code compiled."""
    parts = [t for t in times if t.path[:-1] == PARTS["training"] and t.path[-1] != "critic"]
    return sum((t.seconds - t.longest_seconds) / (t.calls - 1) if t.calls > 1 else t.seconds for t in parts)


def _table(recorded: Recording) -> Table:
    """A row for each region, indented by nesting, and one for what lies between the regions inside."""
    from rich import box
    from rich.table import Table

    table = Table(title=f"One loop of adapt: {recorded.seconds:.1f} s", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("region")
    for title in ("calls", "seconds", "share", "a call, ms", "longest, ms"):
        table.add_column(title, justify="right")
    times = recorded.times()
    # The recording's own thread is shown as a tree, whose shares are of the run's time.
    own = [t for t in times if t.thread == recorded.thread]

    def add(name: str, depth: int, t: RegionTime) -> None:
        table.add_row(
            "  " * depth + name, f"{t.calls}", f"{t.seconds:.2f}", f"{t.seconds / recorded.seconds:.1%}",
            f"{1e3 * t.seconds / t.calls:.2f}", f"{1e3 * t.longest_seconds:.1f}",
        )  # fmt: skip

    def rest(depth: int, seconds: float) -> None:
        table.add_row("  " * depth + "other", "", f"{seconds:.2f}", f"{seconds / recorded.seconds:.1%}", "", "")

    # A region's rows are followed by those inside it, and by what lay between them.
    def tree(path: tuple[str, ...]) -> None:
        for t in own:
            if t.path[:-1] == path:
                add(t.path[-1], len(path), t)
                if any(inner.path[:-1] == t.path for inner in own):
                    tree(t.path)
                    rest(len(t.path), t.self_seconds)

    tree(())
    rest(0, recorded.seconds - sum(t.seconds for t in own if len(t.path) == 1))
    # Other threads work beside it: what they took is no part of the tree.
    for t in times:
        if t.thread != recorded.thread:
            add(f"{t.thread}: {'/'.join(t.path)}", 0, t)
    return table


def _lines(summary: dict[str, Any]) -> list[str]:
    """Collection against training, and what adapt's own number of optimiser steps would take."""
    said = ", ".join(f"{name} {summary[name]['seconds']:.1f} s ({summary[name]['share']:.0%})" for name in PARTS)
    usual, step = FinetuneConfig.steps, summary["finetune_seconds_per_step"]
    return [
        f"Acting (collect and gate) against training: {said}",
        f"Collection: {summary['env_steps_per_s']:.0f} environment steps/s; waited "
        f"{summary['writer_wait_seconds']:.2f} s for the disk",
        f"Fine-tuning: {step:.3f} s a step, the first left out; adapt's {usual} take {usual * step:.0f} s",
    ]
