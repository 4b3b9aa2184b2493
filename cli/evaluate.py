"""``vintix-fast eval``: returns and lengths of a checkpoint's episodes on a robot."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

from typer import Option

from vintix_fast.cli.common import console, print_json, reports_errors
from vintix_fast.config import BUILTIN_CHECKPOINT, EvalConfig


@reports_errors
def evaluate(
    robot_type: Annotated[str, Option(help="go1, go2, minicheetah, unitreea1 (= a1), or a robot file (.toml)")],
    vintix_path: Annotated[
        Path, Option(help="checkpoint directory", show_default="the bundled checkpoint")
    ] = BUILTIN_CHECKPOINT,
    parallel: Annotated[bool, Option(help="environments side by side; --no-parallel means one")] = True,
    num_envs: Annotated[int, Option(help="environments side by side")] = 100,
    max_steps: Annotated[int, Option(help="an episode's time limit, in steps")] = 1000,
    episodes_per_env: Annotated[
        int, Option(help="successive episodes in each environment; the context is carried over them")
    ] = 1,
    context_len: Annotated[
        int | None, Option(help="steps of history that the policy sees", show_default="what the model was made for")
    ] = None,
    random_starts: Annotated[bool, Option(help="start moved by up to 0.1 rad and 5 degrees")] = False,
    seed: Annotated[int, Option(help="of the random starts")] = 5,
    device: Annotated[str, Option(help="cpu or cuda")] = "cpu",
    token_order: Annotated[
        str | None,
        Option(help="action-reward-observation or observation-action-reward", show_default="the checkpoint's"),
    ] = None,
    output_dir: Annotated[
        Path | None, Option(help="for eval.json and eval.csv", show_default="eval/<robot>-<date and time>")
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="replace an earlier evaluation there")] = False,
    json: Annotated[bool, Option("--json", help="print one JSON object last")] = False,
) -> None:
    """Evaluate a checkpoint on a robot, without exploration noise."""
    options = {k: v for k, v in locals().items() if k not in ("json", "parallel")}
    if not parallel:
        options["num_envs"] = 1
    if output_dir is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        options["output_dir"] = Path("eval") / f"{Path(robot_type).stem}-{stamp}"
    config = EvalConfig(**options)

    from vintix_fast.evaluate import evaluate as run
    from vintix_fast.report.console import ConsoleProgress, evaluation_table

    evaluation = run(config, progress=ConsoleProgress(console))
    console.print(evaluation_table(evaluation))
    console.print(f"Written: {config.output_dir / 'eval.json'}, eval.csv", highlight=False)
    if json:
        print_json(evaluation.summary())
