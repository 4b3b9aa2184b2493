"""The Triton kernel of attention over whole windows against the formula in float64: output and gradients.

Parity runs in Triton's interpreter, and on a device where there is one.
"""

import itertools

import pytest
import torch
from dense_attention import dense, firsts
from interpreter import Compiler, interpret, run_python

from vintix_fast.model.layers import alibi_slopes

ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Of the whole result's norm: what is written and, before products, weights and scores' gradients are rounded."""
# windows of tokens, their length, heads, head_dim: blocks of 64 full and not, widths that are no power of two
SHAPES = [(2, 130, 4, 64), (1, 64, 2, 24), (3, 1, 1, 16), (1, 70, 3, 10), (1, 200, 3, 32)]
HEAD_SPANS = [5, 70, 1, 1000]


def make_inputs(shape, dtype, packed):
    """q, k, v, as views of one projection, the gradient of the output, spans and ``first``."""
    n, length, heads, dim = shape
    generator = torch.Generator().manual_seed(length)
    qkv = torch.randn(n, length, 3, heads, dim, generator=generator).to(dtype)
    grad = torch.randn(n, length, heads, dim, generator=generator).to(dtype)
    spans = torch.tensor(HEAD_SPANS[-heads:], dtype=torch.int32)
    return qkv, grad, spans, firsts(n, length, seed=length) if packed else None


def check_attention(device):
    from vintix_fast.kernels.causal_attention import causal_attention

    half = torch.float16 if device == "cpu" else torch.bfloat16  # the interpreter cannot multiply bfloat16
    for shape, dtype, packed in itertools.product(SHAPES, (torch.float32, half), (False, True)):
        qkv, grad, spans, first = make_inputs(shape, dtype, packed)
        exact = qkv.double().requires_grad_()
        truth = dense(*exact.unbind(2), first, spans)
        truth.backward(grad.double())
        own = qkv.to(device).requires_grad_()
        slopes = torch.tensor(alibi_slopes(shape[2]), device=device)
        out = causal_attention(*own.unbind(2), slopes, spans.to(device), None if first is None else first.to(device))
        out.backward(grad.to(device))
        for name, value, expected in (("out", out, truth), ("gradient", own.grad, exact.grad)):
            error = float((value.cpu().double() - expected).detach().norm() / expected.detach().norm())
            assert error < ROUNDING[dtype], (name, shape, dtype, packed, error)


def test_triton_kernel_in_the_interpreter():
    pytest.importorskip("triton", reason="triton is not installed")
    interpret("import test_causal_attention; test_causal_attention.check_attention('cpu')")


def check_compiles():
    from vintix_fast.kernels import causal_attention

    kernels = "_forward_kernel", "_query_gradient_kernel", "_key_gradient_kernel"
    for name in kernels:
        setattr(causal_attention, name, Compiler(getattr(causal_attention, name)))
    for dtype in (torch.float32, torch.bfloat16):
        for packed in (False, True):
            qkv, grad, spans, first = make_inputs((1, 64, 4, 64), dtype, packed)
            inputs = qkv.requires_grad_().unbind(2)
            slopes = torch.tensor(alibi_slopes(4))
            causal_attention.causal_attention(*inputs, slopes, spans, first).backward(grad)
    assert all(len(getattr(causal_attention, name).compiled) == 4 for name in kernels)


def test_triton_kernel_compiles_for_a_gpu():
    pytest.importorskip("triton", reason="triton is not installed")
    run_python("import test_causal_attention; test_causal_attention.check_compiles()")


def test_what_it_would_compute_wrongly_is_refused():
    pytest.importorskip("triton", reason="triton is not installed")
    from vintix_fast.kernels.causal_attention import causal_attention

    (q, k, v), spans = torch.zeros(3, 1, 10, 2, 16), torch.full((2,), 10, dtype=torch.int32)
    slopes = torch.tensor(alibi_slopes(2))
    with pytest.raises(ValueError, match="alike"):
        causal_attention(q, k, v.bfloat16(), slopes, spans)
    with pytest.raises(ValueError, match="spans"):
        causal_attention(q, k, v, slopes, spans.long())
    with pytest.raises(ValueError, match="first"):
        causal_attention(q, k, v, slopes, spans, torch.zeros(1, 9, dtype=torch.int32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_triton_kernel_on_the_gpu():
    check_attention("cuda")
