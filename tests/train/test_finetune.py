"""Fine-tuning moves one group's parameters towards the targets, and nothing else."""

import dataclasses
import importlib
import math

import numpy as np
import pytest
import torch
from fakes import make_history, tiny_model
from small_trainings import GROUP, TASK, kernel_model, snapshot, windows_for

from vintix_fast.benchmarks.training import plain_finetune
from vintix_fast.config import FinetuneConfig
from vintix_fast.data import Batch
from vintix_fast.model import fingerprint, freeze_all_but_group
from vintix_fast.service.errors import InputFileError, Interrupted, VintixFastError
from vintix_fast.train import finetune
from vintix_fast.train.finetune import learning_rate
from vintix_fast.train.losses import action_loss


def predicted(model, history):
    """What the model does along a history; it begins with an episode."""
    prev_action, prev_reward = np.roll(history.action, 1, axis=0), np.roll(history.reward, 1)
    prev_action[0], prev_reward[0] = 0.0, 0.0
    return model.predict_actions(history.observation, prev_action, prev_reward, history.step_num, task_name=TASK)


def test_only_the_groups_own_tensors_change(tiny):
    before, frozen = snapshot(tiny), fingerprint(tiny, GROUP)
    finetune(tiny, TASK, windows_for([make_history([20, 15])]), FinetuneConfig(steps=4, lr=1e-2, bf16=False), seed=0)
    after = snapshot(tiny)
    changed = {name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()}
    parts = ("encoder.obs_encoders", "encoder.acs_encoders", "encoder.rews_encoders", "head.acs_decoders")
    assert changed == {name for name in before if name.startswith(tuple(f"{part}.{GROUP}." for part in parts))}
    assert len(changed) > 20 and before.keys() == after.keys()
    assert fingerprint(tiny, GROUP) == frozen


def make_batch(tiny):
    """Two windows of 20 and 9 tokens."""
    windows = windows_for([make_history([12, 8], seed=1), make_history([9], seed=2)])
    batches = (windows.batch(2, np.random.default_rng(seed)) for seed in range(50))
    return next(b for b in batches if sorted(b.weight.sum(dim=1).tolist()) == [9.0, 20.0])


def gradients(model, batch):
    parameters = freeze_all_but_group(model, GROUP)
    loss = action_loss(model, TASK, batch)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in parameters]


def test_what_is_in_the_padding_does_not_matter(tiny):
    batch = make_batch(tiny)
    past = batch.weight == 0
    torch.manual_seed(0)
    columns = {}
    for name in ("observation", "prev_action", "prev_reward", "step_num", "target"):
        column = getattr(batch, name).clone()
        column[past] = (100.0 * torch.randn(column[past].shape)).abs().to(column.dtype)
        columns[name] = column
    loss, clean = gradients(tiny, batch)
    garbage_loss, garbage = gradients(tiny, Batch(**columns, weight=batch.weight))
    assert garbage_loss == pytest.approx(loss, rel=1e-6)
    assert max(g.abs().max() for g in clean) > 1e-3
    for a, b in zip(clean, garbage, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


def test_the_loss_is_the_mean_over_real_tokens_by_weight(tiny):
    batch = make_batch(tiny)
    weight = batch.weight * torch.linspace(0.5, 2.0, batch.weight.shape[1])
    errors, weights = [], []
    for b in range(2):
        n = int(batch.weight[b].sum())
        acted = tiny.predict_actions(
            batch.observation[b, :n], batch.prev_action[b, :n], batch.prev_reward[b, :n], batch.step_num[b, :n],
            task_name=TASK,
        )  # fmt: skip
        errors += ((acted - batch.target[b, :n]) ** 2).mean(dim=1).tolist()
        weights += weight[b, :n].tolist()
    expected = np.average(errors, weights=weights)
    loss = action_loss(tiny, TASK, dataclasses.replace(batch, weight=weight))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_no_dropout_in_training():
    """A model that was left in training mode, with heavy dropout, gives the loss of evaluation mode."""
    history = make_history([10, 10])
    losses = []
    for dropout, torch_seed in ((0.0, 0), (0.5, 1), (0.5, 2)):
        model = tiny_model(attn_dropout=dropout, residual_dropout=dropout).train()
        torch.manual_seed(torch_seed)
        losses.append(
            [s.loss for s in finetune(model, TASK, windows_for([history]), FinetuneConfig(steps=3, bf16=False), seed=0)]
        )
    assert losses[0] == losses[1] == losses[2]
    expected = ((predicted(tiny_model(), history) - history.action) ** 2).mean()
    assert losses[0][0] == pytest.approx(float(expected), rel=1e-5)


def test_no_weight_decay(tiny):
    """Where the targets are what the model does already, nothing pulls its weights anywhere."""
    history = make_history([10, 10])
    before = snapshot(tiny)
    targets = predicted(tiny, history)
    config = FinetuneConfig(steps=10, batch_size=1, lr=1e-2, warmup_steps=1, bf16=False)
    steps = finetune(tiny, TASK, windows_for([history], [targets]), config, seed=0)
    assert max(s.loss for s in steps) < 1e-10
    after = snapshot(tiny)
    moved = max((after[name] - before[name]).abs().max().item() for name in before)
    assert moved < 1e-6  # a decay of 0.01 would move a weight of 0.1 by 1e-4


def test_learning_rate_warms_up_and_decays_to_a_tenth():
    config = FinetuneConfig(steps=1000, lr=2e-3, warmup_steps=50, bf16=False)
    rates = [learning_rate(step, config) for step in range(1000)]
    assert rates[0] == pytest.approx(2e-3 / 50) and rates[24] == pytest.approx(1e-3)
    assert rates[49] == rates[50] == pytest.approx(2e-3) == max(rates)
    assert (np.diff(rates[:50]) > 0).all() and (np.diff(rates[50:]) < 0).all()
    assert rates[525] == pytest.approx((2e-3 + 2e-4) / 2, rel=2e-3)  # half-way down
    assert rates[-1] == pytest.approx(2e-4)


@pytest.mark.parametrize("steps", [1, 2, 9, 30])
def test_short_runs_have_a_short_warm_up(steps):
    config = FinetuneConfig(steps=steps, lr=1e-3, bf16=False)
    rates = [learning_rate(step, config) for step in range(steps)]
    assert max(rates) == pytest.approx(1e-3) and min(rates) >= 1e-4 * (1 - 1e-9)


def test_the_optimiser_follows_the_schedule(tiny):
    config = FinetuneConfig(steps=20, lr=1e-3, bf16=False)
    steps = finetune(tiny, TASK, windows_for([make_history([12])]), config, seed=0)
    assert [s.lr for s in steps] == [learning_rate(i, config) for i in range(20)]
    assert [s.step for s in steps] == list(range(20))


def test_a_small_set_is_learnt(tiny):
    history = make_history([10, 10])
    config = FinetuneConfig(steps=150, batch_size=1, lr=3e-3, bf16=False)
    losses = [s.loss for s in finetune(tiny, TASK, windows_for([history]), config, seed=0)]
    assert losses[-1] < 0.2 * losses[0]
    assert ((predicted(tiny, history) - history.action) ** 2).mean() < 0.2 * losses[0]


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e30])
def test_a_diverged_loss_is_an_error_that_names_the_learning_rate(tiny, value):
    history = make_history([12])
    before = snapshot(tiny)
    targets = np.full_like(history.action, value)
    with pytest.raises(VintixFastError, match=r"diverged at step 0: loss (inf|nan).* --lr than 0\.0003"):
        finetune(tiny, TASK, windows_for([history], [targets]), FinetuneConfig(steps=3, lr=3e-4, bf16=False), seed=0)
    assert all(torch.equal(value, before[name]) for name, value in snapshot(tiny).items())


def test_a_seed_decides_the_weights():
    def trained(seed):
        model = tiny_model()
        windows = windows_for([make_history([15, 9], seed=3), make_history([30], seed=4)], window_len=12)
        finetune(model, TASK, windows, FinetuneConfig(steps=5, bf16=False), seed=seed)
        return snapshot(model)

    once, again, other = trained(7), trained(7), trained(8)
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert any(not torch.equal(once[name], other[name]) for name in once)


def test_stopping_from_on_step(tiny):
    def stop(step):
        if step.step == 2:
            raise Interrupted("enough")

    with pytest.raises(Interrupted):
        finetune(
            tiny, TASK, windows_for([make_history([12])]), FinetuneConfig(steps=50, bf16=False), seed=0, on_step=stop
        )


@pytest.mark.parametrize("options", [{}, {"norm_class": "RMSNorm"}], ids=str)
def test_bfloat16_learns_what_float32_does(options):
    history = make_history([40, 40])
    target = 0.5 * history.action
    losses = {}
    for bf16 in (False, True):
        config = FinetuneConfig(steps=30, batch_size=4, lr=3e-3, bf16=bf16)
        log = finetune(tiny_model(**options), TASK, windows_for([history], [target]), config, seed=0)
        losses[bf16] = np.array([entry.loss for entry in log])
    assert losses[False][-1] < 0.7 * losses[False][0]
    np.testing.assert_allclose(losses[True], losses[False], rtol=0.03)
    assert not np.array_equal(losses[True], losses[False])


# -- what makes it fast changes nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True])
def test_the_loss_curve_is_the_plain_trainers(bf16):
    """50 steps; the plain trainer computes in float32, writes attention out, and takes every gradient."""
    histories = [make_history([n], seed=n) for n in (30, 45, 150, 200)]
    config = FinetuneConfig(steps=50, batch_size=4, lr=3e-3, bf16=False)

    def windows():
        return windows_for(histories, [0.5 * h.action for h in histories], window_len=160)

    plain = plain_finetune(kernel_model(), TASK, windows(), config, seed=2)
    fast = finetune(kernel_model(), TASK, windows(), dataclasses.replace(config, bf16=bf16), seed=2)
    losses = [np.array([entry.loss for entry in log]) for log in (plain, fast)]
    assert losses[0][-1] < 0.7 * losses[0][0]
    # float32 rounds sums in another order; bfloat16 rounds to 2^-9, which averages out over thousands of numbers.
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-2 if bf16 else 1e-3)


def test_packing_does_not_change_the_loss_or_its_gradient(tiny):
    histories = [make_history([n], seed=n) for n in (9, 14, 6, 32)]
    windows = windows_for(histories)
    rows = set()
    for seed in range(5):
        apart = windows.batch(4, np.random.default_rng(seed))
        packed = windows.gather(*windows.lay_out(4, np.random.default_rng(seed), pack=True))
        rows.add(len(packed.weight))
        (loss, grads), (packed_loss, packed_grads) = gradients(tiny, apart), gradients(tiny, packed)
        assert packed_loss == pytest.approx(loss, rel=1e-5)
        for a, b in zip(grads, packed_grads, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    assert min(rows) < 4


# -- going on after an interruption ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make, bf16", [(tiny_model, False), (kernel_model, True)])
@pytest.mark.parametrize("decoder_only", [False, True])
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, decoder_only, make, bf16):
    history, state = make_history([40, 30]), tmp_path / "training.pth"
    config = FinetuneConfig(steps=12, lr=3e-3, train="decoder" if decoder_only else "adapter", bf16=bf16)

    def train(model, on_step=lambda step: None, path=state):
        return finetune(model, TASK, windows_for([history]), config, 0, on_step, path)

    class Killed(Exception):
        pass

    def stop(error, at):
        def on_step(step):
            if step.step == at:
                raise error

        return on_step

    whole = make()
    log = train(whole, path=None)
    with pytest.raises(Interrupted):
        train(make(), stop(Interrupted("Ctrl-C"), 3))
    monkeypatch.setattr(importlib.import_module("vintix_fast.train.finetune"), "SAVE_EVERY_S", -1.0)
    with pytest.raises(Killed):
        train(make(), stop(Killed, 7))
    resumed, taken = make(), []
    assert train(resumed, taken.append) == log
    assert [entry.step for entry in taken] == [7, 8, 9, 10, 11]  # what was saved after the seventh step is kept
    assert all(torch.equal(value, snapshot(resumed)[name]) for name, value in snapshot(whole).items())


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_broken_state_is_named(tmp_path, tiny, content):
    state = tmp_path / "training.pth"
    if content is None:
        torch.save({"parameters": [], "optimiser": {}, "log": []}, state)
    else:
        state.write_bytes(content)
    with pytest.raises(InputFileError, match="training.pth is broken.*delete it"):
        finetune(
            tiny, TASK, windows_for([make_history([12])]), FinetuneConfig(steps=3, bf16=False), 0, state_file=state
        )
