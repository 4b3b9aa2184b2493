"""The critic's networks: in the compiled core they give what plain torch gives, and so do their gradients."""

import numpy as np
import pytest
import torch

from vintix_fast import _core
from vintix_fast.improve.twins import TwinQ

STATE, ACTION, HIDDEN, BATCH = 21, 5, 48, 37
needs_kernel = pytest.mark.skipif(not _core.cpu_features()["bfloat16_kernels"], reason="no AVX-512 with bfloat16")


def networks(**options):
    """Twins whose norms do something, too."""
    torch.manual_seed(0)
    twins = TwinQ(STATE, ACTION, HIDDEN, **options)
    for layer in twins.hidden_layers:
        layer.gain.data += 0.3 * torch.randn(2, HIDDEN)
        layer.shift.data += 0.3 * torch.randn(2, HIDDEN)
    return twins


def values_and_gradients(twins):
    state = torch.randn(BATCH, STATE, generator=torch.Generator().manual_seed(1))
    deviation = (0.3 * torch.randn(BATCH, ACTION, generator=torch.Generator().manual_seed(2))).requires_grad_()
    values = twins(state, deviation)
    return values, torch.autograd.grad(values.square().sum(), [deviation, *twins.parameters()])


@needs_kernel
def test_the_compiled_pass_gives_what_float32_gives_to_bfloat16s_precision():
    exact, exact_gradients = values_and_gradients(networks())
    values, gradients = values_and_gradients(networks(bf16=True))
    assert values.shape == (2, BATCH)
    assert (values - exact).norm() < 0.01 * exact.norm()
    for got, expected in zip(gradients, exact_gradients, strict=True):
        assert got.shape == expected.shape
        assert 0 < (got - expected).norm() < 0.02 * expected.norm()


def test_the_two_networks_do_not_see_each_other():
    twins = networks()
    before, _ = values_and_gradients(twins)
    with torch.no_grad():
        for parameter in twins.parameters():
            parameter[1] += 0.1
    after, _ = values_and_gradients(twins)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


@needs_kernel
def test_rows_that_are_all_one_number_stay_finite():
    x, out = np.zeros((2, 3, 16), np.uint16), np.ones((2, 3, 16), np.uint16)
    flat, one = np.zeros((2, 16), np.float32), np.ones((2, 16), np.float32)
    _core.norm_elu(x, flat, one, flat, 1e-5, out)
    assert (out == 0).all()


@needs_kernel
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 24)])
def test_arrays_that_do_not_fit_are_refused(shape):
    x = np.zeros(shape, np.uint16)
    row = np.zeros((2, shape[-1]), np.float32)
    with pytest.raises(ValueError, match="x: expected shape"):
        _core.norm_elu(x, row, row, row, 1e-5, x.copy())
