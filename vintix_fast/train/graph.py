"""The adapter's loss, from encoders to error, as one graph of ``torch.compile``, and its backward pass as another.

The trunk's weights are constants of the graph's gradient.  Inductor writes kernels for what lies between the products
and the own operators (``compiled.py``, ``vintix_fast/kernels/causal_attention.py``); they are kept in
``TORCHINDUCTOR_CACHE_DIR``, see `vintix_fast.service.home`.  Knows nothing about optimisers and what a step is of.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from vintix_fast.config import FinetuneConfig
from vintix_fast.service.device import multiplies_bf16
from vintix_fast.service.errors import UsageError, VintixFastError, cause

COMPILED_BY_DEFAULT: tuple[str, ...] = ()
"""Devices on which --compile auto compiles: where it was measured to gain; docs/performance.md has the figures."""


def compiles(choice: str, device: torch.device | str) -> bool:
    """Whether a training with this ``--compile`` on this device is compiled."""
    return choice == "on" or (choice == "auto" and torch.device(device).type in COMPILED_BY_DEFAULT)


def check_compiler(config: FinetuneConfig, device: torch.device | str) -> None:
    """Raise UsageError if ``--compile on`` cannot be had here."""
    if config.compile != "on":
        return
    if config.bf16 is None and not multiplies_bf16(device):
        raise UsageError("--compile on has no effect here: nothing multiplies bfloat16, and float32 is not compiled")
    if torch.device(device).type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UsageError(
            "--compile on: torch.compile needs a C++ compiler on a CPU, and finds none; install g++ "
            "(apt-get install g++), name one in the variable CXX, or leave --compile out"
        ) from None


def of_any_size(tensor: torch.Tensor, *dims: int) -> torch.Tensor:
    """The tensor, marked so that a graph that takes it is of no particular size there; 1 is always particular."""
    for dim in dims:
        torch._dynamo.maybe_mark_dynamic(tensor, dim)
    return tensor


@functools.cache
def _compiled(function: Callable) -> Callable:
    """Once in a process: the next loop's models and windows are arguments like the last's, and find its graph."""
    # Kept on disk whole: what autocast is told stands in the graph, by which it is found again.
    name = "unsafe_marked_cacheable_functions"
    autocast = {f"torch.amp.autocast_mode._{verb}_autocast": "its arguments" for verb in ("enter", "exit")}
    from torch._inductor import config  # earlier versions of torch do not know the option

    options: dict[str, Any] = {name: autocast} if hasattr(config, name) else {}
    return torch.compile(function, fullgraph=True, options=options)


def one_graph(
    loss: functools.partial[torch.Tensor], example: Sequence[torch.Tensor], required: bool
) -> Callable[..., torch.Tensor]:
    """``loss`` compiled, of a function that torch can put into one graph; as it is where it cannot be compiled.

    Tried out on ``example``, forwards and backwards, so that both are compiled when this returns.

    Args:
        loss: a module's function with its constants.
        required: that it cannot be compiled is an error, and not only said on standard error.

    Raises:
        VintixFastError: it is required and cannot be compiled.
    """
    try:
        compiled = functools.partial(_compiled(loss.func), *loss.args)
        compiled(*example).backward()
    except Exception as error:  # of Dynamo, Inductor, triton, the C++ compiler: they share no base
        why = cause(getattr(error, "inner_exception", error))
        if required:
            raise VintixFastError(f"--compile on: torch.compile failed ({why}); leave it out") from error
        print(f"vintix-fast: fine-tuning runs uncompiled: torch.compile failed ({why})", file=sys.stderr)
        return loss
    return compiled
