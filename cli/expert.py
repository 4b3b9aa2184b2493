"""``vintix-fast expert``: a walking expert for one robot, by PPO."""

from __future__ import annotations

import importlib.util
from typing import Any

from vintix_fast.cli.common import Json, console, progress, show, takes
from vintix_fast.pretrain.config import ExpertConfig
from vintix_fast.service.errors import VintixFastError


@takes(ExpertConfig)
def expert(json: Json = False, **options: Any) -> Any:
    """Train a walking expert on one robot with PPO (rsl-rl-lib), in the Genesis simulator."""
    config = ExpertConfig.from_options(**options)

    if importlib.util.find_spec("rsl_rl") is None:
        raise VintixFastError("training an expert needs rsl-rl-lib: pip install 'vintix-fast[pretrain]'")
    from vintix_fast.pretrain.expert import train_expert
    from vintix_fast.service.console import evaluation_table

    evaluation = train_expert(config, progress=progress())
    console.print(evaluation_table(evaluation))
    show(console, f"Expert: {config.output_dir}")
    return evaluation.summary() | {"expert": str(config.output_dir)}
