"""Attention over whole windows against the formula written out: blocks, bands, several histories in a sequence."""

import pytest
import torch
from dense_attention import dense, firsts
from fakes import tiny_model

from vintix_fast.model.layers import alibi_slopes
from vintix_fast.model.transformer import _attend, _attend_fused
from vintix_fast.train import compiled
from vintix_fast.train.frozen import frozen

needs_kernel = pytest.mark.skipif(not compiled.fits_attention(32, 0.0), reason="this processor multiplies no bfloat16")
ROUNDING = 5e-3
"""bfloat16 rounds a number by up to 2^-8; torch's own bfloat16 is exact where a token sees only itself."""
SHAPES = [(2, 200, 4, 64), (1, 130, 2, 32), (1, 1, 2, 64), (1, 64, 1, 96), (3, 333, 4, 32)]


def error(value, truth):
    return float((value.detach().double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("histories", [1, 4])
@pytest.mark.parametrize("length", [1, 127, 128, 300])
def test_blocks_bands_and_torchs_own_are_dense_attention_with_its_gradients(length, histories):
    torch.manual_seed(0)
    parts = [torch.randn(2, length, 4, 16) for _ in range(3)]
    grad = torch.randn(2, length, 4, 16)
    first = None if histories == 1 else firsts(2, length)
    # Scores of unit vectors are within 1: beyond 100 keys the steep head's weights are below exp(2 - 25).
    q, k, v = (x / x.norm(dim=-1, keepdim=True) * 2 for x in parts)
    results = []
    for attend in (
        lambda *x: _attend(*x, [100, length, length, length], first, 0.0),
        lambda *x: _attend_fused(*x, first, 0.0),
        lambda *x: dense(*x, first),
    ):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attend(*inputs)
        out.backward(grad)
        results.append([out.detach(), *(x.grad for x in inputs)])
    for blocked, fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(blocked, plain, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(fused, plain, atol=2e-6, rtol=1e-5)


def kernel_and_truth(shape, first, dropped_mass=compiled.DROPPED_MASS):
    """Output and gradient of q | k | v: the kernel's, torch's in bfloat16, and the formula's in float64."""
    n, length, heads, dim = shape
    torch.manual_seed(length)
    qkv, grad = torch.randn(n, length, 3, heads, dim).bfloat16(), torch.randn(n, length, heads, dim).bfloat16()
    norms = [torch.nn.LayerNorm(dim) for _ in range(2)]
    for norm in norms:
        norm.requires_grad_(False)
        norm.weight.add_(0.3 * torch.randn(dim))
        norm.bias.add_(0.2 * torch.randn(dim))
    slopes = torch.tensor(alibi_slopes(heads))

    def plain(x, dtype):
        q, k, v = x.unbind(2)
        q, k = (
            torch.nn.functional.layer_norm(part, (dim,), norm.weight.to(dtype), norm.bias.to(dtype))
            for part, norm in zip((q, k), norms, strict=True)
        )
        return dense(q, k, v, first)

    results = []
    for attend, dtype in (
        (lambda x: compiled.causal_attention(x, slopes, *norms, first, dropped_mass), torch.bfloat16),
        (lambda x: plain(x, torch.bfloat16), torch.bfloat16),
        (lambda x: plain(x, torch.float64), torch.float64),
    ):
        x = qkv.detach().to(dtype).requires_grad_()
        out = attend(x)
        out.backward(grad.to(dtype))
        results.append((out.detach(), x.grad))
    return results


@needs_kernel
@pytest.mark.parametrize("histories", [1, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_is_as_exact_as_bfloat16_allows(shape, histories):
    first = None if histories == 1 else firsts(shape[0], shape[1])
    (out, grad), (torch_out, torch_grad), (true_out, true_grad) = kernel_and_truth(shape, first)
    assert error(out, true_out) <= max(error(torch_out, true_out), ROUNDING)
    parts = range(2 if shape[1] == 1 else 0, 3)  # the only key of a query has no say in its score
    for part in parts:
        truth = true_grad[:, :, part]
        assert error(grad[:, :, part], truth) <= max(error(torch_grad[:, :, part], truth), ROUNDING)


@needs_kernel
@pytest.mark.parametrize("mass", [compiled.DROPPED_MASS, 0.1])
def test_what_the_kernel_leaves_out_is_within_the_mass_it_may_drop(mass):
    (exact, exact_grad), (rough, rough_grad) = (kernel_and_truth((1, 700, 4, 32), None, m)[0] for m in (0.0, mass))
    assert error(rough, exact.double()) < 1e-3
    assert 0.0 < error(rough_grad, exact_grad.double()) < mass


@needs_kernel
def test_the_kernels_backward_pass_reads_a_narrow_band_in_steep_heads():
    norm = torch.nn.LayerNorm(32).requires_grad_(False)
    qkv = torch.randn(1, 1000, 3, 4, 32).bfloat16().requires_grad_()

    def oldest(dropped_mass):
        """The oldest tile of keys, of 64, that the last tile of queries needs, for each head."""
        out = compiled.causal_attention(qkv, torch.tensor(alibi_slopes(4)), norm, norm, None, dropped_mass)
        return out.grad_fn.saved_tensors[3][0, :, -1].tolist()

    assert oldest(0.0)[3] == 0
    steep, next_steep, _, flat = oldest(compiled.DROPPED_MASS)
    assert steep >= 12 and steep > next_steep > flat


@needs_kernel
def test_the_kernel_gives_the_same_on_any_number_of_threads(monkeypatch):
    once = kernel_and_truth((2, 150, 4, 32), None)[0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for a, b in zip(once, kernel_and_truth((2, 150, 4, 32), None)[0], strict=True):
        assert torch.equal(a, b)


@needs_kernel
def test_two_forward_passes_may_wait_for_their_backward_passes():
    norm = torch.nn.LayerNorm(32).requires_grad_(False)
    slopes = torch.tensor(alibi_slopes(2))
    torch.manual_seed(0)
    inputs = [torch.randn(1, 100, 3, 2, 32).bfloat16().requires_grad_() for _ in range(2)]

    def gradient(x):
        x.grad = None
        compiled.causal_attention(x, slopes, norm, norm).float().square().sum().backward()
        return x.grad

    alone = [gradient(x).clone() for x in inputs]
    for x in inputs:
        x.grad = None
    outs = [compiled.causal_attention(x, slopes, norm, norm) for x in inputs]
    sum(out.float().square().sum() for out in outs).backward()
    assert all(torch.equal(x.grad, grad) for x, grad in zip(inputs, alone, strict=True))
    with pytest.raises(RuntimeError):
        outs[0].sum().backward()


@needs_kernel
def test_the_kernel_refuses_what_it_would_compute_wrongly():
    norm = torch.nn.LayerNorm(32).requires_grad_(False)
    slopes = torch.tensor(alibi_slopes(2))
    qkv = torch.zeros(1, 10, 3, 2, 32).bfloat16()
    with pytest.raises(TypeError, match="qkv: expected a numpy array of dtype uint16, got dtype float32"):
        compiled.causal_attention(qkv.float(), slopes, norm, norm)
    with pytest.raises(ValueError, match=r"qkv: expected .*3, H, D\], D a multiple of 32, got \[1, 10, 3, 64\]"):
        compiled.causal_attention(qkv.flatten(3), slopes, norm, norm)
    with pytest.raises(ValueError, match=r"slopes: expected .* \[2\], got shape \(1,\)"):
        compiled.causal_attention(qkv, slopes[1:], norm, norm)
    wide = torch.nn.LayerNorm(64).requires_grad_(False)
    with pytest.raises(ValueError, match=r"k_weight: expected .* \[32\], got shape \(64,\)"):
        compiled.causal_attention(qkv, slopes, norm, wide)
    with pytest.raises(ValueError, match="frozen"):
        compiled.causal_attention(qkv, slopes, torch.nn.LayerNorm(32), norm)
    with pytest.raises(ValueError, match=r"first: expected .* \[1, 10\], got shape \(1, 9\)"):
        compiled.causal_attention(qkv, slopes, norm, norm, torch.zeros(1, 9, dtype=torch.int32))
    assert not compiled.fits_attention(16, 1.0) and not compiled.fits_attention(64, float("inf"))


@pytest.mark.parametrize("heads", [1, 2], ids=["one head of 64", "two of 32"])
def test_the_frozen_transformer_is_the_models_and_leaves_it_alone(heads):
    model = tiny_model(hidden_dim=64, action_emb_dim=31, observation_emb_dim=31, transformer_heads=heads)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    token, first = torch.randn(2, 150, 64), firsts(2, 150)
    truth = model.transformer(token, first).detach()
    assert torch.equal(frozen(model.transformer, bf16=False)(token, first), truth)
    assert error(frozen(model.transformer, bf16=True)(token, first), truth.double()) < 1e-2
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
