"""Triton: attention of one new token over a ring of keys and values, for `reference.attend`, in one launch a layer.

One program handles one environment and head: it stores the new key and value, then walks back through the ring by age
with an online softmax (arXiv 1805.02867), reading only what the history's length and the head's span let it see.

The context is not split over programs: this is made for thousands of environments, and 4096 with 4 heads are 16384
programs, many times what a GPU runs at once.  Few environments leave most of it idle, and belong on the CPU anyway.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vintix_fast.kernels.reference import INT8_MAX, SMALLEST_SCALE, Ring

BLOCK = 64  # slots read at a time
LARGEST_INT8 = tl.constexpr(INT8_MAX)
LEAST_SCALE = tl.constexpr(SMALLEST_SCALE)
ROUNDS_TO_INTEGERS = tl.constexpr(1.5 * 2**23)  # added and taken off again: float32 has no bits left for a fraction


@triton.jit
def _store(vector, dim, inside, row_ptr, scale_ptr, QUANTISED: tl.constexpr):
    """Write one vector [BLOCK_DIM]; returns it as whoever reads it back sees it."""
    if QUANTISED:
        scale = tl.maximum(tl.div_rn(tl.max(tl.abs(vector), axis=0), LARGEST_INT8 * 1.0), LEAST_SCALE)
        stored = tl.div_rn(vector, scale + tl.zeros_like(vector)) + ROUNDS_TO_INTEGERS - ROUNDS_TO_INTEGERS
        tl.store(scale_ptr, scale)
        tl.store(row_ptr + dim, stored.to(tl.int8), mask=inside)
        return stored * scale
    tl.store(row_ptr + dim, vector, mask=inside)
    return vector


@triton.jit
def _attend_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr,
    slot_ptr, length_ptr, span_ptr, slopes_ptr,
    q_env_stride, q_head_stride, k_env_stride, k_head_stride, v_env_stride, v_head_stride, context_len, q_scale,
    DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK: tl.constexpr, QUANTISED: tl.constexpr,
):  # fmt: skip
    heads = tl.num_programs(1)
    env = tl.program_id(0).to(tl.int64)  # a ring may have more than 2^31 numbers
    head = heads - 1 - tl.program_id(1)  # the last heads look back furthest: they start first, so that none trails
    dim = tl.arange(0, BLOCK_DIM)
    inside = dim < DIM
    q = tl.load(q_ptr + env * q_env_stride + head * q_head_stride + dim, mask=inside, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + env * k_env_stride + head * k_head_stride + dim, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + env * v_env_stride + head * v_head_stride + dim, mask=inside, other=0.0).to(tl.float32)
    q = q * q_scale
    slope = tl.load(slopes_ptr + head)
    slot = tl.load(slot_ptr).to(tl.int32)
    seen = tl.minimum(tl.load(length_ptr + env).to(tl.int32), tl.load(span_ptr + head).to(tl.int32))
    ring = (env * heads + head) * context_len  # of this environment and head: its first slot

    new = ring + slot
    k = _store(k, dim, inside, keys_ptr + new * DIM, key_scales_ptr + new, QUANTISED)
    v = _store(v, dim, inside, values_ptr + new * DIM, value_scales_ptr + new, QUANTISED)
    # Each of the block's BLOCK places runs an online softmax of its own, and they are merged at the end: in the loop
    # no warp waits for another.  Age 0 goes to the first place, from registers: read back, it would need a barrier.
    own = tl.arange(0, BLOCK) == 0
    largest = tl.zeros([BLOCK], tl.float32) + tl.sum(q * k, axis=0)
    total = own.to(tl.float32)
    out = tl.where(own[:, None], v[None, :], 0.0)
    for first in range(1, seen, BLOCK):
        age = first + tl.arange(0, BLOCK)
        old = tl.where(slot >= age, slot - age, slot - age + context_len)
        visible = age < seen
        place = (ring + old)[:, None] * DIM + dim[None, :]
        readable = visible[:, None] & inside[None, :]
        keys = tl.load(keys_ptr + place, mask=readable, other=0.0).to(tl.float32)
        values = tl.load(values_ptr + place, mask=readable, other=0.0).to(tl.float32)
        if QUANTISED:
            key_scales = tl.load(key_scales_ptr + ring + old, mask=visible, other=0.0)
            value_scales = tl.load(value_scales_ptr + ring + old, mask=visible, other=0.0)
        scores = tl.sum(keys * q[None, :], axis=1)
        if QUANTISED:
            scores *= key_scales
        scores = tl.where(visible, scores - slope * age, -float("inf"))
        before, largest = largest, tl.maximum(largest, scores)
        weights = tl.exp(scores - largest)
        fading = tl.exp(before - largest)
        total = total * fading + weights
        if QUANTISED:
            weights *= value_scales
        out = out * fading[:, None] + weights[:, None] * values
    fading = tl.exp(largest - tl.max(largest, axis=0))
    out = tl.sum(out * fading[:, None], axis=0) / tl.sum(total * fading, axis=0)
    tl.store(out_ptr + (env * heads + head) * DIM + dim, out, mask=inside)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ring: Ring,
    slot: torch.Tensor,
    length: torch.Tensor,
    span: torch.Tensor,
    slopes: torch.Tensor,
) -> torch.Tensor:
    """Same as `reference.attend`; q, k and v may be strided views whose last dimension is contiguous."""
    num_envs, heads, dim = q.shape
    for tensor in (q, k, v):
        assert tensor.stride(2) == 1, tensor.stride()
    for part in (slot, length, span, slopes, *ring):
        assert part is None or part.is_contiguous()
    quantised = ring.key_scales is not None
    out = torch.empty(num_envs, heads, dim, device=q.device, dtype=q.dtype)
    _attend_kernel[(num_envs, heads)](
        q, k, v, out, ring.keys, ring.values,
        ring.key_scales if quantised else slopes, ring.value_scales if quantised else slopes,  # else never touched
        slot, length, span, slopes,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], ring.keys.shape[2], dim**-0.5,
        DIM=dim, BLOCK_DIM=triton.next_power_of_2(dim), BLOCK=BLOCK, QUANTISED=quantised,
        enable_fp_fusion=True,  # triton 3.9 warns where its coming change of default is not answered
    )  # fmt: skip
    return out
