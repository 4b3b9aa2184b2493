"""Types of the compiled module; the sources are in ``csrc/``."""

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, TypedDict

import numpy as np
import numpy.typing as npt

from vintix_fast.kernels.reference import TaskConstants

_Float32 = npt.NDArray[np.float32]
_Int32 = npt.NDArray[np.int32]
_Int64 = npt.NDArray[np.int64]
_Bool = npt.NDArray[np.bool_]
_Bfloat16 = npt.NDArray[np.uint16]
"""Its bits, for numpy has no such type."""

class WriterStats(TypedDict):
    queue_capacity: int
    max_queue_depth: int
    waits: int
    """``append`` calls that found the queue full."""
    wait_seconds: float
    """What they waited together."""

class TrajectoryWriter:
    """Writes the transitions of many environments to one HDF5 file, from a thread of its own.

    The file grows as ``<path>.partial`` (an older one is replaced) and is flushed every ``flush_every`` steps; a killed
    process leaves it readable up to the last flush (``vintix_fast.data.read_trajectories`` reads it).  ``close`` gives
    it its final form and name.  As a context manager: ``close`` at the end, ``abort`` when the block raises.

    Not to be used, nor destroyed, in a forked child.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        num_envs: int,
        fields: Sequence[tuple[str, Sequence[int], Literal["float32", "int32", "uint8"]]],
        attributes_json: Mapping[str, str],
        queue_capacity: int = 64,
        flush_every: int = 100,
        block_len: int = 1000,
    ) -> None:
        """Creates ``<path>.partial``.

        Args:
            num_envs: 1 to 8000.
            fields: name, shape of one transition, dtype.
            attributes_json: written as string attributes of the file, whatever the strings hold.
            queue_capacity: steps that ``append`` can be ahead of the thread.
            flush_every: steps between two flushes; at most so many are lost when the process is killed, besides the
                queue.
            block_len: most transitions in one HDF5 group.

        Raises:
            ValueError: An argument is out of range.
            OSError: The file cannot be created.
        """

    def append(self, arrays: dict[str, npt.NDArray[np.generic]], active: npt.NDArray[np.uint8] | _Bool) -> None:
        """Copies one step of all environments; waits, without the GIL, only while the queue is full.

        Args:
            arrays: for each field a C-contiguous array ``[num_envs, *shape]`` of exactly its dtype.
            active: ``[num_envs]``; only environments that are not 0 get a transition.

        Raises:
            TypeError, ValueError: An array is not as described (nothing was taken), or the writer is closed.
            OSError: Writing failed earlier; ``cannot write <path>.partial: <cause>``, with ``errno`` where known.
        """

    def close(self) -> None:
        """Writes what is queued, finishes the file and renames it to ``<path>``, replacing an older one.

        Does nothing the second time, or after ``abort``.

        Raises:
            OSError: Writing failed, now or earlier; what was flushed stays in ``<path>.partial``.
        """

    def abort(self) -> None:
        """Writes what is queued and closes ``<path>.partial`` under that name.  Never raises."""

    @property
    def stats(self) -> WriterStats: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]: ...

class TaskStep:
    """The walking task in one pass over N environments on a CPU: `vintix_fast.kernels.reference`'s in C++.

    Raises:
        ValueError: The reward has another number of terms than there are weights.
    """

    def __init__(self, constants: TaskConstants) -> None: ...
    def step(
        self,
        state: Sequence[_Float32],
        action: _Float32,
        solver_failed: _Bool,
        last_action: _Float32,
        step_num: _Int32,
        command: _Float32 | None = None,
    ) -> tuple[_Float32, _Float32, _Bool, _Bool, _Bool]:
        """Returns observation ``[N, 9 + 2 J]``, reward, terminated, truncated, failed ``[N]``, all new arrays.

        Releases the GIL.

        Args:
            state: base_pos_m ``[N, 3]``, base_quat ``[N, 4]`` (w, x, y, z), base_lin_vel_m_s and base_ang_vel_rad_s
                ``[N, 3]``, joint_pos_rad and joint_vel_rad_s ``[N, J]``; these and ``action`` with any strides that are
                whole elements.
            action: ``[N, J]``.
            solver_failed: ``[N]``.
            last_action: C-contiguous ``[N, J]``, the action of one step before; becomes ``action``, clipped.
            step_num: ``[N]``; becomes one more.
            command: ``[N, 3]``, where environments have commands of their own; any strides.

        Raises:
            TypeError, ValueError: An array's dtype, shape or strides are not as described; nothing was written.
        """

    def observe(
        self, state: Sequence[_Float32], mask: _Bool, observation: _Float32, command: _Float32 | None = None
    ) -> None:
        """Writes the rows of ``observation``, C-contiguous ``[N, 9 + 2 J]``, whose ``mask`` is set; see ``step``."""

class CpuFeatures(TypedDict):
    """What this processor can do, as far as it makes a difference here."""

    decoders: list[str]
    """Instruction sets that `PolicyDecoder` can use, the fastest first."""
    bfloat16: bool
    """Whether it multiplies bfloat16, in AVX-512."""
    bfloat16_kernels: bool
    """Whether `CausalAttention`, `DecoderLoss` and `norm_elu` run: it does, and this build's compiler knew how."""

def cpu_features() -> CpuFeatures: ...

class PolicyDecoder:
    """A policy's decode step for N environments on the CPU, in threads of its own.

    `vintix_fast.policy.CompiledPolicy` says what the arguments mean and makes them from a model.  All methods belong
    to one thread.  Not to be used, nor destroyed, in a forked child.
    """

    def __init__(
        self,
        weights: Mapping[str, _Float32],
        *,
        num_envs: int,
        parallel_residual: bool,
        action_first: bool,
        reward_scale: float,
        slopes: Sequence[float],
        score_bounds: Sequence[float],
        spans: Sequence[Sequence[int]],
        cache_dtype: str,
        dropped_mass: float,
        threads: int,
        implementation: str = "",
    ) -> None:
        """Copies the weights, whose shapes say all sizes, and reserves the cache.

        Args:
            action_first: whether tokens are action | reward | observation, or observation | action | reward.
            slopes: ALiBi's, one for each head.
            score_bounds: of |q . k| / sqrt(head_dim), one for each layer; infinity where there is none.
            spans: [layers][heads], tokens that a head may see, the new one included.
            cache_dtype: "float32" or "int8".

        Raises:
            TypeError, ValueError: an argument is not as described, a weight is missing or has another shape.
            MemoryError: the cache does not fit.
        """

    def reset(self, mask: _Bool | None = None) -> None:
        """Forgets the histories where ``mask`` [N] is true, or all; and a step that was begun."""

    def begin(self, observation: _Float32, prev_action: _Float32, prev_reward: _Float32, step_num: _Int32) -> None:
        """Starts a step; what is given ([N, obs], [N, act], [N], [N], C-contiguous) is copied.

        Raises:
            TypeError, ValueError: an array is not as described.
            RuntimeError: the step before was not finished.
        """

    def finish(self) -> _Float32:
        """Helps to decode what is left, without the GIL, and returns the actions [N, act].

        Raises:
            RuntimeError: no step was begun.
        """

    @property
    def implementation(self) -> str: ...
    @property
    def bytes_per_env(self) -> int:
        """Bytes of keys, values and their scales that are kept for an environment."""

    @property
    def bytes_read(self) -> int:
        """Bytes of keys, values and their scales that all steps have read."""

class CausalAttention:
    """Causal attention with ALiBi over queries and keys that it normalises; `vintix_fast.train.compiled` says more.

    Arrays are C-contiguous, and nothing may write to those that this was made of.
    B sequences of T tokens, H heads of D dimensions, a multiple of 32.

    Raises:
        TypeError, ValueError: an array is not as described, here and in the passes.
        RuntimeError: the processor or the build has no `bfloat16_kernels`.
    """

    def __init__(
        self,
        qkv: _Bfloat16,
        slopes: _Float32,
        q_weight: _Float32,
        q_bias: _Float32,
        k_weight: _Float32,
        k_bias: _Float32,
        *,
        first: _Int32 | None,
        norm_eps: float,
        dropped_mass: float,
        threads: int,
    ) -> None:
        """[B, T, 3, H, D], [H], four of [D], and [B, T] or None where every sequence is one history."""

    @property
    def weights_size(self) -> int:
        """How many numbers the backward pass needs from the forward pass."""

    @property
    def tiles(self) -> int:
        """In a sequence."""

    def forward(self, out: _Bfloat16, sums: _Float32, stops: _Int32, weights: _Bfloat16 | None) -> None:
        """Writes [B, T, H, D], [B, H, T], [B, H, tiles] and at least [weights_size], aligned to 64 bytes, or nothing.

        Releases the GIL.
        """

    def backward(
        self,
        out: _Bfloat16,
        sums: _Float32,
        stops: _Int32,
        weights: _Bfloat16,
        grad_out: _Bfloat16,
        grad_qkv: _Bfloat16,
    ) -> None:
        """Takes what `forward` wrote and [B, T, H, D], and writes [B, T, 3, H, D].  Releases the GIL."""

NORM_ELU_COLUMNS: int
"""What the last dimension that `norm_elu` takes is a multiple of."""

def norm_elu(x: _Bfloat16, bias: _Float32, gain: _Float32, shift: _Float32, eps: float, out: _Bfloat16) -> None:
    """Writes elu(gain * norm(x + bias) + shift) to ``out``; releases the GIL.

    Args:
        x, out: [K, B, H]; the norm is over H.
        bias, gain, shift: [K, H].

    Raises:
        TypeError, ValueError: an array is not as described.
        RuntimeError: the processor or the build has no `bfloat16_kernels`.
    """

def norm_elu_backward(
    x: _Bfloat16,
    bias: _Float32,
    gain: _Float32,
    shift: _Float32,
    eps: float,
    grad_out: _Bfloat16,
    grad_x: _Bfloat16,
    grad_bias: _Float32,
    grad_gain: _Float32,
    grad_shift: _Float32,
) -> None:
    """Takes `norm_elu`'s inputs and the gradient of its ``out``, and writes theirs; the same shapes and errors."""

class DecoderLoss:
    """A decoder's loss and gradients, in threads of its own; `vintix_fast.train.compiled` says more.

    Not to be used, nor destroyed, in a forked child.
    """

    COLUMNS: int
    """What ``width`` is a multiple of."""
    ACTIONS: int
    """The most that ``actions`` may be."""

    def __init__(self, *, layers: int, width: int, actions: int, slope: float, threads: int) -> None:
        """
        Raises:
            ValueError: a size is out of range.
            RuntimeError: the processor or the build has no `bfloat16_kernels`.
        """

    def run(
        self,
        *,
        rows: _Int64,
        hidden: _Bfloat16,
        target: _Float32,
        weight: _Float32,
        scale: _Float32,
        shift: _Float32,
        parameters: Sequence[_Float32],
        grads: Sequence[_Float32],
        grad_hidden: _Bfloat16 | None,
    ) -> float:
        """Writes the gradients and returns the loss; releases the GIL.

        Args:
            rows: [n], which tokens.
            hidden, target, weight: [tokens, width], [tokens, actions], [tokens].
            scale, shift: [actions].
            parameters, grads: weight and bias of each layer in turn; read, and written.
            grad_hidden: [n, width]; None where nobody wants it.

        Raises:
            TypeError, ValueError: an array is not as described, or ``rows`` points outside.
        """
