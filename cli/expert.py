"""``vintix-fast expert``: a walking expert for one robot, by PPO."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

from typer import Option

from vintix_fast.cli.common import console, print_json, reports_errors
from vintix_fast.errors import VintixFastError
from vintix_fast.pretrain.config import ExpertConfig

MAIN, TRAINING, RUN = "Main", "Training", "Run"


@reports_errors
def expert(
    robot_type: Annotated[
        str, Option(help="go1, go2, minicheetah, unitreea1 (= a1), or a robot file (.toml)", rich_help_panel=MAIN)
    ],
    output_dir: Annotated[Path, Option(help="where the expert goes", rich_help_panel=MAIN)],
    iterations: Annotated[int, Option(help="PPO iterations", rich_help_panel=TRAINING)] = ExpertConfig.iterations,
    num_envs: Annotated[
        int, Option(help="environments side by side; 4096 suits a GPU", rich_help_panel=TRAINING)
    ] = ExpertConfig.num_envs,
    steps_per_iteration: Annotated[
        int, Option(help="steps of each environment in an iteration", rich_help_panel=TRAINING)
    ] = ExpertConfig.steps_per_iteration,
    max_steps_per_episode: Annotated[
        int, Option(help="an episode's time limit, in steps", rich_help_panel=TRAINING)
    ] = ExpertConfig.max_steps_per_episode,
    lr: Annotated[float, Option(help="first learning rate; PPO adapts it", rich_help_panel=TRAINING)] = ExpertConfig.lr,
    init_noise: Annotated[
        float, Option(help="exploration noise at the beginning, in action units", rich_help_panel=TRAINING)
    ] = ExpertConfig.init_noise,
    entropy: Annotated[
        float, Option(help="entropy bonus at the beginning; it fades", rich_help_panel=TRAINING)
    ] = ExpertConfig.entropy,
    desired_kl: Annotated[
        float, Option(help="how far an update may move the policy", rich_help_panel=TRAINING)
    ] = ExpertConfig.desired_kl,
    eval_episodes: Annotated[
        int, Option(help="episodes of the evaluation at the end", rich_help_panel=RUN)
    ] = ExpertConfig.eval_episodes,
    save_interval: Annotated[
        int, Option(help="iterations that a killed run loses at most", rich_help_panel=RUN)
    ] = ExpertConfig.save_interval,
    seed: Annotated[int, Option(help="seed of everything random", rich_help_panel=RUN)] = ExpertConfig.seed,
    device: Annotated[str, Option(help="cpu or cuda", rich_help_panel=RUN)] = ExpertConfig.device,
    resume: Annotated[bool, Option("--resume", help="go on with an interrupted run", rich_help_panel=RUN)] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="replace an earlier run", rich_help_panel=RUN)] = False,
    json: Annotated[bool, Option("--json", help="print one JSON object last", rich_help_panel=RUN)] = False,
) -> None:
    """Train a walking expert on one robot with PPO (rsl-rl-lib), in the Genesis simulator."""
    config = ExpertConfig(**{k: v for k, v in locals().items() if k != "json"})

    if importlib.util.find_spec("rsl_rl") is None:
        raise VintixFastError("training an expert needs rsl-rl-lib: pip install 'vintix-fast[pretrain]'")
    from vintix_fast.pretrain.expert import train_expert
    from vintix_fast.report.console import ConsoleProgress, evaluation_table

    evaluation = train_expert(config, progress=ConsoleProgress(console))
    console.print(evaluation_table(evaluation))
    console.print(f"Expert: {output_dir}", highlight=False, markup=False, soft_wrap=True)
    if json:
        print_json(evaluation.summary() | {"expert": str(output_dir)})
