"""The causal transformer: ALiBi attention with normalised queries and keys, pre-norm blocks, final norm.

Owns attention over a whole window (``forward``) and over one new token with a cache (``decode``).  Tokens come in
and hidden states go out; what a token means, tasks and groups are unknown here.

Sizes in comments: N environments (or windows), T tokens, F = hidden_dim, H heads, D = head_dim.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vintix_fast.model.cache import ContextCache
from vintix_fast.model.config import ModelConfig
from vintix_fast.model.layers import NORM_EPS, PartList, alibi_slopes, make_mlp, make_norm
from vintix_fast.service.errors import UsageError

# Probability mass, relative to the softmax's sum, that decoding may leave unread; float32 rounds at 6e-8.
NEGLIGIBLE_MASS = 1e-8
QUERY_BLOCK = 128


@functools.lru_cache(maxsize=8)
def _alibi(heads: int, queries: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """ALiBi's bias and the causal mask, for the last ``queries`` of ``length`` tokens: [H, queries, length].

    The entries depend on the distance alone, so columns further right serve any other block of queries.
    """
    with torch.inference_mode(False), torch.no_grad():  # made in inference mode, training could not use it
        query = torch.arange(length - queries, length, device=device)
        distance = query[:, None] - torch.arange(length, device=device)
        slopes = torch.tensor(alibi_slopes(heads), device=device)[:, None, None]
        return (-slopes * distance).masked_fill_(distance < 0, -math.inf).to(dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, spans: list[int], first: Tensor | None, dropout: float) -> Tensor:
    """Causal attention: q, k, v [N, T, H, D] -> [N, T, H, D].

    In blocks of queries, each against no more keys than it needs: half the work of the whole square, and in steep
    heads a narrow band of it.

    Args:
        spans: how many of the latest keys each head reads.
        first: [N, T], see `Transformer.forward`.
    """
    length, heads = q.shape[1], q.shape[2]
    strip = _alibi(heads, QUERY_BLOCK, QUERY_BLOCK * -(-length // QUERY_BLOCK), q.dtype, q.device)
    q, k, v = (part.permute(2, 0, 1, 3).contiguous() for part in (q * q.shape[-1] ** -0.5, k, v))  # [H, N, T, D]
    blocks = []
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        begin = 0 if first is None else int(first[:, start].min())
        oldest = [max(begin, start - span + 1) for span in spans]
        parts = []
        for head, last in _runs(oldest):
            key = oldest[head]
            shift = strip.shape[2] - QUERY_BLOCK - start  # of the strip's columns against keys
            bias = strip[head:last, None, : stop - start, key + shift : stop + shift]
            if first is not None:
                hidden = torch.arange(key, stop, device=q.device) < first[:, start:stop, None]  # [N, queries, keys]
                bias = bias.masked_fill(hidden, -math.inf)
            score = q[head:last, :, start:stop] @ k[head:last, :, key:stop].transpose(2, 3) + bias
            weight = F.dropout(score.softmax(dim=-1, dtype=score.dtype), dropout)
            parts.append(weight @ v[head:last, :, key:stop])
        blocks.append(torch.cat(parts))  # [H, N, queries, D]
    return torch.cat(blocks, dim=2).permute(1, 2, 0, 3)


def _attend_on_cuda(q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, dropout: float) -> Tensor:
    """`_attend` on CUDA: in bfloat16 in a kernel of ours, otherwise in torch's."""
    if dropout or v.dtype != torch.bfloat16:
        return _attend_fused(q, k, v, first, dropout)
    from vintix_fast.kernels import causal_attention  # triton is not installed everywhere

    slopes = torch.tensor(alibi_slopes(q.shape[2]), device=q.device)
    spans = torch.full(slopes.shape, q.shape[1], dtype=torch.int32, device=q.device)
    return causal_attention.causal_attention(q.to(v.dtype), k.to(v.dtype), v, slopes, spans, first)


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, dropout: float) -> Tensor:
    """`_attend` in torch's fused attention, which wants a dense bias."""
    mask = _alibi(q.shape[2], q.shape[1], q.shape[1], q.dtype, q.device)[None]  # [1, H, T, T]
    if first is not None:
        mask = mask.masked_fill(torch.arange(q.shape[1], device=q.device) < first[:, None, :, None], -math.inf)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).transpose(1, 2)


def _runs(values: list[int]) -> list[tuple[int, int]]:
    """Runs of equal neighbours: [first, last) positions."""
    edges = [i for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
    return list(zip(edges, [*edges[1:], len(values)], strict=True))


def spans_for(bound: float, slopes: list[float], context_len: int, dropped_mass: float) -> list[int]:
    """For each head, how many of the latest tokens it must read; see `Transformer.spans`.

    Args:
        bound: of all scores, before ALiBi.
    """
    if math.isinf(bound) or dropped_mass == 0.0:
        return [context_len] * len(slopes)
    needed = [
        math.ceil((2 * bound - math.log(dropped_mass) - math.log(-math.expm1(-slope))) / slope) for slope in slopes
    ]
    return [min(context_len, max(1, span)) for span in needed]


class Attention(nn.Module):
    """Multi-head causal self-attention with ALiBi."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads, self.head_dim = config.transformer_heads, config.head_dim
        self.dropout = config.attn_dropout
        # Output is q | k | v, each of them H heads of D; where H does not divide F they are a little narrower than F.
        width = self.heads * self.head_dim
        self.in_proj = nn.Linear(config.hidden_dim, 3 * width, bias=config.bias)
        self.out_proj = nn.Linear(width, config.hidden_dim, bias=config.bias)
        self.normalize_qk = config.normalize_qk
        if config.normalize_qk:
            self.q_norm = nn.LayerNorm(config.head_dim, eps=NORM_EPS)
            self.k_norm = nn.LayerNorm(config.head_dim, eps=NORM_EPS)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., F] -> q, k, v, each [..., H, D]."""
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(-3)
        if self.normalize_qk:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """Attend within whole windows: x [N, T, F] -> [N, T, F]; ``first`` as for `Transformer.forward`."""
        dropout = self.dropout if self.training else 0.0
        if x.is_cuda:
            out = _attend_on_cuda(*self._project(x), first, dropout)
        else:
            spans = spans_for(self.score_bound(), alibi_slopes(self.heads), x.shape[1], NEGLIGIBLE_MASS)
            out = _attend(*self._project(x), spans, first, dropout)
        return self.out_proj(out.flatten(2))

    def decode(self, x: Tensor, cache: ContextCache, layer: int) -> Tensor:
        """Attend from one new token to the cached history: x [N, F] -> [N, F]."""
        return self.out_proj(cache.attend(layer, *self._project(x)).flatten(1))

    def score_bound(self) -> float:
        """An upper bound of |q . k| / sqrt(D) for any input, infinite without ``normalize_qk``.

        A LayerNorm's output w * z + b has norm at most max|w| * sqrt(D) + ||b||, because ||z|| <= sqrt(D).
        """
        if not self.normalize_qk:
            return math.inf
        q_max, k_max = (
            norm.weight.abs().max().item() * math.sqrt(self.head_dim) + norm.bias.norm().item()
            for norm in (self.q_norm, self.k_norm)
        )
        return q_max * k_max / math.sqrt(self.head_dim)


class Block(nn.Module):
    """One pre-norm layer: attention and MLP, one after the other or in parallel."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.parallel_residual = config.parallel_residual
        self.norm1 = make_norm(config)
        # A shared norm leaves no norm2 in the checkpoint.
        self.norm2 = None if config.shared_attention_norm else make_norm(config)
        self.attention = Attention(config)
        self.mlp = make_mlp(config)
        self.dropout = nn.Dropout(config.residual_dropout)

    def _finish(self, x: Tensor, normed: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's result and the MLP's to the residual stream; all three [..., F]."""
        stream = x + self.dropout(attended)
        if self.norm2 is not None:
            normed = self.norm2(x if self.parallel_residual else stream)
        return stream + self.mlp(normed)

    def forward(self, x: Tensor, first: Tensor | None) -> Tensor:
        """x [N, T, F] -> [N, T, F]; ``first`` as for `Transformer.forward`."""
        normed = self.norm1(x)
        return self._finish(x, normed, self.attention(normed, first))

    def decode(self, x: Tensor, cache: ContextCache, layer: int) -> Tensor:
        """x [N, F] -> [N, F]; stores this token's key and value in the cache."""
        normed = self.norm1(x)
        return self._finish(x, normed, self.attention.decode(normed, cache, layer))


class Transformer(nn.Module):
    """A stack of blocks and a final norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.blocks: PartList[Block] = PartList(Block(config) for _ in range(config.transformer_depth))
        self.ln_f = make_norm(config)
        self.slopes = alibi_slopes(config.transformer_heads)

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """Tokens -> hidden states; a token sees itself and what came before it in its history.

        Args:
            x: [N, T, F], like the result.
            first: [N, T] int32, where a sequence holds several histories: the token at which each token's begins. It
                never falls along a sequence.
        """
        for block in self.blocks:
            x = block(x, first)
        return self.ln_f(x)

    def decode(self, x: Tensor, cache: ContextCache) -> Tensor:
        """One new token for each environment [N, F] -> hidden state [N, F]; the cache advances by one step."""
        cache.advance()
        for layer, block in enumerate(self.blocks):
            x = block.decode(x, cache, layer)
        return self.ln_f(x)

    def spans(self, context_len: int, dropped_mass: float = NEGLIGIBLE_MASS) -> list[list[int]]:
        """For each layer and head [L][H], how many of the latest tokens decoding must read.

        With scores within [-B, B] and the token itself at bias 0, all tokens at distance W or more together weigh at
        most sum_{d >= W} exp(2B - slope * d) = exp(2B - slope * W) / (1 - exp(-slope)) of the softmax's sum.  The
        steep heads get below ``dropped_mass`` early, and what they need not read is nearly half of all memory traffic.

        Args:
            context_len: no span is longer.
            dropped_mass: the most that may stay unread, relative to the softmax's sum; 0 reads everything. UsageError
                unless it is from 0 to below 1.
        """
        if not 0.0 <= dropped_mass < 1.0:
            raise UsageError(f"dropped_mass is {dropped_mass}; it must be from 0 to below 1")
        bounds = [block.attention.score_bound() for block in self.blocks]
        return [spans_for(bound, self.slopes, context_len, dropped_mass) for bound in bounds]
