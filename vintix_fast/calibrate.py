"""How many environments a run should step side by side when nobody says: `--num-envs auto`.

Not timed, on purpose.  The number decides which episodes begin with a warm context, so it belongs to the experiment: a
choice that followed the machine's speed of the day would give another collection for the same command and seed.  Nor
would timing pay: building one scene takes as long as a collection of 50 episodes, while the costs below differ little
between machines of a kind.  Knows nothing about models or Genesis: bytes and episodes are handed in.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vintix_fast.config import MAX_ENVS

EPISODES_PER_ENV = 2
"""The second one of an environment begins with a warm context."""
ENOUGH_ON_CPU = 64
"""Environments after which steps/s no longer rise: a step costs 0.4 ms and 0.05 ms more for each of them, so that 64
reach 9 tenths of what any number would."""
SIMULATOR_BYTES_PER_ENV = 200_000
USABLE_MEMORY = 0.5
"""Share of the free memory that the environments may fill; the rest is for the trainer and for others."""


def free_bytes(device: str) -> int | None:
    """Memory that can still be had on ``device``; None where the system does not say."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def choose_num_envs(
    num_episodes: int, cache_bytes_per_env: int, device: str = "cpu", free: int | None = None
) -> tuple[int, str]:
    """The number of environments for a collection, and the reason as a line to print.

    Args:
        num_episodes: of one collection, at least 1.
        cache_bytes_per_env: what the policy keeps for one environment's context.
        device: "cpu" or "cuda".
        free: bytes free on it; None: ask.
    """
    wanted = -(-num_episodes // EPISODES_PER_ENV)
    number, reason = wanted, f"half of {num_episodes} episodes, so that the others begin with a warm context"
    if num_episodes == 1:
        reason = "one for the only episode"
    most, why_most = (
        (ENOUGH_ON_CPU, "more are no faster on a CPU") if device == "cpu" else (MAX_ENVS, "the most allowed")
    )
    if number > most:
        number, reason = most, why_most
    free = free_bytes(device) if free is None else free
    bytes_per_env = cache_bytes_per_env + SIMULATOR_BYTES_PER_ENV
    if free is not None and number * bytes_per_env > USABLE_MEMORY * free:
        number = max(1, int(USABLE_MEMORY * free / bytes_per_env))
        reason = f"{bytes_per_env / 1e6:.1f} MB for each fill half of the {free / 1e9:.1f} GB free on {device}"
    return number, f"{number} environment{'s' * (number > 1)} ({reason})"
