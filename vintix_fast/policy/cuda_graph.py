"""The policy's whole step as one CUDA graph, on a stream of its own.

Owns the buffers that the graph reads and writes, and the order between its stream and the caller's.  Events order the
two: the host waits for nothing, and a replay costs it one launch instead of about a hundred.

Actions have one step of latency, so the simulator's step executes the *previous* action and needs nothing that is
decided now.  Between `begin` and `finish` the graph therefore runs beside the caller's physics, which stays on the
current stream: both are busy with one group of environments, and there is no need for a second one.

Without CUDA the same step runs eagerly.  Knows nothing about tasks, noise or files; the collector drives it.
"""

from __future__ import annotations

import torch

from vintix_fast.kernels.reference import standardise
from vintix_fast.model import Vintix
from vintix_fast.model.transformer import NEGLIGIBLE_MASS
from vintix_fast.policy.policy import Policy
from vintix_fast.service.errors import UsageError

WARM_UP_STEPS = 3  # before a capture: kernels are compiled and libraries allocate their workspaces


class GraphPolicy(Policy):
    """Acts as `Policy` does, on the device that the model is on.

    Weights may be changed in place at any time.  Where they were replaced instead, `reset` captures the step anew.

    Args:
        model, task_name, num_envs, context_len, dtype: see `Policy`.
        dropped_mass: see `Transformer.spans`.
        capture: False runs the step's hundred launches one by one on CUDA too.

    Raises:
        UsageError: see `ContextCache`.
    """

    def __init__(
        self,
        model: Vintix,
        task_name: str,
        num_envs: int,
        context_len: int,
        dtype: torch.dtype = torch.float32,
        dropped_mass: float = NEGLIGIBLE_MASS,
        capture: bool = True,
    ) -> None:
        super().__init__(model, task_name, num_envs, context_len, dtype)
        self._device, self._dropped_mass, self._capturing = model.device, dropped_mass, capture
        self._standardised = torch.zeros(num_envs, model.tasks[task_name].observation_dim, device=self._device)
        self._step_num = torch.zeros(num_envs, dtype=torch.long, device=self._device)
        self._action = torch.zeros_like(self._last_action)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured: tuple[int, ...] = ()  # where the weights were then
        self.reset()

    @property
    def statistics(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        return self.model.observation_statistics(self.task_name)

    def reset(self, mask: torch.Tensor | None = None) -> None:
        """Start the histories anew where ``mask`` (bool [N]) is true, without waiting, or all of them.

        Starting all anew also takes notice of what training did to the weights, and may wait for the device.
        """
        self._join()
        if mask is None:
            self.model.eval()
            spans = self.model.transformer.spans(self._cache.context_len, self._dropped_mass)
            self._cache.spans.copy_(torch.tensor(spans))
            if self._stream is not None and self._capturing and self._captured != self._addresses():
                self._capture(self._stream)
        self._cache.reset(mask)

    def begin(
        self, observation: torch.Tensor, step_num: torch.Tensor, standardised: torch.Tensor | None = None
    ) -> None:
        """Start to decide on the policy's stream, once the current stream has come to this point."""
        if observation.shape != self._standardised.shape:
            raise UsageError(f"observation must be {list(self._standardised.shape)}, got {list(observation.shape)}")
        self._join()
        if standardised is None:
            standardised = standardise(observation, *self.statistics) if self.statistics else observation
        self._standardised.copy_(standardised)
        self._step_num.copy_(step_num)
        if self._stream is None:
            self._decide()
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            if self._graph is None:
                self._decide()
            else:
                self._graph.replay()

    def finish(self) -> torch.Tensor:
        """The action [N, A]; what the current stream does from here on comes after it was decided."""
        self._join()
        return self._action.clone()  # the next step overwrites the graph's own

    def act(self, observation: torch.Tensor, step_num: torch.Tensor) -> torch.Tensor:
        self.begin(observation, step_num)
        return self.finish()

    @torch.inference_mode()
    def _decide(self) -> None:
        action = self.model.decode(
            self.task_name, self._standardised, self._last_action, self._last_reward, self._step_num, self._cache,
            standardised=True,
        )  # fmt: skip
        self._action.copy_(action)

    def _join(self) -> None:
        """The current stream goes on only after the policy's; the host goes on at once."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def _addresses(self) -> tuple[int, ...]:
        return tuple(tensor.data_ptr() for tensor in (*self.model.parameters(), *self.model.buffers()))

    def _capture(self, stream: torch.cuda.Stream) -> None:
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._decide()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._decide()
        self._captured = self._addresses()
        self._join()
