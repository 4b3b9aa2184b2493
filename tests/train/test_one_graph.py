"""The adapter's loss as one graph of torch.compile: no break, plain numbers, and what cannot be compiled."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from fakes import make_history
from small_trainings import GROUP, TASK, kernel_model, windows_for

from vintix_fast import _core
from vintix_fast.benchmarks.training import plain_finetune
from vintix_fast.config import FinetuneConfig
from vintix_fast.model import freeze_all_but_group
from vintix_fast.model.layers import alibi_slopes
from vintix_fast.service.errors import UsageError, VintixFastError
from vintix_fast.train import compiled, finetune, graph
from vintix_fast.train.frozen import _TritonAttention, frozen
from vintix_fast.train.losses import action_loss, adapter_loss, loss_of_windows

needs_kernel = pytest.mark.skipif(not _core.cpu_features()["bfloat16_kernels"], reason="no AVX-512 with bfloat16")
CONFIG = FinetuneConfig(steps=20, batch_size=3, lr=3e-3, bf16=True)


def small_model():
    return kernel_model(transformer_depth=1)


def made_windows():
    """Of 96 tokens; two short histories share a row."""
    histories = [make_history([n], seed=n) for n in (30, 45, 150, 200)]
    return windows_for(histories, [0.5 * h.action for h in histories], window_len=96)


def loss_and_gradients(loss, model):
    parameters = freeze_all_but_group(model, GROUP)
    model.zero_grad()
    found = loss()
    found.backward()
    return [found.item(), *(parameter.grad for parameter in parameters)]


@needs_kernel
@pytest.mark.parametrize("packed", [False, True])
def test_the_kernels_are_operators_that_torch_can_put_into_a_graph(packed):
    """Schema, shapes without data, gradient, and the same under torch.compile: torch's own check of an operator."""
    torch.manual_seed(0)
    qkv = torch.randn(1, 70, 3, 2, 32).bfloat16().requires_grad_()
    norms = [weight for _ in range(2) for weight in (torch.ones(32), torch.zeros(32))]
    first = torch.arange(70, dtype=torch.int32)[None] // 50 * 50 if packed else None
    slopes = torch.tensor(alibi_slopes(2))
    torch.library.opcheck(compiled._attention, (qkv, slopes, norms, first, 1e-5, 0.01, True))
    hidden = torch.randn(40, 64).bfloat16().requires_grad_()
    decoder = [torch.randn(shape, requires_grad=True) for shape in ((64, 64), (64,), (12, 64), (12,))]
    rest = torch.randn(40, 12), torch.rand(40), None, torch.ones(12), torch.zeros(12)
    torch.library.opcheck(compiled._decoder_loss, (hidden, *rest, decoder, 0.01, True))


def captured_graph(model, transformer, core_loss):
    """The nodes of the one graph that torch sees; nothing is computed."""
    nodes = []

    class Seen(Exception):
        pass

    def see(module, inputs):
        nodes.extend(str(node.target) for node in module.graph.nodes)
        raise Seen

    windows = made_windows()
    drawn = windows.lay_out(3, np.random.default_rng(0), pack=True)
    with pytest.raises(Exception, match="Seen"), torch.autocast("cpu", torch.bfloat16):
        torch.compile(loss_of_windows, fullgraph=True, backend=see)(
            model, TASK, transformer, core_loss, windows, *drawn
        )
    return nodes


@needs_kernel
def test_the_graph_has_no_break_from_encoder_to_loss():
    model = small_model()
    decoder = compiled.DecoderLoss(model.head.acs_decoders[GROUP].layers, *model.action_units(TASK))
    nodes = captured_graph(model, frozen(model.transformer, True), decoder)
    assert [n for n in nodes if "vintix_fast" in n] == [
        "vintix_fast.causal_attention.default", "vintix_fast.decoder_loss.default"
    ]  # fmt: skip


def test_the_graph_for_cuda_has_no_break_either():
    pytest.importorskip("triton", reason="triton is not installed")
    model = small_model()
    transformer = frozen(model.transformer, True)
    for constant, block in zip(transformer._transformer.blocks, model.transformer.blocks, strict=True):
        constant.attention = _TritonAttention(block.attention, model.transformer.slopes).bfloat16()
    nodes = captured_graph(model, transformer, None)
    assert [n for n in nodes if "vintix_fast" in n] == ["vintix_fast.triton_causal_attention.default"]


@needs_kernel
@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:torch\..*")  # its own modules', when it imports Inductor
def test_compiled_losses_and_gradients_are_the_plain_float32s():
    config, windows = dataclasses.replace(CONFIG, compile="on"), made_windows()
    graph.check_compiler(config, "cpu")
    model, plain = small_model(), small_model()
    freeze_all_but_group(model, GROUP)
    draw, loss = adapter_loss(model, TASK, windows, config)
    for seed in (0, 1):
        drawn = draw(np.random.default_rng(seed))
        with torch.autocast("cpu", torch.bfloat16):
            found = loss_and_gradients(functools.partial(loss, *drawn), model)
        batch = windows.gather(*drawn)
        truth = loss_and_gradients(functools.partial(action_loss, plain, TASK, batch), plain)
        # bfloat16 rounds to 2^-9, which averages out in the loss and less so in a gradient of few numbers.
        assert found[0] == pytest.approx(truth[0], rel=5e-3)
        for a, b in zip(found[1:], truth[1:], strict=True):
            assert (a - b).norm() < 0.15 * b.norm()

    # The same training again, with another model and other windows, finds the graph, and gives the same bits.
    log = finetune(small_model(), TASK, made_windows(), config, seed=2)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert finetune(small_model(), TASK, made_windows(), config, seed=2) == log
    expected = plain_finetune(small_model(), TASK, made_windows(), dataclasses.replace(CONFIG, bf16=False), seed=2)
    losses = [np.array([entry.loss for entry in steps]) for steps in (log, expected)]
    assert losses[1][-1] < 0.9 * losses[1][0]
    np.testing.assert_allclose(*losses, rtol=2e-2)


def refuse_to_compile(function):
    def fail(*inputs):
        raise RuntimeError("the compiler broke down\nand said much more")

    return fail


@needs_kernel
def test_what_cannot_be_compiled_runs_as_it_is_unless_it_was_asked_for(monkeypatch, capsys):
    off = finetune(small_model(), TASK, made_windows(), dataclasses.replace(CONFIG, compile="off"), seed=2)
    monkeypatch.setattr(graph, "_compiled", refuse_to_compile)
    monkeypatch.setattr(graph, "COMPILED_BY_DEFAULT", ("cpu",))
    assert finetune(small_model(), TASK, made_windows(), CONFIG, seed=2) == off
    said = capsys.readouterr().err
    assert said == "vintix-fast: fine-tuning runs uncompiled: torch.compile failed (the compiler broke down)\n"
    with pytest.raises(VintixFastError, match=r"--compile on: .*the compiler broke down\); leave it out"):
        finetune(small_model(), TASK, made_windows(), dataclasses.replace(CONFIG, compile="on"), seed=2)


def test_what_compiling_lacks_is_named(monkeypatch):
    from torch._inductor import config

    asked = dataclasses.replace(CONFIG, compile="on")
    said = pytest.raises(UsageError, match=r"--compile on: .* C\+\+ compiler .*finds none; install g\+\+")
    with config.patch({"cpp.cxx": (None, "no-such-compiler")}), said:
        graph.check_compiler(asked, "cpu")
    graph.check_compiler(CONFIG, "cpu")
    monkeypatch.setattr(graph, "multiplies_bf16", lambda device: False)
    with pytest.raises(UsageError, match="--compile on has no effect here"):
        graph.check_compiler(dataclasses.replace(asked, bf16=None), "cuda")
