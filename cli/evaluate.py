"""``vintix-fast eval``: returns and lengths of a checkpoint's episodes on a robot."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Option

from vintix_fast.cli.common import Json, console, dated_folder, progress, show, takes
from vintix_fast.eval_config import EvalConfig
from vintix_fast.run_config import MAIN
from vintix_fast.service.bundled import BUILTIN_CHECKPOINT
from vintix_fast.service.errors import UsageError


@takes(EvalConfig, vintix_path=BUILTIN_CHECKPOINT)
def evaluate(
    parallel: Annotated[
        bool, Option(help="environments side by side; --no-parallel means one", rich_help_panel=MAIN)
    ] = True,
    json: Json = False,
    **options: Any,
) -> Any:
    """Evaluate a checkpoint on a robot, without exploration noise."""
    if not parallel and options.setdefault("num_envs", 1) != 1:
        raise UsageError(f"--num-envs {options['num_envs']} has no effect with --no-parallel; leave one of the two out")
    config = EvalConfig.from_options(**options)
    out = config.output_dir or dated_folder("eval", config.robot_type)
    config = config.with_options(output_dir=out)

    from vintix_fast.evaluation import evaluate as run
    from vintix_fast.service.console import evaluation_table

    evaluation = run(config, progress=progress())
    console.print(evaluation_table(evaluation))
    show(console, f"Written: {out / 'eval.json'}, {out / 'eval.csv'}")
    return evaluation.summary()
