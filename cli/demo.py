"""``vintix-fast demo``: an adaptation that takes minutes, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vintix_fast.cli.adapt import run
from vintix_fast.cli.common import Json, takes
from vintix_fast.cli.report import report
from vintix_fast.config import AdaptConfig
from vintix_fast.service.bundled import checkpoint_path

# A model that has never seen go2, which falls within two seconds, learns to walk on it.
OPTIONS: dict[str, Any] = {
    "output_dir": Path("runs/demo"), "robot_type": "go2", "reference_robot": "go1",
    "pretrained_path": checkpoint_path("builtin:without-go2"), "num_improvement_loops": 3, "target_return": 20.0,
}  # fmt: skip
ASKED = ("output_dir", "num_improvement_loops", "seed", "device", "resume")


@takes(AdaptConfig, only=ASKED, **OPTIONS)
def demo(json: Json = False, **options: Any) -> Any:
    """Teach go2 to walk in about three minutes, and write a page on it; an earlier demo is replaced."""
    config = AdaptConfig.from_options(overwrite=not options.get("resume"), **options)
    result = run(config)
    report(config.output_dir)
    return result
