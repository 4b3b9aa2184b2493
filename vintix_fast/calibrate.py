"""How many environments a CPU steps fastest side by side, found by trying.

Scenes of growing numbers in this process: once the first is built, another takes about a second.  Knows nothing about
policies, whose time for an environment does not depend on how many there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from vintix_fast.config import MAX_ENVS, AdaptConfig
from vintix_fast.robots import Robot
from vintix_fast.sim import Simulator

TRIAL_S = 0.5
RESTLESSNESS_RAD = 0.1
WORTH = 1.1
"""What counts as faster: two trials of the same scene differ by nearly a tenth."""


def build_simulator(config: AdaptConfig, robot: Robot, fit: int | None, say: Callable[[str], None]) -> Simulator:
    """A run's simulator, with as many environments as ``config`` says, or on a CPU perhaps more where it says nothing.

    Args:
        fit: environments for which there is memory; None: not known.
        say: told what is built and measured.
    """

    def build(num_envs: int) -> Simulator:
        return Simulator(robot, num_envs, config.engine.device, say, config.planned_steps)

    simulator = build(config.envs)
    if config.num_envs is not None or config.engine.device != "cpu" or simulator.compiles_each_scene:
        return simulator
    return fastest(simulator, build, min(config.most_envs, fit or MAX_ENVS), say)


def steps_per_s(simulator: Simulator) -> float:
    """Environment steps a second of robots that move a little, over half a second; leaves the scene reset."""
    pose = torch.tensor(simulator.robot.default_pose_rad).expand(simulator.num_envs, -1)
    generator, steps, started = torch.Generator().manual_seed(0), 0, time.perf_counter()
    while time.perf_counter() < started + TRIAL_S:
        simulator.step(pose + RESTLESSNESS_RAD * torch.randn(pose.shape, generator=generator))
        steps += 1
    rate = steps * simulator.num_envs / (time.perf_counter() - started)
    simulator.reset_scene()
    return rate


def fastest(
    simulator: Simulator, build: Callable[[int], Simulator], most: int, say: Callable[[str], None]
) -> Simulator:
    """``simulator``, or one of twice as many environments, and twice that, as long as it pays.

    Args:
        build: makes a simulator of so many environments.
        most: environments, no matter how fast.
        say: told what was measured, and how to have the same number again.
    """
    if simulator.num_envs >= most:
        return simulator
    rate = steps_per_s(simulator)
    measured = {simulator.num_envs: rate}
    while simulator.num_envs < most:
        larger = build(min(2 * simulator.num_envs, most))
        measured[larger.num_envs] = steps_per_s(larger)
        if measured[larger.num_envs] < WORTH * rate:
            break
        simulator, rate = larger, measured[larger.num_envs]
    rates = ", ".join(f"{number}: {steps:,.0f}" for number, steps in measured.items())
    say(
        f"Steps a second of the simulator by number of environments: {rates}; --num-envs {simulator.num_envs} takes "
        "this run's number again"
    )
    return simulator
