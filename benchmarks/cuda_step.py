"""The policy's step on a GPU, without a simulator: eager against a CUDA graph.

Measured with full histories of ``--context-len`` tokens, for every dtype of the cache that fits:

- the whole policy step, launched one by one and replayed from a graph: the GPU's time, and the host's to launch it;
- decode attention of one layer, and its share of the memory bandwidth measured here;
- how often the host waits for the GPU in a step of the policy with a masked reset and with columns on their way to the
  host, as far as torch's synchronisation debugging notices.

    python benchmarks/cuda_step.py --num-envs 4096

Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable

import torch

from vintix_fast.model import ContextCache, Vintix, load_checkpoint
from vintix_fast.model.cache import DTYPES
from vintix_fast.policy import GraphPolicy
from vintix_fast.rollout import HostCopies
from vintix_fast.service.bundled import BUILTIN_CHECKPOINT
from vintix_fast.world.layout import QUADRUPED

TASK = "go2_walking_ad"
SPARE_BYTES = 2 << 30  # left for activations


def times_ms(step: Callable[[], object], repeats: int = 50) -> tuple[float, float]:
    """Median time of ``step`` on the GPU, and of the host to launch it."""
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    on_device, on_host = [], []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began = time.perf_counter()
        start.record()
        step()
        end.record()
        on_host.append(1e3 * (time.perf_counter() - began))
        torch.cuda.synchronize()
        on_device.append(start.elapsed_time(end))
    return statistics.median(on_device), statistics.median(on_host)


def bandwidth_gb_s(device: torch.device) -> float:
    """Bytes read and written a second by copying 1 GiB."""
    source = torch.zeros(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / times_ms(lambda: target.copy_(source), 20)[0] / 1e6


def make_inputs(num_envs: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Observation, step number, executed action, reward."""
    observation, action = (torch.randn(num_envs, n, device=device) for n in (QUADRUPED.size, QUADRUPED.num_joints))
    step_num = torch.arange(num_envs, device=device, dtype=torch.int32) % 1000
    return observation, step_num, action, torch.randn(num_envs, device=device)


def policy_step(policy: GraphPolicy, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    observation, step_num, action, reward = inputs
    policy.begin(observation, step_num)
    mean_action = policy.finish()
    policy.observe(action, reward)
    return mean_action


def measure_policy(model: Vintix, args: argparse.Namespace, dtype: torch.dtype) -> dict[str, float]:
    """Times of a step with full histories."""
    inputs = make_inputs(args.num_envs, model.device)
    result = {}
    for name, capture in (("eager", False), ("graph", True)):
        policy = GraphPolicy(model, TASK, args.num_envs, args.context_len, dtype, capture=capture)
        policy._cache.length.fill_(args.context_len)
        result[f"{name}_ms"], result[f"{name}_host_ms"] = times_ms(lambda policy=policy: policy_step(policy, inputs))
        del policy
    return result


def measure_attention(model: Vintix, args: argparse.Namespace, dtype: torch.dtype, gb_s: float) -> dict[str, float]:
    """One layer's kernel over all environments."""
    config = model.config
    spans = model.transformer.spans(args.context_len)
    cache = ContextCache(config, args.num_envs, args.context_len, model.device, dtype)
    cache.spans.copy_(torch.tensor(spans))
    cache.length.fill_(args.context_len)
    cache.advance()
    q, k, v = torch.randn(3, args.num_envs, config.transformer_heads, config.head_dim, device=model.device)
    attention_ms = times_ms(lambda: cache.attend(0, q, k, v), 20)[0]
    bytes_read = cache.nbytes / config.transformer_depth * sum(spans[0]) / len(spans[0]) / args.context_len
    return {
        "attention_kernel_ms": attention_ms,
        "attention_bandwidth_fraction": bytes_read / attention_ms / 1e6 / gb_s,
        "cache_bytes_per_env": cache.nbytes / args.num_envs,
    }


def host_waits_per_step(model: Vintix, args: argparse.Namespace, dtype: torch.dtype, steps: int = 20) -> float:
    """Synchronising calls a step that torch notices, after a warm-up."""
    policy = GraphPolicy(model, TASK, args.num_envs, args.context_len, dtype)
    copies = HostCopies(model.device)
    inputs = make_inputs(args.num_envs, model.device)
    some = torch.arange(args.num_envs, device=model.device) % 7 == 0

    def step() -> None:
        policy.reset(some)
        mean_action = policy_step(policy, inputs)
        copies.push({"observation": inputs[0], "mean_action": mean_action, "reward": inputs[3]})

    for _ in range(3):
        step()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(steps):
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    copies.flush()
    return sum("called a synchronizing" in str(warning.message) for warning in caught) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=4096)
    parser.add_argument("--context-len", type=int, default=2048)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("error: torch finds no CUDA device here; this benchmark measures nothing else")

    # The bandwidth measured here is what shares are of.
    device = torch.device("cuda")
    model = load_checkpoint(BUILTIN_CHECKPOINT).to(device)
    gb_s = bandwidth_gb_s(device)
    result = {
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "num_envs": args.num_envs,
        "context_len": args.context_len,
        "bandwidth_gb_s": gb_s,
        "cache": {},
    }
    # Every dtype of the cache whose histories fit beside the model.
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        size = ContextCache(model.config, 1, args.context_len, dtype=dtype).nbytes * args.num_envs
        torch.cuda.empty_cache()
        if size + SPARE_BYTES > torch.cuda.mem_get_info(device)[0]:
            print(f"{name}: {args.num_envs} caches of {args.context_len} tokens, {size / 1e9:.1f} GB, do not fit")
            continue
        result["cache"][name] = measure_policy(model, args, dtype) | measure_attention(model, args, dtype, gb_s)
        result["cache"][name]["host_waits_per_step"] = host_waits_per_step(model, args, dtype)

    # A table for people, a line for programs.
    print(f"{result['device']}, {args.num_envs} environments, {args.context_len} tokens, {gb_s:.0f} GB/s")
    for name, figures in result["cache"].items():
        print(name)
        for key, value in figures.items():
            print(f"  {key:32s} {value:12.3f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
