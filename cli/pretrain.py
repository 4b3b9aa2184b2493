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


def _setting(name: str, help: str, panel: str) -> Any:
    """An option that is left to the file or the default where it is not given, and shows that default."""
    return Option(help=help, rich_help_panel=panel, show_default=_default(name))


@reports_errors
def pretrain(
    data: Annotated[list[Path], Option(help="a robot's histories; once for each robot", rich_help_panel=MAIN)],
    output_dir: Annotated[Path, Option(help="where the model goes", rich_help_panel=MAIN)],
    config: Annotated[
        Path | None,
        Option(help="TOML file with a table \\[model] and any of the options of training", rich_help_panel=MAIN),
    ] = None,
    model: Annotated[
        list[str] | None,
        Option(help="KEY=VALUE of the architecture, as in config.json; repeatable", rich_help_panel=MAIN),
    ] = None,
    init_from: Annotated[
        Path | None,
        Option(
            help="checkpoint to go on from, or builtin:<name>; robots that it lacks get groups of their own",
            rich_help_panel=MAIN,
            show_default="random weights",
        ),
    ] = None,
    target: Annotated[
        str | None, _setting("target", "predict the expert's action at each step, or the executed action", MAIN)
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
    steps: Annotated[int | None, _setting("steps", "optimiser steps", TRAINING)] = None,
    batch_size: Annotated[int | None, _setting("batch_size", "windows per step", TRAINING)] = None,
    window_len: Annotated[int | None, _setting("window_len", "steps in a window", TRAINING)] = None,
    long_window_len: Annotated[
        int | None, _setting("long_window_len", "steps in a window at the end", TRAINING)
    ] = None,
    long_steps: Annotated[
        int | None, _setting("long_steps", "optimiser steps with long windows, the last ones", TRAINING)
    ] = None,
    lr: Annotated[float | None, _setting("lr", "peak learning rate", TRAINING)] = None,
    warmup_steps: Annotated[int | None, _setting("warmup_steps", "steps up to the peak", TRAINING)] = None,
    weight_decay: Annotated[float | None, _setting("weight_decay", "of AdamW", TRAINING)] = None,
    bf16: Annotated[bool | None, _setting("bf16", "multiply matrices in bfloat16", TRAINING)] = None,
    held_out: Annotated[float | None, _setting("held_out", "share of histories for validation", RUN)] = None,
    eval_interval: Annotated[
        int | None, _setting("eval_interval", "steps from one validation and saved state to the next", RUN)
    ] = None,
    seed: Annotated[int | None, _setting("seed", "seed of everything random", RUN)] = None,
    device: Annotated[str | None, _setting("device", "cpu or cuda", RUN)] = None,
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
        Path | None,
        Option(help="TOML file with a table \\[model] and pretrain's options of training", rich_help_panel=MAIN),
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
