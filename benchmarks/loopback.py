"""One simulated robot, walked by vintix_walk in another process over UDP, and by the same policy in this one.

    make runner && python benchmarks/loopback.py --steps 1000                        # 20 s of Genesis
    make runner && python benchmarks/loopback.py --simulator mujoco --steps 30000    # ten minutes of MuJoCo
    make runner && python benchmarks/loopback.py --simulator mujoco --steps 10000 --model DIR --log FILE --explore 0.3

The runner's clock leads: the simulator makes a step when targets arrive and sends the state back.  Both ways begin the
same episodes.  With --log there is but the walk over UDP, rewarded as the task rewards it, for `vintix-fast improve`; a
robot that fell is put on its feet again.  Ends with one JSON line.
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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vintix_fast.data import read_trajectories
from vintix_fast.evaluation import task_for
from vintix_fast.export.contract import make_contract
from vintix_fast.export.policy_file import write_policy
from vintix_fast.export.reward import RewardFed
from vintix_fast.kernels.reference import rotate_into_body
from vintix_fast.model import load_checkpoint
from vintix_fast.policy import make_policy
from vintix_fast.rollout import standard_error
from vintix_fast.service.bundled import checkpoint_path
from vintix_fast.world.mujoco_simulator import MujocoSimulator
from vintix_fast.world.robot import load_robot
from vintix_fast.world.simulators import make_simulator
from vintix_fast.world.task import Simulation, StepResult, WalkingTask
from vintix_fast.world.task_config import RewardWeights, TaskConfig

EPISODE = 1000
BEGINS, FELL, LATE = 1, 2, 4
"""A state's flags; docs/deployment.md."""


class Remote:
    """States to vintix_walk, and targets back."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))
        self.socket.settimeout(5.0)

    def exchange(self, state, reward: float, flags: int) -> np.ndarray:
        gyro = rotate_into_body(state.base_quat, state.base_ang_vel_rad_s)
        arrays = [x[0].numpy() for x in (gyro, state.base_quat, state.joint_pos_rad, state.joint_vel_rad_s)]
        head = struct.pack("<4sIIf", b"VFST", 0, flags, reward)
        self.socket.send(head + b"".join(np.ascontiguousarray(x, np.float32).tobytes() for x in arrays))
        answer = self.socket.recv(1000)
        return np.frombuffer(answer[24:], np.float32)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="periods of 0.02 s; episodes of 1000")
    parser.add_argument("--simulator", choices=("genesis", "mujoco"), default="genesis")
    parser.add_argument("--model", default="builtin:without-minicheetah", help="a checkpoint with a group for go2")
    parser.add_argument("--seed", type=int, default=1, help="of the starts, and of exploration")
    parser.add_argument("--friction", type=float, help="of MuJoCo's world, as the two below; see real_robot.py")
    parser.add_argument("--motor-strength", type=float, default=1.0)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--log", type=Path, help="keep the walk's log there")
    parser.add_argument("--explore", type=float, default=0.0, help="what vintix_walk is told; with --log alone")
    args = parser.parse_args()
    args.world = {"friction": args.friction, "motor_strength": args.motor_strength, "delay_s": args.delay_s}
    if args.simulator != "mujoco" and args.world != {"friction": None, "motor_strength": 1.0, "delay_s": 0.0}:
        parser.error("--friction, --motor-strength and --delay-s are MuJoCo's: --simulator mujoco")
    if args.explore and args.log is None:
        parser.error("--explore without --log would compare a walk that explores with one that does not")
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    model, robot = load_checkpoint(checkpoint_path(args.model)), load_robot("go2")
    # There an action's change counts a step later; without that term both returns are of the same motion.
    asked = TaskConfig() if args.log else TaskConfig(reward=RewardWeights(action_rate=0.0))
    simulator: Simulation
    if args.simulator == "mujoco":
        simulator = MujocoSimulator(robot, 1, **args.world)
    else:
        simulator = make_simulator(args.simulator, robot, 1, "cpu", asked, print)
    task = WalkingTask(simulator, robot, EPISODE, task_config=asked)
    remote_task = WalkingTask(simulator, robot, EPISODE, task_config=replace(asked, latency_steps=0))
    default, scale = np.float32(robot.default_pose_rad), asked.action_scale_rad
    low, high = robot.joint_range_rad.astype(np.float32).T

    def here() -> list[Episode]:
        """The package's own policy; targets are cut to the joints' ranges, as the runner does."""
        own = make_policy(model, task_for(model, robot), 1, model.config.context_len)
        policy = RewardFed(own, task.config, robot.layout, task.most_reward)
        observation, episodes = task.reset(args.seed, random_starts=True), Episodes()
        for _ in range(args.steps):
            action = policy.act(observation, task.step_num.clone())
            target = np.clip(default + np.float32(scale) * action.numpy(), low, high)
            result = task.step(torch.from_numpy((target - default) / np.float32(scale)))
            policy.observe(action, result.reward)
            observation = result.observation
            episodes.add(result)
        return episodes.all

    def there(policy: Path, log: Path) -> tuple[list[Episode], dict]:
        program = Path(__file__).parents[1] / "build/runner/native/vintix_walk"
        port = free_port()
        words = {"--stand": 0, "--log": log, "--port": port, "--explore": args.explore, "--seed": args.seed}
        command = [program, policy, *(str(word) for pair in words.items() for word in pair)]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert running.stderr is not None
            if "listening" not in (said := running.stderr.readline()):
                raise SystemExit(said)
            # As on a robot, other programs must not take the processor; needs the right to do so.
            for process in (0, running.pid):
                os.sched_setscheduler(process, os.SCHED_FIFO, os.sched_param(10))
            remote, episodes, reward, flags = Remote(port), Episodes(), float("nan"), BEGINS
            remote_task.reset(args.seed, random_starts=True)
            for _ in range(args.steps):
                target = remote.exchange(simulator.state(), reward, flags)
                # The latency is in the targets already.
                result = remote_task.step(torch.from_numpy((target - default) / np.float32(scale))[None])
                reward = float(result.reward)
                flags = BEGINS * bool(result.done) | FELL * bool(result.terminated) | LATE * bool(result.truncated)
                episodes.add(result)
            running.send_signal(signal.SIGTERM)
            out, said = running.communicate()
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            print(said, end="", flush=True)
            return episodes.all, json.loads(out)
        finally:
            running.kill()
            running.communicate()

    with tempfile.TemporaryDirectory() as folder:
        # As `vintix-fast export` does, without the ONNX that nobody reads here.
        policy = Path(folder) / "policy.bin"
        write_policy(policy, model, make_contract(model, robot))
        log = args.log or Path(folder) / "trajectories.h5"
        remote, record = there(policy, log)
        logged = sum(len(history) for history in read_trajectories(log).histories)
        found = {"simulated_steps": args.steps, "simulator": args.simulator, "logged_steps": logged} | record
        found |= {"over_udp": summary(remote)} if args.log else compared(remote, here())
        print(json.dumps(found))


@dataclass
class Episode:
    """One episode, the last of which may be cut short."""

    return_: float = 0.0
    steps: int = 0
    fell: bool = False


class Episodes:
    """Adds steps up."""

    def __init__(self) -> None:
        self.all: list[Episode] = []
        self._begins = True

    def add(self, result: StepResult) -> None:
        if self._begins:
            self.all.append(Episode())
        last = self.all[-1]
        last.return_ += float(result.reward)
        last.steps += 1
        last.fell, self._begins = bool(result.terminated), bool(result.done)


def summary(episodes: list[Episode]) -> dict:
    """Of whole episodes; of all of them where none is whole."""
    whole = [e for e in episodes if e.steps == EPISODE or e.fell] or episodes
    returns = [e.return_ for e in whole]
    return {
        "episodes": len(whole),
        "mean_return": sum(returns) / len(returns),
        "standard_error": standard_error(returns),
        "falls": sum(e.fell for e in whole),
    }


def compared(over_udp: list[Episode], in_process: list[Episode]) -> dict:
    """Both ways, and the largest difference of one episode's return."""
    found: dict = {"over_udp": summary(over_udp), "in_process": summary(in_process)}
    apart = [abs(a.return_ - b.return_) for a, b in zip(over_udp, in_process, strict=False)]
    return found | {"returns_apart_at_most": max(apart)}


if __name__ == "__main__":
    main()
