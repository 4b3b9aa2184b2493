"""Attention written out: the truth that every attention over whole windows is tested against."""

import torch

from vintix_fast.model.layers import alibi_slopes


def firsts(n, length, seed=0):
    """Where each token's history begins, for four histories in each of n sequences."""
    starts = torch.randint(length, (n, 3), generator=torch.Generator().manual_seed(seed))
    token = torch.arange(length)
    begun = torch.where(starts[:, None, :] <= token[:, None], starts[:, None, :], 0)
    return begun.amax(dim=-1).to(torch.int32)


def dense(q, k, v, first, spans=None):
    """softmax(q . k / sqrt(D) - slope * distance) v, q, k, v [N, T, H, D]; ``spans`` [H]: the latest tokens seen."""
    length, heads = q.shape[1:3]
    token = torch.arange(length)
    distance = token[:, None] - token
    visible = (distance >= 0)[None, None]
    if first is not None:
        visible = visible & (token >= first[:, None, :, None])
    if spans is not None:
        visible = visible & (distance < spans[:, None, None])
    score = torch.einsum("nihd,njhd->nhij", q, k) / q.shape[3] ** 0.5
    score = score - torch.tensor(alibi_slopes(heads))[:, None, None] * distance
    weight = score.masked_fill(~visible, -torch.inf).softmax(dim=-1).to(v.dtype)
    return torch.einsum("nhij,njhd->nihd", weight, v)
