"""``vintix-fast adapt``: self-improvement on one robot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from vintix_fast.cli.common import (
    ENGINE,
    CacheDtype,
    DroppedMass,
    Engine,
    console,
    number_of_envs,
    print_json,
    reports_errors,
)
from vintix_fast.config import BUILTIN_CHECKPOINT, AdaptConfig

MAIN, LEARNING, RUN = "Main", "Learning", "Run"


@reports_errors
def adapt(
    robot_type: Annotated[
        str, Option(help="go1, go2, minicheetah, unitreea1 (= a1), or a robot file (.toml)", rich_help_panel=MAIN)
    ],
    output_dir: Annotated[Path, Option(help="where data and models go", rich_help_panel=MAIN)],
    pretrained_path: Annotated[
        Path,
        Option(
            help="directory with model.pth, metadata.json, config.json; or builtin:<name>, see `models`",
            rich_help_panel=MAIN,
            show_default="the bundled checkpoint",
        ),
    ] = BUILTIN_CHECKPOINT,
    reference_robot: Annotated[str, Option(help="whose encoder and decoder are copied", rich_help_panel=MAIN)] = "go2",
    num_improvement_loops: Annotated[int, Option(help="loops of collection and fine-tuning", rich_help_panel=MAIN)] = 5,
    episodes_per_loop: Annotated[int, Option(help="complete episodes collected in a loop", rich_help_panel=MAIN)] = 50,
    finetune_steps_per_loop: Annotated[int, Option(help="optimiser steps in a loop", rich_help_panel=MAIN)] = 1000,
    max_steps_per_episode: Annotated[
        int, Option(help="an episode's time limit, in steps", rich_help_panel=MAIN)
    ] = 1000,
    context_len: Annotated[int, Option(help="steps of history that the policy sees", rich_help_panel=MAIN)] = 2048,
    batch_size: Annotated[int, Option(help="windows per optimiser step", rich_help_panel=MAIN)] = 4,
    lr: Annotated[float, Option(help="peak learning rate", rich_help_panel=MAIN)] = 1e-4,
    seed: Annotated[int, Option(help="seed of everything random", rich_help_panel=MAIN)] = 5,
    num_envs: Annotated[
        int | None,
        Option(
            help="environments side by side, or auto: half as many as episodes; on a CPU at most 64",
            rich_help_panel=ENGINE,
            parser=number_of_envs,
            metavar="INTEGER|auto",
            show_default="auto",
        ),
    ] = None,
    min_steps_per_loop: Annotated[
        int, Option(help="run a loop's episodes again until they give this many steps", rich_help_panel=ENGINE)
    ] = 0,
    device: Annotated[str, Option(help="cpu or cuda", rich_help_panel=ENGINE)] = "cpu",
    engine: Engine = "auto",
    cache_dtype: CacheDtype = None,
    dropped_mass: DroppedMass = None,
    improver: Annotated[
        str,
        Option(
            help="critic: climb a critic's gradient; clone: imitate all that was executed, the control",
            rich_help_panel=LEARNING,
        ),
    ] = "critic",
    noise: Annotated[
        float, Option(help="largest exploration noise, in action units; 0 for none", rich_help_panel=LEARNING)
    ] = AdaptConfig.noise,
    noise_ladder: Annotated[
        bool, Option(help="from none to --noise over the environments, or --noise in all", rich_help_panel=LEARNING)
    ] = True,
    improvement_step: Annotated[
        float, Option(help="how far the critic moves actions, in action units", rich_help_panel=LEARNING)
    ] = AdaptConfig.improvement_step,
    critic_updates: Annotated[
        int, Option(help="critic updates in a loop", rich_help_panel=LEARNING)
    ] = AdaptConfig.critic_updates,
    replay: Annotated[
        str,
        Option(
            help="learn from current: what the loop's own model collected; all: every collection",
            rich_help_panel=LEARNING,
        ),
    ] = "current",
    window_len: Annotated[
        int | None,
        Option(help="most steps in a training window", rich_help_panel=LEARNING, show_default="the context length"),
    ] = None,
    train_on: Annotated[
        str,
        Option(help="fine-tune on last: the last loop's histories; all: the replay's", rich_help_panel=LEARNING),
    ] = "last",
    train: Annotated[
        str, Option(help="adapter: encoders and decoder; decoder: the decoder alone", rich_help_panel=LEARNING)
    ] = "adapter",
    bf16: Annotated[
        bool | None,
        Option(
            help="fine-tune in bfloat16", rich_help_panel=LEARNING, show_default="where the processor multiplies it"
        ),
    ] = None,
    init_map: Annotated[
        str,
        Option(
            help="convert: turn the copied adapter's joints to the robot's axes; none: plain copy",
            rich_help_panel=LEARNING,
        ),
    ] = "convert",
    group: Annotated[
        str,
        Option(
            help="own: a group that changes no other robot; shared: the checkpoint's, with all robots that use it",
            rich_help_panel=LEARNING,
        ),
    ] = "own",
    obs_stats: Annotated[
        Path | None,
        Option(
            help="JSON file with obs_mean and obs_std for the new group",
            rich_help_panel=LEARNING,
            show_default="the reference robot's, converted",
        ),
    ] = None,
    random_starts: Annotated[
        bool, Option(help="collect from starts moved by up to 0.1 rad and 5 degrees", rich_help_panel=LEARNING)
    ] = True,
    reinitialize: Annotated[
        bool, Option(help="copy the reference even if the checkpoint has this robot's group", rich_help_panel=LEARNING)
    ] = False,
    gate: Annotated[
        bool, Option(help="evaluate every loop and go on from the best model only", rich_help_panel=LEARNING)
    ] = True,
    gate_episodes: Annotated[int, Option(help="episodes of that evaluation", rich_help_panel=LEARNING)] = 50,
    target_return: Annotated[
        float | None,
        Option(help="stop when that evaluation reaches this return", rich_help_panel=LEARNING, show_default="never"),
    ] = None,
    token_order: Annotated[
        str | None,
        Option(
            help="action-reward-observation or observation-action-reward",
            rich_help_panel=RUN,
            show_default="the checkpoint's; the former where it does not say",
        ),
    ] = None,
    resume: Annotated[bool, Option("--resume", help="go on with an interrupted run", rich_help_panel=RUN)] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="replace an earlier run", rich_help_panel=RUN)] = False,
    json: Annotated[bool, Option("--json", help="print one JSON object last", rich_help_panel=RUN)] = False,
) -> None:
    """Adapt a pretrained model to a robot by self-improvement, in the Genesis simulator.

    Collects episodes with the current policy, fine-tunes only the robot's own encoders and decoder, and repeats.
    """
    options = {k: v for k, v in locals().items() if k != "json"}
    config = AdaptConfig(**options)

    from vintix_fast.adapt import adapt as run
    from vintix_fast.report.console import ConsoleProgress, summary_table

    result = run(config, progress=ConsoleProgress(console))
    console.print(summary_table(result.rows))
    collected, evaluated, tried = (
        sum(row.get(key, 0) for row in result.rows) for key in ("env_steps", "eval_env_steps", "posture_env_steps")
    )
    steps = f"Environment steps: {collected} collected, {evaluated} more in evaluations"
    console.print(steps + (f", {tried} in trials of stances" if tried else ""), highlight=False)
    measured = [row for row in result.rows if "eval_return" in row]
    if measured:
        best = max(measured, key=lambda row: row["eval_return"])
        console.print(
            f"Return of an episode before: {measured[0]['eval_return']:.2f} (length {measured[0]['eval_length']:.0f}), "
            f"after: {best['eval_return']:.2f} (length {best['eval_length']:.0f})",
            highlight=False,
            soft_wrap=True,
        )
        if best["loop"] == 0 and len(measured) > 1:
            console.print("No loop was better than the initial policy, which is therefore kept as the best.")
    written = f"Adapted model: {result.best_model}\nCurve: {output_dir / 'curve.png'}"
    console.print(written, highlight=False, markup=False, soft_wrap=True)
    if json:
        print_json({"best_model": str(result.best_model), "last_model": str(result.last_model), "loops": result.rows})
