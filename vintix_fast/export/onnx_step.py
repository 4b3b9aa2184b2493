"""The model's cached step as ONNX: one token in, one action out, and the rings of keys and values in and out.

Owns the graph's inputs and outputs.  Everything else is the model's own code, traced.  Needs onnx and onnxscript, which
rsl_rl brings.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vintix_fast.model import Vintix
from vintix_fast.service.files import write_bytes

INPUTS = ("observation", "previous_action", "previous_reward", "step_num", "position", "keys", "values")
OUTPUTS = ("action", "next_position", "next_keys", "next_values")


class TracedCache:
    """`vintix_fast.model.ContextCache` for one environment, without state: the rings are given, and made anew.

    Args:
        keys, values: [L, H, C, D] float32.
        position: [1] integers, tokens in the history before this one.
    """

    num_envs = 1

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor, slopes: list[float]) -> None:
        self._keys, self._values, self._position, self._slopes = keys, values, position, slopes
        context_len = keys.shape[2]
        self._age = (position - torch.arange(context_len)) % context_len  # [C]
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def advance(self) -> None:
        """The position is given."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `vintix_fast.kernels.reference.attend`; q, k, v [1, H, D] -> [1, H, D]."""
        new = (self._age == 0)[None, :, None]
        keys = torch.where(new, k[0][:, None], self._keys[layer])
        values = torch.where(new, v[0][:, None], self._values[layer])
        self.keys.append(keys)
        self.values.append(values)
        slopes = torch.tensor(self._slopes)[:, None]
        scores = (keys @ (q[0] * q.shape[-1] ** -0.5)[:, :, None])[..., 0] - slopes * self._age
        scores = torch.where(self._age <= self._position, scores, -torch.inf)
        return (scores.softmax(dim=-1)[:, None] @ values)[None, :, 0]


class Step(nn.Module):
    """`Vintix.decode` of one environment, as a function of the rings."""

    def __init__(self, model: Vintix, task_name: str) -> None:
        super().__init__()
        self.model, self.task_name = model, task_name

    def forward(
        self,
        observation: Tensor,
        previous_action: Tensor,
        previous_reward: Tensor,
        step_num: Tensor,
        position: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `INPUTS` and `example_inputs` for shapes."""
        cache: Any = TracedCache(keys, values, position, self.model.transformer.slopes)
        action = self.model.decode(self.task_name, observation, previous_action, previous_reward, step_num, cache)
        return action, position + 1, torch.stack(cache.keys), torch.stack(cache.values)


def example_inputs(model: Vintix, task_name: str, context_len: int) -> tuple[Tensor, ...]:
    """Those of the first step, in the order of `INPUTS`: an empty history."""
    config, info = model.config, model.tasks[task_name]
    ring = (config.transformer_depth, config.transformer_heads, context_len, config.head_dim)
    return (
        torch.zeros(1, info.observation_dim),
        torch.zeros(1, info.action_dim),
        torch.zeros(1),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(ring),
        torch.zeros(ring),
    )


def write_onnx(path: Path, model: Vintix, contract: Mapping[str, Any]) -> None:
    """Write policy.onnx, float32, with the contract in its metadata; all of the context is read."""
    task_name = contract["task"]
    step = Step(model, task_name).eval()
    inputs = example_inputs(model, task_name, contract["context_len"])
    with _quietly():
        program: Any = torch.onnx.export(
            step, inputs, dynamo=True, input_names=list(INPUTS), output_names=list(OUTPUTS), verbose=False
        )
    proto = program.model_proto
    entries = {"contract": contract} | dict(contract)
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    write_bytes(path, proto.SerializeToString())


@contextlib.contextmanager
def _quietly() -> Any:
    """Without the exporter's remarks on itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
