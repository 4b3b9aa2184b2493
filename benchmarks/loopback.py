"""One robot in Genesis, walked by vintix_walk in another process over UDP, and by the same policy in this one.

    make runner && python benchmarks/loopback.py --steps 1000

The runner's clock leads: the simulator makes a step when targets arrive and sends the state back.  JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vintix_fast.data import read_trajectories
from vintix_fast.export import export_model
from vintix_fast.export.reward import RewardFed
from vintix_fast.kernels.reference import rotate_into_body
from vintix_fast.model import load_checkpoint
from vintix_fast.policy import make_policy
from vintix_fast.service.bundled import checkpoint_path
from vintix_fast.world.robot import load_robot
from vintix_fast.world.simulator import Simulator
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.task_config import RewardWeights, TaskConfig

PORT = 9870


class Remote:
    """States to vintix_walk, and targets back."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", PORT))
        self.socket.settimeout(5.0)

    def exchange(self, state, reward: float, flags: int) -> np.ndarray:
        gyro = rotate_into_body(state.base_quat, state.base_ang_vel_rad_s)
        arrays = [x[0].numpy() for x in (gyro, state.base_quat, state.joint_pos_rad, state.joint_vel_rad_s)]
        head = struct.pack("<4sIIf", b"VFST", 0, flags, reward)
        self.socket.send(head + b"".join(np.ascontiguousarray(x, np.float32).tobytes() for x in arrays))
        answer = self.socket.recv(1000)
        return np.frombuffer(answer[24:], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, robot, name = (
        load_checkpoint(checkpoint_path("builtin:without-minicheetah")),
        load_robot("go2"),
        "go2_walking_ad",
    )
    simulator = Simulator(robot, 1)
    # There an action's change would count a step later; without that term both returns are of the same motion.
    asked = TaskConfig(reward=RewardWeights(action_rate=0.0))
    task = WalkingTask(simulator, robot, args.steps + 1, task_config=asked)
    remote_task = WalkingTask(simulator, robot, args.steps + 1, task_config=replace(asked, latency_steps=0))

    def here() -> float:
        policy = RewardFed(make_policy(model, name, 1, 2048), task.config, robot.layout, task.most_reward)
        observation, total = task.reset(1, random_starts=True), 0.0
        for _ in range(args.steps):
            action = policy.act(observation, task.step_num.clone())
            result = task.step(action)
            policy.observe(action, result.reward)
            total, observation = total + float(result.reward), result.observation
        return total

    def there(policy: Path, log: Path) -> tuple[float, dict]:
        program = Path(__file__).parents[1] / "build/runner/native/vintix_walk"
        command = [program, policy, "--stand", "0", "--log", log, "--port", str(PORT)]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert running.stderr is not None and "listening" in running.stderr.readline()
            # As on a robot, other programs must not take the processor; needs the right to do so.
            for process in (0, running.pid):
                os.sched_setscheduler(process, os.SCHED_FIFO, os.sched_param(10))
            remote, total, reward = Remote(), 0.0, float("nan")
            remote_task.reset(1, random_starts=True)
            for t in range(args.steps):
                target = remote.exchange(simulator.state(), reward, int(t == 0))
                # The latency is in the targets already.
                due = torch.from_numpy((target - np.float32(robot.default_pose_rad)) / task.config.action_scale_rad)
                result = remote_task.step(due[None])
                reward = float(result.reward)
                total += reward
            running.send_signal(signal.SIGTERM)
            out, said = running.communicate()
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            print(said, end="", flush=True)
            return total, json.loads(out)
        finally:
            running.kill()
            running.communicate()

    with tempfile.TemporaryDirectory() as folder:
        export_model(model, robot, Path(folder) / "out")
        remote, record = there(Path(folder) / "out/policy.bin", Path(folder) / "trajectories.h5")
        logged = read_trajectories(Path(folder) / "trajectories.h5").histories[0]
        print(
            json.dumps({"steps": args.steps, "over_udp": remote, "here": here(), "logged_steps": len(logged)} | record)
        )


if __name__ == "__main__":
    main()
