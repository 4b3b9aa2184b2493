"""The gate: a short evaluation after each loop that keeps the best model and undoes a worse one.

Every evaluation of a run begins from the same randomised starts.  An environment's first episode has a cold context,
its later ones the episodes before; the mean over both decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vintix_fast.config import AdaptConfig
from vintix_fast.evaluate import Evaluation, measure, standard_error
from vintix_fast.model import Vintix, load_checkpoint, save_checkpoint
from vintix_fast.report.progress import Progress
from vintix_fast.rollout import make_policy
from vintix_fast.run import Run
from vintix_fast.task import WalkingTask


def evaluate_for_gate(
    config: AdaptConfig, what: str, task: WalkingTask, model: Vintix, task_name: str, progress: Progress
) -> Evaluation:
    """``config.gate.episodes`` episodes without noise, whose starts depend on the run's seed alone."""
    policy = make_policy(model, task_name, task.num_envs, config.context_len, **config.engine.policy_options)
    with progress.rollout(what, config.gate.episodes, config.max_steps_per_episode):
        return measure(task, policy, config.gate.episodes, config.seed, True, progress)


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """A row's columns; ``eval_warm_return`` only where environments had more than one episode."""
    by_number = evaluation.by_episode_number()
    warm = [e.return_ for e in evaluation.episodes if e.number > 0]
    return {
        "eval_return": evaluation.mean_return,
        "eval_std_return": evaluation.std_return,
        "eval_standard_error": standard_error([e.return_ for e in evaluation.episodes]),
        "eval_cold_return": by_number[0],
        **({"eval_warm_return": float(np.mean(warm))} if warm else {}),
        "eval_length": evaluation.mean_length,
        "eval_env_steps": evaluation.env_steps,
        "eval_seconds": evaluation.seconds,
    }


def measure_initial(
    config: AdaptConfig, run: Run, task: WalkingTask, task_name: str, progress: Progress
) -> dict[str, Any]:
    """Evaluate the initial policy, which is the best until a loop beats it; returns row 0."""
    model = load_checkpoint(run.model_dir(0), config.engine.device)
    evaluation = evaluate_for_gate(config, "evaluating the initial policy", task, model, task_name, progress)
    run.best = {"loop": 0, "return": evaluation.mean_return}
    save_checkpoint(model, run.best_dir)
    return {"loop": 0, "accepted": True} | numbers(evaluation)


def gate(
    config: AdaptConfig, run: Run, loop: int, task: WalkingTask, model: Vintix, task_name: str, progress: Progress
) -> dict[str, Any]:
    """Keep the loop's model if it is the best so far; otherwise the next loop starts from the best again."""
    evaluation = evaluate_for_gate(config, f"loop {loop}: evaluating", task, model, task_name, progress)
    accepted = evaluation.mean_return > run.best["return"]
    if accepted:
        run.best = {"loop": loop, "return": evaluation.mean_return}
        save_checkpoint(model, run.best_dir)
    return {"accepted": accepted} | numbers(evaluation)
