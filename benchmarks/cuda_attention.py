"""Attention in fine-tuning on a GPU: torch's fused one with a dense bias, FlexAttention, and the Triton kernel.

Of one layer, forward and backward, over ``--batch-size`` windows of ``--window-len`` tokens (a multiple of 128), with
the bundled model's spans.  `vintix-fast bench --training --device cuda` measures whole steps.

    python benchmarks/cuda_attention.py

Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from cuda_step import times_ms
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from vintix_fast.kernels.causal_attention import causal_attention
from vintix_fast.model import Vintix, load_checkpoint
from vintix_fast.model.transformer import _alibi, spans_for
from vintix_fast.service.bundled import BUILTIN_CHECKPOINT


def measure_attention(model: Vintix, batch_size: int, length: int) -> dict[str, float]:
    """Milliseconds forward and backward, and each gradient's distance from that of float32 with a dense bias."""
    config = model.config
    heads, dim, device = config.transformer_heads, config.head_dim, model.device
    slopes = torch.tensor(model.transformer.slopes, device=device)
    bound = model.transformer.blocks[0].attention.score_bound()
    kept = torch.tensor(spans_for(bound, model.transformer.slopes, length, 1e-2), dtype=torch.int32, device=device)
    # Each way gets what it asks for: spans, a dense bias, or a mask of blocks.
    everything = torch.full_like(kept, length)
    bias = _alibi(heads, length, length, torch.bfloat16, device)[None]
    mask = create_block_mask(
        lambda n, h, i, j: (i >= j) & (i - j < kept[h]), None, heads, length, length, device=device
    )
    flex = torch.compile(flex_attention, dynamic=False)

    def dense(q: Tensor, k: Tensor, v: Tensor, bias: Tensor = bias) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)

    def flexible(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = flex(q, k, v, score_mod=lambda s, n, h, i, j: s - slopes[h] * (i - j), block_mask=mask)
        return out.transpose(1, 2)

    ways = {
        "dense bias": dense,
        "FlexAttention": flexible,
        "kernel, whole histories": lambda *x: causal_attention(*x, slopes, everything),
        "kernel": lambda *x: causal_attention(*x, slopes, kept),
    }
    # Queries and keys are normalised, as the model's are.
    generator = torch.Generator(device).manual_seed(0)
    normed = torch.nn.functional.layer_norm
    q, k, v = torch.randn(3, batch_size, length, heads, dim, device=device, generator=generator)
    inputs = [x.bfloat16().requires_grad_() for x in (normed(q, (dim,)), normed(k, (dim,)), v)]
    grad = torch.randn(v.shape, device=device, generator=generator).bfloat16()
    # The truth that errors are measured against.
    exact = [x.detach().float().requires_grad_() for x in inputs]
    truth = torch.autograd.grad(
        dense(*exact, bias=_alibi(heads, length, length, torch.float32, device)[None]), exact, grad.float()
    )
    result = {"spans": kept.tolist()}
    for name, attend in ways.items():
        result[f"{name}_forward_ms"] = _graph_ms(lambda attend=attend: attend(*inputs))
        result[f"{name}_ms"] = _graph_ms(lambda attend=attend: torch.autograd.grad(attend(*inputs), inputs, grad))
        # The worst of the three gradients counts.
        found = torch.autograd.grad(attend(*inputs), inputs, grad)
        result[f"{name}_error"] = max(
            float((a.float() - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)
        )
    return result


def _graph_ms(run: Callable[[], object]) -> float:
    """Of the GPU: replayed from a graph, so that the host's launches take no part."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return times_ms(graph.replay)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--window-len", type=int, default=2048)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("error: torch finds no CUDA device here; this benchmark measures nothing else")
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__} | vars(args)
    model = load_checkpoint(BUILTIN_CHECKPOINT, "cuda")
    result |= measure_attention(model, args.batch_size, args.window_len)
    for name, value in result.items():
        print(f"{name:40s} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
