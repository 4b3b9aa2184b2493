"""The policy's memory: keys and values of the last ``context_len`` steps of every environment.

Owns the ring buffers, which slots an environment may see, and attention of one new token over them.  Where queries,
keys and values come from is unknown here, and so are tasks and episodes: a history ends only when ``reset`` says so.

All environments write the same slot in the same step.  A slot's age is therefore shared, ALiBi's bias depends on the
age alone, and a history that began later is a mask: slots older than ``length[n]`` are hidden from environment n.

Sizes in comments: N environments, H heads, C = context_len slots, D = head_dim, P slots in use.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vintix_fast.errors import UsageError
from vintix_fast.model.config import ModelConfig
from vintix_fast.model.layers import alibi_slopes

Segments = list[tuple[int, int]]  # [first, last) slots, at most two because the ring wraps at most once


class ContextCache:
    """Ring buffers of keys and values, for one model and ``num_envs`` environments that step together.

    Once a history is longer than ``context_len``, its oldest token is overwritten.  From then on decoding differs
    from a full forward over the last ``context_len`` tokens in models of more than one layer: the kept keys and
    values of deeper layers were computed when older tokens were still visible, and still carry them.

    Args:
        config: the model's hyper-parameters.
        num_envs: N.
        context_len: C in tokens; ``None`` means the model's own. ALiBi allows other lengths than in training.
        device, dtype: of the buffers. In half precision, scores are summed and normalised in float32.
        capturable: never let the step number decide shapes, so that a CUDA graph can capture ``Vintix.decode``.
            Every step then reads all C slots, and a full ``reset`` must happen outside the graph.

    Raises:
        UsageError: ``num_envs`` or ``context_len`` is not positive.
    """

    @torch.inference_mode(False)  # buffers made in inference mode could not be written outside it
    def __init__(
        self,
        config: ModelConfig,
        num_envs: int,
        context_len: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        capturable: bool = False,
    ):
        context_len = config.context_len if context_len is None else context_len
        if num_envs < 1 or context_len < 1:
            raise UsageError(f"num_envs and context_len must be at least 1, got {num_envs} and {context_len}")
        self.num_envs, self.context_len, self.capturable = num_envs, context_len, capturable
        heads, dim = config.transformer_heads, config.head_dim
        # Heads before environments: a run of heads over all environments is then one batch of matrices, uncopied.
        # Zeros and not uninitialised: a hidden slot gets weight 0, and 0 * NaN would be NaN.
        # Values lie with C last: the CPU then sums each of the D rows along memory, a third faster than down columns.
        shape = (config.transformer_depth, heads, num_envs)
        self._keys = torch.zeros(*shape, context_len, dim, device=device, dtype=dtype)
        self._values = torch.zeros(*shape, dim, context_len, device=device, dtype=dtype)
        self.length = torch.zeros(num_envs, device=device, dtype=torch.long)  # tokens in each history, at most C
        self._slot = torch.full((1,), -1, device=device, dtype=torch.long)  # what the latest step wrote
        self._index = torch.arange(context_len, device=device)
        self._slopes = torch.tensor(alibi_slopes(heads), device=device)
        # Working memory, because fresh memory of this size costs the CPU more in page faults than the arithmetic.
        size = heads * num_envs * context_len
        self._bias_memory = torch.empty(size, device=device)
        self._score_memory = torch.empty(size, device=device, dtype=dtype)
        self._weight_memory = torch.empty(size, device=device)
        self._bias = self._bias_memory.view(heads, num_envs, context_len)
        self._steps = 0
        self._spans: list[tuple[int, int, Segments]] = []
        self.windows: list[int] | None = None  # how many latest slots each head reads; the transformer sets it

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return 2 * self._keys.numel() * self._keys.element_size()

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget the histories where ``mask`` ([N] bool) is true, or all of them.

        Raises:
            UsageError: ``mask`` is not [N] bool.
        """
        if mask is None:
            self.length.zero_()
            self._slot.fill_(-1)
            self._steps = 0
            self.windows = None  # another model's weights may follow
            return
        if mask.shape != self.length.shape or mask.dtype != torch.bool:
            raise UsageError(f"mask must be [{self.num_envs}] bool, got {list(mask.shape)} {mask.dtype}")
        self.length.masked_fill_(mask, 0)

    def advance(self) -> None:
        """Begin a step: claim the next slot and lay out which slots each head and environment reads."""
        heads = len(self._slopes)
        self._slot.add_(1).remainder_(self.context_len)
        self.length.add_(1).clamp_(max=self.context_len)
        self._steps += 1
        used = self.context_len if self.capturable else min(self._steps, self.context_len)
        age = (self._slot - self._index[:used]).remainder_(self.context_len)  # [P] 0 = this step
        hidden = age >= self.length[:, None]  # [N, P]
        self._bias = self._bias_memory[: heads * self.num_envs * used].view(heads, self.num_envs, used)
        self._bias.copy_((-self._slopes[:, None] * age)[:, None, :])  # [H, N, P]
        self._bias.masked_fill_(hidden, -math.inf)
        self._spans = self._plan(used)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store this step's key and value, and attend to the visible history including them.

        Args:
            layer: index of the transformer layer.
            q, k, v: [N, H, D].

        Returns:
            [N, H, D], in q's dtype.
        """
        keys, values = self._keys[layer], self._values[layer].transpose(2, 3)  # [H, N, C, D], the latter strided
        self._store(keys, k)
        self._store(values, v)
        scaled = (q * q.shape[-1] ** -0.5).to(keys.dtype).transpose(0, 1).contiguous()  # [H, N, D]
        out = torch.empty_like(scaled)
        for first, last, segments in self._spans:
            heads = slice(first, last)
            self._attend_heads(scaled[heads], keys[heads], values[heads], self._bias[heads], segments, out[heads])
        return out.transpose(0, 1).to(q.dtype)

    def _attend_heads(
        self, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor, segments: Segments, out: Tensor
    ) -> None:
        """q [h, N, D], keys and values [h, N, C, D], bias [h, N, P], for h neighbouring heads; fills out [h, N, D]."""
        batch = q.shape[0] * q.shape[1]
        q, bias, out = (x.view(batch, 1, -1) for x in (q, bias, out))  # a matrix of one row for each head and N
        keys, values = (x.flatten(0, 1) for x in (keys, values))  # views: heads and environments are adjacent
        width = sum(last - first for first, last in segments)
        scores = self._score_memory[: batch * width].view(batch, 1, width)
        weights = self._weight_memory[: batch * width].view(batch, 1, width)
        at = 0
        for first, last in segments:
            part = scores[:, :, at : at + last - first]
            torch.bmm(q, keys[:, first:last].transpose(1, 2), out=part)
            torch.add(part, bias[:, :, first:last], out=weights[:, :, at : at + last - first])
            at += last - first
        if scores.dtype == torch.float32:
            weights = torch.softmax(weights, dim=-1, out=scores)
        else:
            weights = torch.softmax(weights, dim=-1).to(scores.dtype)
        at = 0
        for first, last in segments:
            part = weights[:, :, at : at + last - first]
            if at == 0:
                torch.bmm(part, values[:, first:last], out=out)
            else:
                out.baddbmm_(part, values[:, first:last])
            at += last - first

    def _store(self, ring: Tensor, new: Tensor) -> None:
        """Write new [N, H, D] into this step's slot of ring [H, N, C, D]."""
        new = new.transpose(0, 1).to(ring.dtype)
        if self.capturable:
            ring.index_copy_(2, self._slot, new[:, :, None])
        else:
            ring[:, :, (self._steps - 1) % self.context_len] = new

    def _plan(self, used: int) -> list[tuple[int, int, Segments]]:
        """Runs of neighbouring heads that read the same slots: (first head, last head + 1, slots)."""
        windows = [used] * len(self._slopes) if self.windows is None or self.capturable else self.windows
        spans: list[tuple[int, int, Segments]] = []
        for head, window in enumerate(windows):
            segments = self._segments(min(window, used), used)
            if spans and spans[-1][2] == segments:
                spans[-1] = (spans[-1][0], head + 1, segments)
            else:
                spans.append((head, head + 1, segments))
        return spans

    def _segments(self, window: int, used: int) -> Segments:
        """The slots of the latest ``window`` steps, of ``used`` slots in use."""
        if window >= used:
            return [(0, used)]
        end = (self._steps - 1) % self.context_len + 1
        start = end - window
        return [(start, end)] if start >= 0 else [(0, end), (self.context_len + start, self.context_len)]
