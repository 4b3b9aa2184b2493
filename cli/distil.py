"""``vintix-fast distil``: learning histories of one robot, from random actions to its expert's."""

from __future__ import annotations

from typing import Any

from vintix_fast.cli.common import Json, console, progress, show, takes
from vintix_fast.pretrain.config import DistilConfig


@takes(DistilConfig)
def distil(json: Json = False, **options: Any) -> Any:
    """Collect learning histories for pretraining by noise distillation of an expert (AD-epsilon, arXiv 2312.12275)."""
    config = DistilConfig.from_options(**options)

    from vintix_fast.pretrain.distil import distil as run
    from vintix_fast.service.console import histories_table

    card = run(config, progress=progress())
    console.print(histories_table(card))
    show(console, f"Histories: {config.output_dir} ({card['env_steps']} steps in {card['seconds']:.0f} s)")
    return card
