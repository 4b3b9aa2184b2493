"""``vintix-fast distil``: learning histories of one robot, from random actions to its expert's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from vintix_fast.cli.common import console, print_json, reports_errors
from vintix_fast.pretrain.config import DistilConfig

MAIN, HISTORIES, RUN = "Main", "Histories", "Run"


@reports_errors
def distil(
    expert: Annotated[Path, Option(help="directory that `vintix-fast expert` filled", rich_help_panel=MAIN)],
    output_dir: Annotated[Path, Option(help="where the histories go", rich_help_panel=MAIN)],
    robot_type: Annotated[
        str | None,
        Option(help="the robot; an expert of another is refused", rich_help_panel=MAIN, show_default="the expert's"),
    ] = None,
    histories: Annotated[
        int, Option(help="histories, a file each", rich_help_panel=HISTORIES)
    ] = DistilConfig.histories,
    steps_per_env: Annotated[
        int, Option(help="steps of each history", rich_help_panel=HISTORIES)
    ] = DistilConfig.steps_per_env,
    num_envs: Annotated[
        int, Option(help="histories collected side by side", rich_help_panel=HISTORIES)
    ] = DistilConfig.num_envs,
    power: Annotated[
        float, Option(help="exponent p of the noise schedule", rich_help_panel=HISTORIES)
    ] = DistilConfig.power,
    expert_fraction: Annotated[
        float, Option(help="last part of a history, without noise", rich_help_panel=HISTORIES)
    ] = DistilConfig.expert_fraction,
    max_steps_per_episode: Annotated[
        int, Option(help="an episode's time limit, in steps", rich_help_panel=HISTORIES)
    ] = DistilConfig.max_steps_per_episode,
    seed: Annotated[int, Option(help="seed of everything random", rich_help_panel=RUN)] = DistilConfig.seed,
    device: Annotated[str, Option(help="cpu or cuda", rich_help_panel=RUN)] = DistilConfig.device,
    resume: Annotated[bool, Option("--resume", help="collect what is missing", rich_help_panel=RUN)] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="replace earlier histories", rich_help_panel=RUN)] = False,
    json: Annotated[bool, Option("--json", help="print one JSON object last", rich_help_panel=RUN)] = False,
) -> None:
    """Collect learning histories for pretraining by noise distillation of an expert (AD-epsilon, arXiv 2312.12275)."""
    config = DistilConfig(**{k: v for k, v in locals().items() if k != "json"})

    from vintix_fast.pretrain.distil import distil as run
    from vintix_fast.report.console import ConsoleProgress, histories_table

    card = run(config, progress=ConsoleProgress(console))
    console.print(histories_table(card))
    written = f"Histories: {output_dir} ({card['env_steps']} steps in {card['seconds']:.0f} s)"
    console.print(written, highlight=False, markup=False, soft_wrap=True)
    if json:
        print_json(card)
