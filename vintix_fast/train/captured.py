"""A step of training as one CUDA graph: a small model's step is hundreds of launches, longer than their work."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_CALLS = 3


class Captured:
    """``step``, run as it is a few times, as capture asks for, and replayed from a graph from then on.

    The first calls count like any others: the numbers are those of calling ``step`` each time.

    Args:
        step: tensors of one shape each -> a tensor; reads nothing back, and what else it touches stays where it is.
    """

    def __init__(self, step: Callable[..., Tensor]) -> None:
        self._step, self._calls = step, 0
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """``step(*inputs)``, without waiting for it."""
        if self._calls < WARM_UP_CALLS:
            self._calls += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                result = self._step(*inputs)
            torch.cuda.current_stream().wait_stream(self._stream)
            return result
        if self._graph is None:
            self._inputs = [tensor.clone() for tensor in inputs]
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._result = self._step(*self._inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._result.clone()
