"""What varied worlds cost: collection with them and without, in turns, in processor time.

    python benchmarks/varied_collection.py

Prints a line for each world and one of JSON.  ``alike`` varies by a thousandth: the robots walk as in the plain world,
so that its cost is that of keeping bodies apart and giving them anew; ``apart`` also falls more often.
"""

from __future__ import annotations

import json
import statistics
import time

from vintix_fast.evaluation import task_for
from vintix_fast.model import load_checkpoint
from vintix_fast.policy import make_policy
from vintix_fast.rollout import collect
from vintix_fast.service.bundled import checkpoint_path
from vintix_fast.world.robot import load_robot
from vintix_fast.world.simulator import Simulator
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.task_config import TaskConfig
from vintix_fast.world.variation import Variation

WORLDS = {
    "plain": "",
    "alike": "payload_kg=0:0.001, motor=0.999:1, friction=0.999:1",
    "apart": "payload_kg=0:5, motor=0.7:1, friction=0.4:1.2",
}
NUM_ENVS, STEPS, ROUNDS = 50, 500, 7


def main() -> None:
    robot, model = load_robot("go2"), load_checkpoint(checkpoint_path("builtin:without-minicheetah"))
    policy = make_policy(model, task_for(model, robot), NUM_ENVS, model.config.context_len)
    tasks = {}
    for name, text in WORLDS.items():
        config = TaskConfig(vary=Variation.parse(text))
        simulator = Simulator(robot, NUM_ENVS, "cpu", print, config.vary)
        tasks[name] = WalkingTask(simulator, robot, task_config=config)
        collect(tasks[name], policy, seed=5, random_starts=True, steps_per_env=50)  # warm
    seconds: dict[str, list[float]] = {name: [] for name in WORLDS}
    for seed in range(ROUNDS):
        for name, task in tasks.items():
            started = time.process_time()
            collect(task, policy, seed=seed, random_starts=True, steps_per_env=STEPS)
            seconds[name].append(time.process_time() - started)
    found = {}
    for name, spent in seconds.items():
        ratios = [a / b for a, b in zip(spent, seconds["plain"], strict=True)]
        found[name] = {
            "steps_per_cpu_s": round(NUM_ENVS * STEPS / statistics.median(spent)),
            "slower": statistics.median(ratios) - 1.0,
            "slower_from_to": [min(ratios) - 1.0, max(ratios) - 1.0],
        }
        line = "{steps_per_cpu_s} steps in a second of one core, {slower:+.1%} time".format(**found[name])
        print(f"{name}: {line} ({WORLDS[name] or 'nothing varies'})")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
