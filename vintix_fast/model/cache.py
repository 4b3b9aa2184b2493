"""The policy's memory: keys and values of the last ``context_len`` steps of every environment.

Owns the ring buffers and which of their slots an environment may see.  Attention over them is
`vintix_fast.kernels.attend`: plain torch on the CPU, one launch a layer on a GPU.  Where queries, keys and
values come from is unknown here, and so are tasks and episodes: a history ends only when ``reset`` says so.

All environments write the same slot in the same step.  A slot's age is therefore shared, ALiBi's bias depends on the
age alone, and a history that began later is a mask: slots older than ``length[n]`` are hidden from environment n.

Every step reads and writes the same buffers whatever its number, and the host reads nothing back, so that a CUDA graph
can capture ``Vintix.decode``; ``reset`` works between replays.

Sizes in comments: L layers, N environments, H heads, C = context_len slots, D = head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vintix_fast import kernels
from vintix_fast.kernels.reference import Ring
from vintix_fast.model.config import ModelConfig
from vintix_fast.model.layers import alibi_slopes
from vintix_fast.service.errors import UsageError

DTYPES = (torch.float32, torch.int8)


class ContextCache:
    """Ring buffers of keys and values, for one model and ``num_envs`` environments that step together.

    Once a history is longer than ``context_len``, its oldest token is overwritten.  From then on decoding differs
    from a full forward over the last ``context_len`` tokens in models of more than one layer: the kept keys and
    values of deeper layers were computed when older tokens were still visible, and still carry them.

    Args:
        config: the model's hyper-parameters.
        num_envs: N.
        context_len: C in tokens; ``None`` means the model's own. ALiBi allows other lengths than in training.
        device: of the buffers.
        dtype: of the stored keys and values: float32, or int8 with a float32 scale for each key and each value of a
            head. Arithmetic is in float32 always.

    Raises:
        UsageError: ``num_envs`` or ``context_len`` is not positive, or there is no cache of this dtype.
    """

    @torch.inference_mode(False)  # buffers made in inference mode could not be written outside it
    def __init__(
        self,
        config: ModelConfig,
        num_envs: int,
        context_len: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        context_len = config.context_len if context_len is None else context_len
        if num_envs < 1 or context_len < 1:
            raise UsageError(f"num_envs and context_len must be at least 1, got {num_envs} and {context_len}")
        if dtype not in DTYPES:
            raise UsageError(f"a cache stores {', '.join(map(str, DTYPES))}, got {dtype}")
        self.num_envs, self.context_len = num_envs, context_len
        depth, heads = config.transformer_depth, config.transformer_heads
        vectors = (num_envs, heads, context_len)

        def ring() -> Ring:
            # Zeros, not uninitialised: a hidden slot gets weight 0, and 0 * NaN would be NaN.
            parts = [torch.zeros(*vectors, config.head_dim, device=device, dtype=dtype) for _ in range(2)]
            scales = [torch.zeros(vectors, device=device) for _ in range(2 * (dtype == torch.int8))]
            return Ring(*parts, *scales)

        self.rings = [ring() for _ in range(depth)]
        self.length = torch.zeros(num_envs, device=device, dtype=torch.int32)  # tokens in each history, at most C
        # How many of the latest tokens each head reads: all, or what is written here, see `Transformer.spans`.
        self.spans = torch.full((depth, heads), context_len, device=device, dtype=torch.int32)
        self._slot = torch.full((1,), -1, device=device, dtype=torch.long)  # what the latest step wrote
        self._slopes = torch.tensor(alibi_slopes(heads), device=device)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and their scales."""
        return sum(part.nbytes for ring in self.rings for part in ring if part is not None)

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget the histories where ``mask`` is true, or all of them; raises UsageError unless it is [N] bool."""
        if mask is None:
            self.length.zero_()
            self._slot.fill_(-1)
            return
        if mask.shape != self.length.shape or mask.dtype != torch.bool:
            raise UsageError(f"mask must be [{self.num_envs}] bool, got {list(mask.shape)} {mask.dtype}")
        self.length.masked_fill_(mask, 0)

    def advance(self) -> None:
        """Begin a step: claim the next slot in every environment."""
        self._slot.add_(1).remainder_(self.context_len)
        self.length.add_(1).clamp_(max=self.context_len)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store this step's key and value, and attend to the visible history including them.

        Args:
            layer: index of the transformer layer.
            q, k, v: [N, H, D].

        Returns:
            [N, H, D], in q's dtype.
        """
        return kernels.attend(q, k, v, self.rings[layer], self._slot, self.length, self.spans[layer], self._slopes)
