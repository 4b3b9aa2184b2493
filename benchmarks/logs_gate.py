"""How often `vintix-fast improve` undoes a model by the log of one walk, for models that fall so often.

    python benchmarks/logs_gate.py

Walks are drawn, not simulated: ten episodes, two on each rung of `vintix_walk --explore 0.3`.  What an episode earns,
and that on the highest rung one in two falls at least, is as in benchmarks/results/sim2sim.md.  They are judged by the
program's own gate, and, beside it, by the rule that the higher mean return wins.
"""

from __future__ import annotations

import argparse

import numpy as np

from vintix_fast.data import History
from vintix_fast.from_logs_gate import Estimate, quiet_return
from vintix_fast.logs import measured
from vintix_fast.rollout import ladder

STEPS, HIGHEST_FALLS = 1000, 0.5
EARNED = (19.9, 19.9, 19.8, 19.5, 17.3)
"""On each rung, without a fall."""
SPREAD = 0.06
AT_THE_START = 0.6, 70
"""This part of the falls comes within so many steps."""
FALLS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Chances that an episode falls."""


def walk(falls: float, rng: np.random.Generator) -> list[History]:
    histories = []
    for rung, sigma in enumerate(ladder(len(EARNED), 0.3).tolist()):
        lengths, fell = [], []
        for _ in range(2):
            fell.append(rng.random() < (max(falls, HIGHEST_FALLS) if rung == len(EARNED) - 1 else falls))
            share, soon = AT_THE_START
            length = int(rng.integers(15, soon if rng.random() < share else STEPS)) if fell[-1] else STEPS
            lengths.append(length)
        reward = [np.full(n, rng.normal(EARNED[rung], SPREAD) / STEPS, np.float32) for n in lengths]
        n = sum(lengths)
        action, ended = np.full((n, 1), sigma, np.float32), np.zeros(n, np.uint8)
        ended[np.cumsum(lengths) - 1] = fell
        extras = {"mean_action": np.zeros_like(action), "terminated": ended, "failed": np.zeros_like(ended)}
        step_num = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
        histories.append(History(np.zeros((n, 1), np.float32), action, np.concatenate(reward), step_num, extras, rung))
    return histories


def judged(walks: int, seed: int) -> dict[float, list[tuple[Estimate, float]]]:
    """By each walk of each chance of falls: what the gate thinks of it, and its mean return."""
    rng, found = np.random.default_rng(seed), {}
    for falls in FALLS:
        drawn = [walk(falls, rng) for _ in range(walks)]
        found[falls] = [(quiet_return(log, STEPS), measured(log, STEPS)["mean_return"]) for log in drawn]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walks", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    found = judged(args.walks, args.seed)
    print(
        "| the best so far falls | the new one falls | undone | undone where the higher mean wins |\n|---|---|---|---|"
    )
    for before in (0.0, 0.2):
        for after in FALLS:
            others = [found[before][i - 1] for i in range(args.walks)]  # never the same walk
            pairs = list(zip(found[after], others, strict=True))
            undone = np.mean([mine.worse_than(best) for (mine, _), (best, _) in pairs])
            lower = np.mean([mine <= best for (_, mine), (_, best) in pairs])
            print(f"| {before:.0%} | {after:.0%} | {undone:.0%} | {lower:.0%} |")


if __name__ == "__main__":
    main()
