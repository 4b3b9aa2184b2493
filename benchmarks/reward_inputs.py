"""What a model returns that is told another reward than the true one: the table of docs/deployment.md.

    python benchmarks/reward_inputs.py --robot go2 --seeds 1,2,3

One JSON line for each model, seed and reward.  Each is an evaluation as `vintix-fast eval` makes it, in Genesis.
"""

from __future__ import annotations

import argparse
import json

from vintix_fast.evaluation import measure, task_for
from vintix_fast.export.reward import RewardFed, constant_reward
from vintix_fast.model import load_checkpoint
from vintix_fast.policy import make_policy
from vintix_fast.service.bundled import checkpoint_path
from vintix_fast.service.progress import Progress
from vintix_fast.world.robot import load_robot
from vintix_fast.world.simulator import Simulator
from vintix_fast.world.task import WalkingTask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="builtin:without-minicheetah,builtin:without-go1,builtin:without-a1")
    parser.add_argument("--robot", default="go2")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--num-envs", type=int, default=100)
    parser.add_argument("--episodes-per-env", type=int, default=1)
    args = parser.parse_args()
    robot = load_robot(args.robot)
    simulator = Simulator(robot, args.num_envs)
    task = WalkingTask(simulator, robot)
    for name in args.models.split(","):
        model = load_checkpoint(checkpoint_path(name))
        task_name = task_for(model, robot)
        own_mean = None
        for seed in map(int, args.seeds.split(",")):
            # The first run measures what the model's own mean is.
            kinds = {"true": None, "constant: own mean": own_mean, "constant: 0": 0.0}
            kinds["constant: export's"] = constant_reward(model.tasks[task_name], task.config)
            for kind in ["true", *list(kinds)[1:], "estimate"]:
                if kind == "constant: own mean":
                    kinds[kind] = own_mean
                policy = make_policy(model, task_name, args.num_envs, model.config.context_len)
                if kind != "true":
                    policy = RewardFed(policy, task.config, robot.layout, kinds.get(kind))
                found = measure(task, policy, args.num_envs * args.episodes_per_env, seed, True, Progress())
                per_step = sum(found.returns) / found.env_steps
                own_mean = per_step if own_mean is None else own_mean
                record = {"model": name, "seed": seed, "reward": kind, "told": kinds.get(kind), "per_step": per_step}
                print(json.dumps(record | found.summary()), flush=True)


if __name__ == "__main__":
    main()
