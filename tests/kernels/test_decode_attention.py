"""Attention of one token over a ring: plain torch against softmax written out, the Triton kernel against plain torch.

Parity runs in Triton's interpreter, and on a device where there is one.
"""

import itertools

import pytest
import torch
from interpreter import Compiler, interpret, run_python

from vintix_fast.kernels import reference
from vintix_fast.kernels.reference import Ring, quantise
from vintix_fast.model.layers import alibi_slopes

DTYPES = (torch.float32, torch.int8)
TOLERANCE = 2e-5
"""Averages, of about 1, of at most 200 float32 numbers whose weights are sums in another order."""
# environments, heads, head_dim, slots, this step's slot: one and several blocks of 64, ring wrapped or not
SHAPES = [
    (1, 4, 64, 200, 199),
    (7, 3, 16, 65, 3),
    (2, 2, 24, 64, 63),
    (3, 1, 48, 5, 0),
    (2, 3, 10, 70, 9),
    (64, 1, 32, 130, 64),
]


def make_ring(vectors_k, vectors_v, dtype):
    """Vectors [N, H, C, D] as a ring of this dtype."""
    if dtype == torch.int8:
        (keys, key_scales), (values, value_scales) = quantise(vectors_k), quantise(vectors_v)
        return Ring(keys, values, key_scales, value_scales)
    return Ring(vectors_k.to(dtype), vectors_v.to(dtype))


def make_inputs(shape, dtype, seed=0, device="cpu"):
    """The arguments of `attend`; histories of length 1, C and between, spans of 1, a few and all."""
    envs, heads, dim, slots, slot = shape
    generator = torch.Generator().manual_seed(seed)
    # As a projection gives them: views of one tensor, neither of which is contiguous.
    qkv = 2.0 * torch.randn(envs, 3, heads, dim, generator=generator).to(device)
    ring = make_ring(*torch.randn(2, envs, heads, slots, dim, generator=generator).to(device), dtype)
    length = torch.randint(0, slots + 1, (envs,), generator=generator, dtype=torch.int32)
    length[:3] = torch.tensor([slots, 0, 1])[:envs]  # 0: as 1, the new token is always seen
    span = torch.tensor([slots, 3, 1, max(1, slots - 1)][:heads], dtype=torch.int32)
    slopes = torch.tensor(alibi_slopes(heads))
    numbers = (x.to(device) for x in (torch.tensor([slot]), length, span, slopes))
    return *qkv.unbind(1), ring, *numbers


def copied(ring):
    return Ring(*(part if part is None else part.clone() for part in ring))


def check_attend(device):
    """Compares the kernel with the plain version; also run in the interpreter, by the test below."""
    from vintix_fast.kernels import decode_attention

    for shape, dtype in itertools.product(SHAPES, DTYPES):
        q, k, v, ring, *rest = make_inputs(shape, dtype, device=device)
        expected_ring = copied(ring)
        expected = reference.attend(q, k, v, expected_ring, *rest)
        out = decode_attention.attend(q, k, v, ring, *rest)
        assert torch.allclose(out, expected, atol=TOLERANCE, rtol=TOLERANCE), (
            shape,
            dtype,
            (out - expected).abs().max(),
        )
        for part, expected_part in zip(ring, expected_ring, strict=True):
            assert part is expected_part is None or torch.equal(part, expected_part), (shape, dtype)


def test_the_plain_version_is_softmax_over_the_visible_tokens():
    """Written out for one environment and head at a time, in float64."""
    for shape in SHAPES[:4]:
        q, k, v, ring, slot, length, span, slopes = make_inputs(shape, torch.float32)
        out = reference.attend(q, k, v, ring, slot, length, span, slopes)
        for env, head in itertools.product(range(shape[0]), range(shape[1])):
            seen = max(1, min(int(length[env]), int(span[head])))
            ages = range(seen)
            keys = torch.stack([ring.keys[env, head, int(slot) - age] for age in ages]).double()
            values = torch.stack([ring.values[env, head, int(slot) - age] for age in ages]).double()
            assert torch.equal(keys[0].float(), k[env, head]) and torch.equal(values[0].float(), v[env, head])
            scores = keys @ q[env, head].double() / shape[2] ** 0.5 - slopes[head] * torch.arange(seen)
            expected = scores.softmax(0) @ values
            torch.testing.assert_close(out[env, head].double(), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_coarse_ring_stays_within_its_bound_of_float32():
    """A key off by e changes a score by at most |q . e| / sqrt(D) <= d, and then a weight by a factor of exp(+-2 d).

    Rounding is at most 1/254 of a vector's largest number.
    """
    shape = SHAPES[0]
    q, k, v, exact, *rest = make_inputs(shape, torch.float32, seed=3)
    coarse = make_ring(exact.keys, exact.values, torch.int8)
    expected, out = reference.attend(q, k, v, exact, *rest), reference.attend(q, k, v, coarse, *rest)

    def rounding(x):
        return (x.abs().amax(-1, keepdim=True) / 254).expand_as(x)

    score_error = (q[:, :, None].abs() * rounding(exact.keys)).sum(-1).amax(-1) / shape[2] ** 0.5  # [N, H]
    largest = exact.values.abs().amax(2)  # [N, H, D]
    bound = torch.expm1(2 * score_error)[..., None] * 2 * largest + rounding(exact.values).amax(2)
    error = (out - expected).abs()
    assert (error <= bound).all() and error.max() > 0
    assert error.max() < 0.03  # the bound is wide; usual errors are not


def test_quantised_vectors_round_to_the_nearest_and_zeros_stay_zeros():
    x = torch.tensor([[127.0, -2.5, 1.5, 0.4], [0.0, 0.0, 0.0, 0.0], [-254.0, 1.0, 3.0, 253.0]])
    integers, scale = quantise(x)
    assert integers.tolist() == [[127, -2, 2, 0], [0, 0, 0, 0], [-127, 0, 2, 126]]
    assert scale[[0, 2]].tolist() == [1.0, 2.0]
    noise = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    integers, scale = quantise(noise)
    assert ((integers * scale[:, None] - noise).abs() <= 0.5001 * scale[:, None]).all()


def test_triton_kernel_in_the_interpreter():
    pytest.importorskip("triton", reason="triton is not installed")
    interpret("import test_decode_attention; test_decode_attention.check_attend('cpu')")


def check_compiles():
    from vintix_fast.kernels import decode_attention

    compiler = decode_attention._attend_kernel = Compiler(decode_attention._attend_kernel)
    for dtype in DTYPES:
        decode_attention.attend(*make_inputs((2, 4, 64, 65, 1), dtype))
    assert all(compiled.asm["cubin"] for compiled in compiler.compiled)


def test_triton_kernel_compiles_for_a_gpu():
    pytest.importorskip("triton", reason="triton is not installed")
    run_python("import test_decode_attention; test_decode_attention.check_compiles()")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_triton_kernel_on_the_gpu():
    check_attend("cuda")
