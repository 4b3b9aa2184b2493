"""``vintix-fast adapt``: self-improvement on one robot."""

from __future__ import annotations

from typing import Any

from vintix_fast.cli.common import Json, console, progress, show, takes
from vintix_fast.config import AdaptConfig


@takes(AdaptConfig)
def adapt(json: Json = False, **options: Any) -> Any:
    """Adapt a pretrained model to a robot by self-improvement, in Genesis or MuJoCo.

    Collects episodes with the current policy, fine-tunes only the robot's own encoders and decoder, and repeats.
    """
    return run(AdaptConfig.from_options(**options))


def run(config: AdaptConfig) -> dict[str, Any]:
    """Adapt, and say what came of it."""
    from vintix_fast.adaptation import adapt
    from vintix_fast.service.console import summary_table

    result = adapt(config, progress=progress())
    console.print(summary_table(result.rows))
    said = {
        "env_steps": "collected",
        "eval_env_steps": "in evaluations",
        "posture_env_steps": "in trials of stances",
        "audition_env_steps": "in the audition",
    }
    counts = {key: sum(row.get(key, 0) for row in result.rows) for key in said}
    parts = ", ".join(f"{counts[key]:,} {words}" for key, words in said.items() if counts[key])
    console.print(f"Environment steps: {sum(counts.values()):,} ({parts})", highlight=False)
    measured = [row for row in result.rows if "eval_return" in row]
    if measured:
        best = max(measured, key=lambda row: row["eval_return"])
        ends = (f"{row['eval_return']:.2f} (length {row['eval_length']:.0f})" for row in (measured[0], best))
        show(console, "Return of an episode before: {}, after: {}".format(*ends))
        if best["loop"] == 0 and len(measured) > 1:
            console.print("No loop was better than the initial policy, which is therefore kept as the best.")
    show(console, f"Adapted model: {result.best_model}\nCurve: {config.output_dir / 'curve.png'}")
    return {"best_model": str(result.best_model), "last_model": str(result.last_model), "loops": result.rows}
