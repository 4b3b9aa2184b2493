"""Fine-tuning the decoder alone: what it sees, what it changes, and its compiled loss."""

import dataclasses

import numpy as np
import pytest
import torch
from fakes import ACTIONS, make_history, tiny_model
from small_trainings import GROUP, TASK, kernel_model, snapshot, windows_for

from vintix_fast.config import FinetuneConfig
from vintix_fast.train import compiled, finetune
from vintix_fast.train.frozen import hidden_states


def test_decoder_only_trains_the_decoder_on_what_the_whole_model_gives():
    histories = [make_history([20, 12], seed=1), make_history([25], seed=2)]
    config = FinetuneConfig(steps=3, lr=1e-2, bf16=False)
    model = tiny_model()
    before = snapshot(model)
    log = finetune(model, TASK, windows_for(histories), dataclasses.replace(config, train="decoder"), seed=0)
    adapter = finetune(tiny_model(), TASK, windows_for(histories), config, seed=0)
    assert log[0].loss == pytest.approx(adapter[0].loss, rel=1e-5)
    changed = {name for name, value in snapshot(model).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith(f"head.acs_decoders.{GROUP}.")}


@pytest.mark.parametrize("make", [kernel_model, tiny_model, lambda: kernel_model(norm_acs=True)])
def test_decoder_only_in_bfloat16_learns_what_float32_does(make):
    """With widths that the compiled loss takes and with others; its units are those of the model's actions."""
    histories = [make_history([n], seed=n) for n in (30, 45, 150)]
    config = FinetuneConfig(steps=50, batch_size=4, lr=3e-3, train="decoder")
    losses = {}
    for bf16 in (False, True):
        model = make()
        info = dataclasses.replace(
            model.tasks[TASK], acs_mean=(0.3,) * ACTIONS, acs_std=tuple(np.linspace(0.5, 2.0, ACTIONS))
        )
        model.set_task_info(TASK, info)
        windows = windows_for(histories, [0.5 * h.action for h in histories], window_len=60)
        log = finetune(model, TASK, windows, dataclasses.replace(config, bf16=bf16), seed=2)
        losses[bf16] = np.array([entry.loss for entry in log])
    assert losses[False][-1] < 0.8 * losses[False][0]
    np.testing.assert_allclose(losses[True], losses[False], rtol=2e-2)
    assert not np.array_equal(losses[True], losses[False])


@pytest.mark.parametrize("decoder_only", [True, False])
def test_the_compiled_decoder_loss_is_used_where_it_can_be(monkeypatch, decoder_only):
    used = []
    monkeypatch.setattr(compiled.DecoderLoss, "__call__", lambda *args: used.append(args) or 1 / 0)
    config = FinetuneConfig(steps=1, bf16=True, train="decoder" if decoder_only else "adapter")
    finetune(tiny_model(), TASK, windows_for([make_history([12])]), config, seed=0)
    finetune(kernel_model(), TASK, windows_for([make_history([12])]), dataclasses.replace(config, bf16=False), seed=0)
    assert not used
    if compiled.fits_decoder(kernel_model().head.acs_decoders[GROUP].layers):
        with pytest.raises(ZeroDivisionError):
            finetune(kernel_model(), TASK, windows_for([make_history([12])]), config, seed=0)


def test_decoder_only_sees_at_least_half_a_window_of_context(tiny):
    history = make_history([50, 45])
    windows = windows_for([history], window_len=32)
    hidden = hidden_states(tiny, TASK, windows, bf16=False)
    seen = 0
    for batch, keep in windows.sweep():
        token = tiny.encode(TASK, batch.observation, batch.prev_action, batch.prev_reward, batch.step_num)
        expected = tiny.transformer(token)[0, keep:]
        torch.testing.assert_close(hidden[seen : seen + len(expected)], expected)
        assert keep >= min(16, seen) and keep + len(expected) <= 32
        seen += len(expected)
    assert seen == 95 == len(hidden)
