"""Triton: causal attention with ALiBi over whole windows, forward and backward, without a bias in memory.

A torch operator with a gradient, so that ``torch.compile`` takes it into its graph.

Flash attention (arXiv 2205.14135, 2307.08691): softmax online, block by block, its weights computed again in the
backward pass.  A block of keys is read only where the head's span and the tokens' histories reach it.  No sum is
atomic, so the same inputs give the same bits.  Its plain reference is `vintix_fast.model.transformer._attend`.

Sizes: N windows, T tokens, H heads, D = head_dim.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

QUERIES = 64
KEYS = 64
WARPS = 4
STAGES = 3
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _load(ptr, token, dim, token_stride, length, DIM: tl.constexpr):
    """Rows [tokens, dim] of one sequence and head; zeros past its end."""
    inside = (token < length)[:, None] & (dim < DIM)[None, :]
    return tl.load(ptr + token[:, None] * token_stride + dim[None, :], mask=inside, other=0.0)


@triton.jit
def _scores(q, k, query, key, first, span, slope, scale, length, PRECISION: tl.constexpr):
    """Base-2 exponents [queries, keys] of unnormalised weights; -inf where a query may not see a key."""
    distance = query[:, None] - key[None, :]
    seen = (distance >= 0) & (distance < span) & (key[None, :] >= first[:, None]) & (query < length)[:, None]
    score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2_E)
    return tl.where(seen, score - (slope * LOG2_E) * distance, -float("inf"))


@triton.jit
def _reach(first_ptr, start, query, span, length, QUERIES: tl.constexpr, PACKED: tl.constexpr):
    """Where the history of each of a block's queries begins, and the oldest key that any of them sees."""
    first = tl.zeros([QUERIES], tl.int32)
    oldest = tl.maximum(start - span + 1, 0)
    if PACKED:
        first = tl.load(first_ptr + query, mask=query < length, other=0)
        oldest = tl.maximum(oldest, tl.load(first_ptr + start))
    return first, oldest


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, log_sum_ptr, slopes_ptr, span_ptr, first_ptr,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head, heads, length, scale,
    DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES  # the longest first, so that none trails
    q_ptr += row * q_row + head * q_head
    k_ptr += row * k_row + head * k_head
    v_ptr += row * v_row + head * v_head
    query, dim = start + tl.arange(0, QUERIES), tl.arange(0, BLOCK_DIM)
    slope, span = tl.load(slopes_ptr + head), tl.load(span_ptr + head)
    first, oldest = _reach(first_ptr + row * length, start, query, span, length, QUERIES, PACKED)
    q = _load(q_ptr, query, dim, q_token, length, DIM)
    largest = tl.full([QUERIES], -float("inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    out = tl.zeros([QUERIES, BLOCK_DIM], tl.float32)
    for begin in range(oldest // KEYS * KEYS, tl.minimum(start + QUERIES, length), KEYS):
        key = begin + tl.arange(0, KEYS)
        k = _load(k_ptr, key, dim, k_token, length, DIM)
        score = _scores(q, k, query, key, first, span, slope, scale, length, PRECISION)
        before, largest = largest, tl.maximum(largest, tl.max(score, axis=1))
        # What was summed so far fades by how much the largest score grew.
        reference = tl.where(largest == -float("inf"), 0.0, largest)  # nothing seen yet: -inf less -inf is no number
        weight = tl.exp2(score - reference[:, None])
        fading = tl.exp2(before - reference)
        total = total * fading + tl.sum(weight, axis=1)
        v = _load(v_ptr, key, dim, v_token, length, DIM)
        out = out * fading[:, None] + tl.dot(weight.to(v.dtype), v, input_precision=PRECISION)
    # Rows past the end sum to nothing and are not stored.
    total = tl.where(query < length, total, 1.0)
    out = out / total[:, None]
    place = (row * length + query) * heads + head
    tl.store(
        out_ptr + place[:, None] * DIM + dim[None, :], out.to(out_ptr.dtype.element_ty),
        mask=(query < length)[:, None] & (dim < DIM)[None, :],
    )  # fmt: skip
    tl.store(log_sum_ptr + place, largest + tl.log2(total), mask=query < length)


@triton.jit
def _query_gradient_kernel(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, log_sum_ptr, delta_ptr, grad_q_ptr, slopes_ptr, span_ptr, first_ptr,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head, heads, length, scale,
    DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # As in the forward pass a program takes a block of queries, and walks over the keys that they see.
    row, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES
    q_ptr += row * q_row + head * q_head
    k_ptr += row * k_row + head * k_head
    v_ptr += row * v_row + head * v_head
    query, dim = start + tl.arange(0, QUERIES), tl.arange(0, BLOCK_DIM)
    slope, span = tl.load(slopes_ptr + head), tl.load(span_ptr + head)
    first, oldest = _reach(first_ptr + row * length, start, query, span, length, QUERIES, PACKED)
    q = _load(q_ptr, query, dim, q_token, length, DIM)
    place = (row * length + query) * heads + head
    grad_out = _load(grad_out_ptr + (row * length * heads + head) * DIM, query, dim, heads * DIM, length, DIM)
    # What the forward pass left of each query: its softmax's sum, and output . gradient.
    log_sum = tl.load(log_sum_ptr + place, mask=query < length, other=0.0)
    delta = tl.load(delta_ptr + place, mask=query < length, other=0.0)
    grad_q = tl.zeros([QUERIES, BLOCK_DIM], tl.float32)
    for begin in range(oldest // KEYS * KEYS, tl.minimum(start + QUERIES, length), KEYS):
        key = begin + tl.arange(0, KEYS)
        k = _load(k_ptr, key, dim, k_token, length, DIM)
        score = _scores(q, k, query, key, first, span, slope, scale, length, PRECISION)
        # The softmax again, by its stored sum; delta is what normalisation takes off each gradient.
        weight = tl.exp2(score - log_sum[:, None])
        v = _load(v_ptr, key, dim, v_token, length, DIM)
        grad_weight = tl.dot(grad_out, tl.trans(v), input_precision=PRECISION)
        # Rounded to the inputs' type, as the weights were in the forward pass; sums stay in float32.
        grad_score = weight * (grad_weight - delta[:, None]) * scale
        grad_q += tl.dot(grad_score.to(k.dtype), k, input_precision=PRECISION)
    tl.store(
        grad_q_ptr + place[:, None] * DIM + dim[None, :], grad_q.to(grad_q_ptr.dtype.element_ty),
        mask=(query < length)[:, None] & (dim < DIM)[None, :],
    )  # fmt: skip


@triton.jit
def _key_gradient_kernel(
    q_ptr, k_ptr, v_ptr, grad_out_ptr, log_sum_ptr, delta_ptr, grad_k_ptr, grad_v_ptr,
    slopes_ptr, span_ptr, first_ptr,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head, heads, length, scale,
    DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    begin = tl.program_id(0) * KEYS  # early keys have the most queries
    q_ptr += row * q_row + head * q_head
    k_ptr += row * k_row + head * k_head
    v_ptr += row * v_row + head * v_head
    grad_out_ptr += (row * length * heads + head) * DIM
    key, dim = begin + tl.arange(0, KEYS), tl.arange(0, BLOCK_DIM)
    slope, span = tl.load(slopes_ptr + head), tl.load(span_ptr + head)
    k = _load(k_ptr, key, dim, k_token, length, DIM)
    v = _load(v_ptr, key, dim, v_token, length, DIM)
    grad_k = tl.zeros([KEYS, BLOCK_DIM], tl.float32)
    grad_v = tl.zeros([KEYS, BLOCK_DIM], tl.float32)
    # The other way round: a block of keys, and the queries that see one of them.
    latest = tl.minimum(begin + KEYS - 1 + span, length)
    for start in range(begin // QUERIES * QUERIES, latest, QUERIES):
        query = start + tl.arange(0, QUERIES)
        # Whole blocks of queries whose histories begin later are passed over.
        first = tl.zeros([QUERIES], tl.int32)
        reaches = True
        if PACKED:
            first = tl.load(first_ptr + row * length + query, mask=query < length, other=0)
            reaches = tl.load(first_ptr + row * length + start) < begin + KEYS
        if reaches:
            q = _load(q_ptr, query, dim, q_token, length, DIM)
            place = (row * length + query) * heads + head
            log_sum = tl.load(log_sum_ptr + place, mask=query < length, other=0.0)
            delta = tl.load(delta_ptr + place, mask=query < length, other=0.0)
            grad_out = _load(grad_out_ptr, query, dim, heads * DIM, length, DIM)
            score = _scores(q, k, query, key, first, span, slope, scale, length, PRECISION)
            weight = tl.exp2(score - log_sum[:, None])
            grad_v += tl.dot(tl.trans(weight.to(v.dtype)), grad_out, input_precision=PRECISION)
            grad_weight = tl.dot(grad_out, tl.trans(v), input_precision=PRECISION)
            grad_score = weight * (grad_weight - delta[:, None]) * scale
            grad_k += tl.dot(tl.trans(grad_score.to(q.dtype)), q, input_precision=PRECISION)
    place = ((row * length + key) * heads + head)[:, None] * DIM + dim[None, :]
    inside = (key < length)[:, None] & (dim < DIM)[None, :]
    tl.store(grad_k_ptr + place, grad_k.to(grad_k_ptr.dtype.element_ty), mask=inside)
    tl.store(grad_v_ptr + place, grad_v.to(grad_v_ptr.dtype.element_ty), mask=inside)


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, spans: Tensor, first: Tensor | None = None
) -> Tensor:
    """softmax(q . k / sqrt(D) - slope * distance) v over each token and those before it.

    Reads nothing back, so that a CUDA graph can capture it.

    Args:
        q, k, v: [N, T, H, D], bfloat16 or float32, all the same; views are taken as they lie.
        slopes: [H] float32.
        spans: [H] int32: how many of the latest tokens each head sees.
        first: [N, T] int32, see `vintix_fast.model.transformer.Transformer.forward`; None: token 0.

    Returns:
        [N, T, H, D].

    Raises:
        ValueError: types or shapes differ.
    """
    n, t, heads, _ = q.shape
    if not q.shape == k.shape == v.shape or not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"causal_attention: {[(list(x.shape), x.dtype) for x in (q, k, v)]} are not alike")
    if slopes.shape != (heads,) or spans.shape != (heads,) or spans.dtype != torch.int32:
        raise ValueError(f"causal_attention: slopes {list(slopes.shape)}, spans {list(spans.shape)}")
    if first is not None and (first.shape != (n, t) or first.dtype != torch.int32):
        raise ValueError(f"causal_attention: first must be [{n}, {t}] int32, not {list(first.shape)} {first.dtype}")
    return _attention(q, k, v, slopes, spans, first)[0]


@torch.library.custom_op("vintix_fast::triton_causal_attention", mutates_args=())
def _attention(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, spans: Tensor, first: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The attention, and each softmax's sum as its logarithm to base 2, [N, T, H]."""
    out, log_sum = _empty_results(q)
    _launch(_forward_kernel, QUERIES, (q, k, v), (out, log_sum), slopes, spans, first)
    return out, log_sum


@_attention.register_fake
def _(q, k, v, slopes, spans, first):
    return _empty_results(q)


def _empty_results(q: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("vintix_fast::triton_causal_attention_backward", mutates_args=())
def _attention_backward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, spans: Tensor, first: Tensor | None, out: Tensor, log_sum: Tensor,
    grad_out: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grad_out = grad_out.contiguous()
    delta = (out.float() * grad_out).sum(dim=3)
    grad_q, grad_k, grad_v = grads = _empty_grads(q, k, v)
    given = grad_out, log_sum, delta
    _launch(_query_gradient_kernel, QUERIES, (q, k, v), (*given, grad_q), slopes, spans, first)
    _launch(_key_gradient_kernel, KEYS, (q, k, v), (*given, grad_k, grad_v), slopes, spans, first)
    return grads


@_attention_backward.register_fake
def _(q, k, v, *others):
    return _empty_grads(q, k, v)


def _empty_grads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, *output)


def _differentiate(ctx, grad_out, _):
    return *_attention_backward(*ctx.saved_tensors, grad_out), None, None, None


_attention.register_autograd(_differentiate, setup_context=_keep)


def _launch(kernel, block, qkv, tensors, slopes, spans, first):
    qkv = [x if x.stride(3) == 1 else x.contiguous() for x in qkv]
    first = first if first is None else first.contiguous()
    n, t, heads, dim = qkv[0].shape
    strides = [stride for x in qkv for stride in x.stride()[:3]]
    kernel[(triton.cdiv(t, block), n * heads)](
        *qkv, *tensors, slopes, spans, spans if first is None else first,  # unread
        *strides, heads, t, dim**-0.5,
        DIM=dim, BLOCK_DIM=max(16, triton.next_power_of_2(dim)), QUERIES=QUERIES, KEYS=KEYS,
        PACKED=first is not None, PRECISION="ieee", enable_fp_fusion=True, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
