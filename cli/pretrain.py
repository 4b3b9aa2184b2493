"""``vintix-fast pretrain`` and ``leave-one-out``: whole models from several robots' histories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from vintix_fast.cli.common import Json, console, progress, show, takes
from vintix_fast.pretrain.config import PretrainConfig, read_pretrain_config
from vintix_fast.run_config import MAIN

Config = Annotated[
    Path | None,
    Option(help="TOML file with a table \\[model] and any of pretrain's options of training", rich_help_panel=MAIN),
]
Model = Annotated[
    list[str] | None,
    Option(help="KEY=VALUE of the architecture, as in config.json; repeatable", rich_help_panel=MAIN),
]
Models = Annotated[Path, Option(help="where without-<robot>/ go", rich_help_panel=MAIN)]


@takes(PretrainConfig)
def pretrain(config: Config = None, model: Model = None, json: Json = False, **options: Any) -> Any:
    """Train a whole Vintix on several robots' histories, a group for each robot."""
    settings = read_pretrain_config(config, model, **options)

    from vintix_fast.pretrain.pretrain import MODEL_DIR
    from vintix_fast.pretrain.pretrain import pretrain as run

    card = run(settings, progress=progress())
    if not card:  # another rank than the first
        return
    _say_trained(settings.output_dir / MODEL_DIR, card)
    return card


@takes(PretrainConfig, only=("data", "resume", "overwrite"))
def leave_one_out(*, output_dir: Models, config: Config = None, json: Json = False, **options: Any) -> Any:
    """For each robot, train the model that never saw it: `pretrain` on the others' histories."""
    settings = read_pretrain_config(config, output_dir=output_dir, **options)

    from vintix_fast.pretrain.leave_one_out import leave_one_out as run
    from vintix_fast.pretrain.pretrain import MODEL_DIR

    cards = run(settings, progress=progress())
    for name, card in cards.items():
        _say_trained(settings.output_dir / name / MODEL_DIR, card)
    return cards


def _say_trained(path: Path, card: dict[str, Any]) -> None:
    size = f"{card['steps']} steps, {card['tokens'] / 1e6:.1f} million tokens, {card['seconds']:.0f} s"
    show(console, f"Model: {path} ({size})")
