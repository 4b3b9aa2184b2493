"""``vintix-fast pretrain`` and ``leave-one-out``: whole models from several robots' histories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from vintix_fast.cli.common import console, print_json, reports_errors
from vintix_fast.pretrain.config import PretrainConfig, read_pretrain_config

MAIN, TRAINING, RUN = "Main", "Training", "Run"


def _default(name: str) -> str:
    value = getattr(PretrainConfig, name)
    return str(value).lower() if isinstance(value, bool) else str(value)


@reports_errors
def pretrain(
    data: Annotated[list[Path], Option(help="a robot's histories; once for each robot", rich_help_panel=MAIN)],
    output_dir: Annotated[Path, Option(help="where the model goes", rich_help_panel=MAIN)],
    config: Annotated[
        Path | None, Option(help="TOML file with any of these options, and a table [model]", rich_help_panel=MAIN)
    ] = None,
    model: Annotated[
        list[str] | None,
        Option(help="KEY=VALUE of the architecture, as in config.json; repeatable", rich_help_panel=MAIN),
    ] = None,
    target: Annotated[
        str | None,
        Option(
            help="predict the expert's action at each step, or the executed action",
            rich_help_panel=MAIN,
            show_default=_default("target"),
        ),
    ] = None,
    shared_group: Annotated[
        bool | None,
        Option(
            "--shared-group/--own-groups",
            help="one group for all robots, or one each",
            rich_help_panel=MAIN,
            show_default="own groups",
        ),
    ] = None,
    steps: Annotated[
        int | None, Option(help="optimiser steps", rich_help_panel=TRAINING, show_default=_default("steps"))
    ] = None,
    batch_size: Annotated[
        int | None, Option(help="windows per step", rich_help_panel=TRAINING, show_default=_default("batch_size"))
    ] = None,
    window_len: Annotated[
        int | None, Option(help="steps in a window", rich_help_panel=TRAINING, show_default=_default("window_len"))
    ] = None,
    long_window_len: Annotated[
        int | None,
        Option(help="steps in a window at the end", rich_help_panel=TRAINING, show_default=_default("long_window_len")),
    ] = None,
    long_steps: Annotated[
        int | None,
        Option(
            help="optimiser steps with long windows, the last ones",
            rich_help_panel=TRAINING,
            show_default=_default("long_steps"),
        ),
    ] = None,
    lr: Annotated[
        float | None, Option(help="peak learning rate", rich_help_panel=TRAINING, show_default=_default("lr"))
    ] = None,
    warmup_steps: Annotated[
        int | None,
        Option(help="steps up to the peak", rich_help_panel=TRAINING, show_default=_default("warmup_steps")),
    ] = None,
    weight_decay: Annotated[
        float | None, Option(help="of AdamW", rich_help_panel=TRAINING, show_default=_default("weight_decay"))
    ] = None,
    bf16: Annotated[
        bool | None,
        Option(help="multiply matrices in bfloat16", rich_help_panel=TRAINING, show_default=_default("bf16")),
    ] = None,
    held_out: Annotated[
        float | None,
        Option(help="share of histories for validation", rich_help_panel=RUN, show_default=_default("held_out")),
    ] = None,
    eval_interval: Annotated[
        int | None,
        Option(
            help="steps from one validation and saved state to the next",
            rich_help_panel=RUN,
            show_default=_default("eval_interval"),
        ),
    ] = None,
    seed: Annotated[
        int | None, Option(help="seed of everything random", rich_help_panel=RUN, show_default=_default("seed"))
    ] = None,
    device: Annotated[
        str | None, Option(help="cpu or cuda", rich_help_panel=RUN, show_default=_default("device"))
    ] = None,
    resume: Annotated[bool, Option("--resume", help="go on with an interrupted run", rich_help_panel=RUN)] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="replace an earlier run", rich_help_panel=RUN)] = False,
    json: Annotated[bool, Option("--json", help="print one JSON object last", rich_help_panel=RUN)] = False,
) -> None:
    """Train a whole Vintix on several robots' histories, a group for each robot."""
    settings = read_pretrain_config(**{k: v for k, v in locals().items() if k != "json"})

    from vintix_fast.pretrain.pretrain import MODEL_DIR
    from vintix_fast.pretrain.pretrain import pretrain as run
    from vintix_fast.report.console import ConsoleProgress

    card = run(settings, progress=ConsoleProgress(console))
    _say_trained(settings.output_dir / MODEL_DIR, card)
    if json:
        print_json(card)


@reports_errors
def leave_one_out(
    data: Annotated[list[Path], Option(help="a robot's histories; once for each robot", rich_help_panel=MAIN)],
    output_dir: Annotated[Path, Option(help="where without-<robot>/ go", rich_help_panel=MAIN)],
    config: Annotated[
        Path | None, Option(help="TOML file with pretrain's options, and a table [model]", rich_help_panel=MAIN)
    ] = None,
    resume: Annotated[bool, Option("--resume", help="go on with an interrupted run", rich_help_panel=RUN)] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="replace an earlier run", rich_help_panel=RUN)] = False,
    json: Annotated[bool, Option("--json", help="print one JSON object last", rich_help_panel=RUN)] = False,
) -> None:
    """For each robot, train the model that never saw it: `pretrain` on the others' histories."""
    settings = read_pretrain_config(**{k: v for k, v in locals().items() if k != "json"})

    from vintix_fast.pretrain.pretrain import MODEL_DIR
    from vintix_fast.pretrain.pretrain import leave_one_out as run
    from vintix_fast.report.console import ConsoleProgress

    cards = run(settings, progress=ConsoleProgress(console))
    for name, card in cards.items():
        _say_trained(settings.output_dir / name / MODEL_DIR, card)
    if json:
        print_json(cards)


def _say_trained(path: Path, card: dict[str, Any]) -> None:
    text = f"Model: {path} ({card['steps']} steps, {card['tokens'] / 1e6:.1f} million tokens, {card['seconds']:.0f} s)"
    console.print(text, highlight=False, markup=False, soft_wrap=True)
