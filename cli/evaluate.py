"""``vintix-fast eval``: returns and lengths of a checkpoint's episodes on a robot."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

from typer import Option

from vintix_fast.cli.common import ENGINE, CacheDtype, DroppedMass, Engine, console, print_json, reports_errors
from vintix_fast.config import BUILTIN_CHECKPOINT, EvalConfig

MAIN, EPISODES, RUN = "Main", "Episodes", "Run"


@reports_errors
def evaluate(
    robot_type: Annotated[
        str,
        Option(
            "--robot-type",
            "-r",
            help="go1, go2, minicheetah, unitreea1 (= a1), or a robot file (.toml)",
            rich_help_panel=MAIN,
        ),
    ],
    vintix_path: Annotated[
        Path,
        Option(
            help="checkpoint directory, or builtin:<name>", rich_help_panel=MAIN, show_default="the bundled checkpoint"
        ),
    ] = BUILTIN_CHECKPOINT,
    reference_robot: Annotated[
        str | None,
        Option(help="evaluate a copy of its adapter on a robot that the checkpoint has not seen", rich_help_panel=MAIN),
    ] = None,
    init_map: Annotated[
        str, Option(help="convert or none: how that copy is made, as in adapt", rich_help_panel=MAIN)
    ] = EvalConfig.init_map,
    parallel: Annotated[
        bool, Option(help="environments side by side; --no-parallel means one", rich_help_panel=MAIN)
    ] = True,
    num_envs: Annotated[int, Option(help="environments side by side", rich_help_panel=MAIN)] = 100,
    max_steps: Annotated[int, Option(help="an episode's time limit, in steps", rich_help_panel=MAIN)] = 1000,
    episodes_per_env: Annotated[
        int,
        Option(
            help="successive episodes in each environment (= --max-episodes); the context is carried over them",
            rich_help_panel=EPISODES,
        ),
    ] = 1,
    context_len: Annotated[
        int | None,
        Option(
            help="steps of history that the policy sees",
            rich_help_panel=EPISODES,
            show_default="what the model was made for",
        ),
    ] = None,
    fixed_starts: Annotated[
        bool,
        Option(
            "--fixed-starts",
            help="start level and in the default pose, in one environment, instead of moved by up to 0.1 rad, "
            "5 degrees and 0.1 m",
            rich_help_panel=EPISODES,
        ),
    ] = False,
    base_mass: Annotated[
        float | None,
        Option(help="mass of the base link in kg", rich_help_panel=EPISODES, show_default="the robot's own"),
    ] = None,
    seed: Annotated[int, Option(help="seed of the random starts", rich_help_panel=EPISODES)] = 5,
    device: Annotated[str, Option(help="cpu or cuda", rich_help_panel=ENGINE)] = "cpu",
    engine: Engine = "auto",
    cache_dtype: CacheDtype = None,
    dropped_mass: DroppedMass = None,
    token_order: Annotated[
        str | None,
        Option(
            help="action-reward-observation or observation-action-reward",
            rich_help_panel=RUN,
            show_default="the checkpoint's; the former where it does not say",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        Option(
            help="for eval.json and eval.csv (= --output)",
            rich_help_panel=RUN,
            show_default="eval/<robot>-<date and time>",
        ),
    ] = None,
    record: Annotated[
        Path | None, Option(help="an .mp4 file for a video of the first six seconds", rich_help_panel=RUN)
    ] = None,
    overwrite: Annotated[
        bool, Option("--overwrite", help="replace an earlier evaluation there", rich_help_panel=RUN)
    ] = False,
    json: Annotated[bool, Option("--json", help="print one JSON object last", rich_help_panel=RUN)] = False,
) -> None:
    """Evaluate a checkpoint on a robot, without exploration noise."""
    options = {k: v for k, v in locals().items() if k not in ("json", "parallel", "fixed_starts")}
    options["random_starts"] = not fixed_starts
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
    written = f"Written: {config.output_dir / 'eval.json'}, {config.output_dir / 'eval.csv'}"
    console.print(written, highlight=False, markup=False, soft_wrap=True)
    if json:
        print_json(evaluation.summary())
