"""``vintix-fast adapt``: self-improvement on one robot."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

from typer import Option

from vintix_fast.cli.common import Json, console, print_json, reports_errors, show, takes
from vintix_fast.config import AdaptConfig
from vintix_fast.run_config import RUN
from vintix_fast.service.extras import need


@reports_errors
@takes(AdaptConfig)
def adapt(
    wandb: Annotated[
        str | None,
        Option(help="log to this project of Weights & Biases too", metavar="PROJECT", rich_help_panel=RUN),
    ] = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Adapt a pretrained model to a robot by self-improvement, in Genesis or MuJoCo.

    Collects episodes with the current policy, fine-tunes only the robot's own encoders and decoder, and repeats.
    """
    config = AdaptConfig.from_options(**options)
    if wandb is not None:
        need("wandb", "--wandb")
    run(config, json, wandb)


def run(config: AdaptConfig, json: bool, wandb: str | None = None) -> None:
    """Adapt, and say what came of it; log to this project of Weights & Biases too."""
    from vintix_fast.adaptation import adapt
    from vintix_fast.service.console import ConsoleProgress, summary_table

    with contextlib.ExitStack() as stack:
        progress = ConsoleProgress(console)
        if wandb is not None:
            from vintix_fast.rundir import Run
            from vintix_fast.service.wandb_log import WandbProgress

            Run(config).check()  # before a run begins at W&B
            progress = stack.enter_context(WandbProgress(console, wandb, config))
        result = adapt(config, progress=progress)
    console.print(summary_table(result.rows))
    said = {
        "env_steps": "collected",
        "eval_env_steps": "in evaluations",
        "posture_env_steps": "in trials of stances",
        "audition_env_steps": "in the audition",
    }
    counts = {key: sum(row.get(key, 0) for row in result.rows) for key in said}
    parts = ", ".join(f"{counts[key]:,} {words}" for key, words in said.items() if counts[key])
    console.print(f"Environment steps: {sum(counts.values()):,} ({parts})", highlight=False)
    measured = [row for row in result.rows if "eval_return" in row]
    if measured:
        best = max(measured, key=lambda row: row["eval_return"])
        ends = (f"{row['eval_return']:.2f} (length {row['eval_length']:.0f})" for row in (measured[0], best))
        show(console, "Return of an episode before: {}, after: {}".format(*ends))
        if best["loop"] == 0 and len(measured) > 1:
            console.print("No loop was better than the initial policy, which is therefore kept as the best.")
    show(console, f"Adapted model: {result.best_model}\nCurve: {config.output_dir / 'curve.png'}")
    if json:
        print_json({"best_model": str(result.best_model), "last_model": str(result.last_model), "loops": result.rows})
