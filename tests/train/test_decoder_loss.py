"""The compiled loss of the action decoder against the decoder itself: values, gradients, and what it refuses."""

import copy

import pytest
import torch
from torch import nn

from vintix_fast import _core
from vintix_fast.model.layers import action_decoder
from vintix_fast.train import compiled

needs_kernel = pytest.mark.skipif(not _core.cpu_features()["bfloat16_kernels"], reason="no AVX-512 with bfloat16")
SHAPES = [(1, 64, 1), (15, 64, 12), (16, 256, 12), (17, 192, 16), (127, 64, 3), (129, 128, 12), (2100, 256, 12)]
"""Rows, features, actions."""


def make_task(rows, width, actions, layers=3):
    """A decoder, what `DecoderLoss` takes besides, and rows of which some come twice and most others not at all."""
    generator = torch.Generator().manual_seed(rows + width + actions)
    decoder = action_decoder(width, actions).layers
    decoder = nn.Sequential(*decoder[: 2 * layers], decoder[-1])
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.4 / max(width, 64) ** 0.5)
    transitions = 2 * rows + 5
    hidden = torch.randn(transitions, width, generator=generator).bfloat16()
    target = torch.randn(transitions, actions, generator=generator)
    weight = torch.rand(transitions, generator=generator)
    weight[::7] = 0.0
    scale, shift = torch.rand(2, actions, generator=generator) + torch.tensor([[0.5], [-0.5]])
    chosen = torch.randint(0, transitions, (rows,), generator=generator)
    weight[chosen[0]] = 1.0
    return decoder, (hidden, target, weight, scale, shift), chosen


def plain_loss(decoder, constants, rows):
    """Torch's, in the type of the decoder's parameters."""
    hidden, target, weight = (constant[rows] for constant in constants[:3])
    scale, shift = constants[3:]
    action = decoder(hidden.to(decoder[0].weight.dtype)) * scale + shift
    return ((action - target).square().mean(dim=1) * weight).sum() / weight.sum()


def rounded_results(decoder, constants, rows):
    """What `results` gives, written out in float64 with roundings to bfloat16 where the kernel has them."""

    def rounded(x):
        return x.bfloat16().double()

    hidden, target, weight = (constant[rows].double() for constant in constants[:3])
    scale, shift = (constant.double() for constant in constants[3:])
    linear = [(rounded(layer.weight.detach()), layer.bias.detach().double()) for layer in decoder[::2]]
    activations = [hidden]
    for matrix, bias in linear[:-1]:
        activations.append(rounded(nn.functional.leaky_relu(activations[-1] @ matrix.T + bias, 0.01)))
    error = (activations[-1] @ linear[-1][0].T + linear[-1][1]) * scale + shift - target
    grad = 2.0 * error * scale * (weight / weight.sum())[:, None] / len(scale)
    found = []
    for (matrix, _), activation in zip(reversed(linear), reversed(activations), strict=True):
        found = [rounded(grad).T @ activation, grad.sum(dim=0), *found]
        grad = rounded(grad) @ matrix
        grad = torch.where(activation > 0.0, grad, 0.01 * grad)
    return [(error.square().mean(dim=1) * weight).sum() / weight.sum(), *found]


def fused_loss(decoder, constants, rows):
    hidden, target, weight, *units = constants
    return compiled.DecoderLoss(decoder, *units)(hidden, target, weight, rows)


def results(loss, decoder):
    """The loss and the gradients of the decoder's parameters, in float64."""
    decoder.zero_grad()
    loss.backward()
    return [loss.detach().double()] + [parameter.grad.double() for parameter in decoder.parameters()]


def worst_error(values, truths):
    """The largest, over tensors, of the norm of the difference relative to the norm."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(values, truths, strict=True))


@needs_kernel
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_computes_the_loss_and_its_gradient(shape, layers):
    decoder, constants, rows = make_task(*shape, layers)
    fused = results(fused_loss(decoder, constants, rows), decoder)
    expected = rounded_results(decoder, constants, rows)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = results(plain_loss(decoder, constants, rows), decoder)
    exact = copy.deepcopy(decoder).double()
    truth = results(plain_loss(exact, [constant.double() for constant in constants], rows), exact)
    assert len(fused) == 3 + 2 * layers and all(value.norm() > 0.0 for value in fused)
    # Sums in another order: rarely, one is rounded to the next bfloat16.
    assert worst_error(fused, expected) < 2e-3
    # Rounding moves some of what goes into an activation function to the other side of 0.
    assert worst_error(fused, truth) < max(1.5 * worst_error(autocast, truth), 0.05)


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_decoded_gets_its_gradient(shape):
    decoder, (hidden, *constants), _ = make_task(*shape)
    everything = torch.arange(len(hidden))
    alone = results(fused_loss(decoder, [hidden, *constants], everything), decoder)
    inputs = hidden.clone().requires_grad_()
    together = results(fused_loss(decoder, [inputs, *constants], None), decoder)
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    exact, exact_inputs = copy.deepcopy(decoder).double(), hidden.double().requires_grad_()
    plain_loss(exact, [exact_inputs, *(constant.double() for constant in constants)], everything).backward()
    autocast_inputs = hidden.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        plain_loss(decoder, [autocast_inputs, *constants], everything).backward()
    truth = [exact_inputs.grad]
    assert worst_error([inputs.grad], truth) < max(1.5 * worst_error([autocast_inputs.grad], truth), 0.05)


@needs_kernel
def test_a_unit_at_exactly_zero_has_torchs_slope():
    decoder, constants, rows = make_task(100, 64, 12)
    with torch.no_grad():
        decoder[2].weight[:8], decoder[2].bias[:8] = 0.0, 0.0
    fused = results(fused_loss(decoder, constants, rows), decoder)
    truth = results(plain_loss(decoder, [constants[0].float(), *constants[1:]], rows), decoder)
    assert truth[4][:8].norm() > 0.0
    torch.testing.assert_close(fused[4][:8], truth[4][:8], atol=0.0, rtol=0.1)


@needs_kernel
def test_weights_of_zero_and_other_transitions_do_not_count():
    decoder, constants, rows = make_task(300, 64, 12)
    before = results(fused_loss(decoder, constants, rows), decoder)
    _, target, weight, *_ = constants
    assert (weight[rows] == 0.0).any()
    target[weight == 0.0] = 1e3
    unused = torch.ones(len(target), dtype=torch.bool)
    unused[rows] = False
    target[unused] = float("nan")
    for a, b in zip(results(fused_loss(decoder, constants, rows), decoder), before, strict=True):
        assert torch.equal(a, b)


@needs_kernel
@pytest.mark.parametrize("shape", [(100, 64, 12), (1500, 64, 12)], ids=str)
def test_the_kernel_gives_the_same_on_any_number_of_threads(monkeypatch, shape):
    decoder, constants, rows = make_task(*shape)
    found = []
    for threads in (1, 2, 3, 7, 40):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(results(fused_loss(decoder, constants, rows), decoder))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


@needs_kernel
def test_a_task_can_be_used_again_with_other_rows_and_parameters():
    decoder, constants, rows = make_task(1500, 64, 12)
    task, tokens = compiled.DecoderLoss(decoder, *constants[3:]), constants[:3]
    task(*tokens, rows)
    with torch.no_grad():
        decoder[0].weight.mul_(0.5)
    again = results(2.0 * task(*tokens, rows[:70]), decoder)
    anew = results(fused_loss(decoder, constants, rows[:70]), decoder)
    for a, b in zip(again, anew, strict=True):
        assert torch.equal(a, 2.0 * b)


@needs_kernel
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_the_loss(value):
    decoder, constants, rows = make_task(40, 64, 12)
    with torch.no_grad():
        decoder[2].weight[3, 5] = value
    assert not torch.isfinite(fused_loss(decoder, constants, rows))


def decoder_with(index, module):
    decoder = action_decoder(64, 12).layers
    decoder[index] = module
    return decoder


UNSUPPORTED = {
    "width 1": action_decoder(1, 12).layers,
    "width 12": action_decoder(12, 12).layers,
    "width 17": action_decoder(17, 12).layers,
    "width 96": action_decoder(96, 12).layers,
    "17 actions": action_decoder(64, 17).layers,
    "tanh": decoder_with(1, nn.Tanh()),
    "tanh at the end": nn.Sequential(*action_decoder(64, 12).layers, nn.Tanh()),
    "no bias": decoder_with(2, nn.Linear(64, 64, bias=False)),
    "not square": nn.Sequential(nn.Linear(64, 128), nn.LeakyReLU(), nn.Linear(128, 12)),
    "ReLU's slope": decoder_with(1, nn.LeakyReLU(0.0)),
    "two slopes": decoder_with(1, nn.LeakyReLU(0.2)),
    "one layer": nn.Sequential(nn.Linear(64, 12)),
    "float64": action_decoder(64, 12).layers.double(),
    "another device": action_decoder(64, 12).layers.to("meta"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_decoders_are_left_to_torch(name):
    assert not compiled.fits_decoder(UNSUPPORTED[name])
    with pytest.raises(ValueError, match="does not compute this decoder"):
        compiled.DecoderLoss(UNSUPPORTED[name], torch.zeros(0), torch.zeros(0))


@needs_kernel
def test_the_kernel_refuses_what_it_would_compute_wrongly():
    decoder, constants, rows = make_task(40, 64, 12)
    assert compiled.fits_decoder(decoder)
    for index, name in enumerate(("hidden", "target", "weight", "scale", "shift")):
        wrong = list(constants)
        wrong[index] = constants[index][..., 1:] if name != "weight" else constants[index][:, None]
        with pytest.raises(ValueError, match=f"{name}: expected a C-contiguous array of shape"):
            fused_loss(decoder, wrong, rows)
    with pytest.raises(TypeError, match="hidden: expected a numpy array of dtype uint16, got dtype float32"):
        fused_loss(decoder, [constants[0].float(), *constants[1:]], rows)
    for outside in (-1, len(constants[0])):
        with pytest.raises(ValueError, match=f"rows: expected .* below {len(constants[0])}, got .*{outside}"):
            fused_loss(decoder, constants, torch.tensor([0, outside]))
    for wrong in (rows[:0], rows[None], rows.int()):
        with pytest.raises((ValueError, TypeError), match="rows: expected"):
            fused_loss(decoder, constants, wrong)
    with pytest.raises(ValueError, match="of constants"):
        fused_loss(decoder, [constants[0].requires_grad_(), *constants[1:]], rows)
