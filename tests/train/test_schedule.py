"""When fine-tuning ends, and its learning rate."""

import dataclasses

import numpy as np
import pytest
from fakes import make_history, tiny_model
from small_trainings import TASK

from vintix_fast.config import FinetuneConfig
from vintix_fast.data import History
from vintix_fast.data.windows import Targets, Windows
from vintix_fast.model import fingerprint
from vintix_fast.service.errors import Interrupted
from vintix_fast.train import finetune
from vintix_fast.train.finetune import CHECK_EVERY, COOLING_STEPS, cooling_from, learning_rate

CONFIG = FinetuneConfig(steps=1000, lr=1e-2, bf16=False, batch_size=2)


def test_a_training_goes_on_while_the_held_out_loss_falls():
    falling = [1.0 - 0.05 * check for check in range(10)]
    assert cooling_from(falling, 1000) == 1000 - COOLING_STEPS
    assert cooling_from([*falling, falling[-1], falling[-1]], 1000) == 11 * CHECK_EVERY
    # What comes later cannot change what was decided.
    assert cooling_from([*falling, falling[-1], falling[-1], 0.0], 1000) == 11 * CHECK_EVERY


def test_a_loss_that_rises_ends_it_and_a_single_bad_check_does_not():
    assert cooling_from([1.0, 0.9, 1.1, 1.2], 1000) == 3 * CHECK_EVERY
    assert cooling_from([1.0, 0.9, 0.95, 0.6, 0.5], 1000) == 1000 - COOLING_STEPS


def test_the_learning_rate_stays_up_and_falls_to_a_tenth_in_the_end():
    rates = [learning_rate(step, CONFIG, cooling=200) for step in range(200 + COOLING_STEPS)]
    assert rates[0] < rates[10] < rates[30] == rates[199] == max(rates) == CONFIG.lr
    assert rates[-1] == pytest.approx(0.1 * CONFIG.lr) and rates[-2] > rates[-1]


def made(count: int) -> tuple[list[History], list[Targets]]:
    """Histories of thirty steps, whose targets are all the same."""
    histories = [make_history([30], seed=env) for env in range(count)]
    return histories, [Targets(np.full_like(h.action, 0.1), np.ones(30, np.float32)) for h in histories]


def test_fine_tuning_ends_when_there_is_nothing_left_to_learn():
    model = tiny_model()
    data = made(6)
    log = finetune(model, TASK, Windows(*data, 16, hold_out=True), CONFIG, seed=0)
    assert 3 * CHECK_EVERY + COOLING_STEPS <= len(log) < CONFIG.steps
    measured = {step.step: step.held_out for step in log if step.held_out is not None}
    assert list(measured) == list(range(0, len(log), CHECK_EVERY)) and list(measured.values())[-1] < measured[0]
    # Nothing held out, and all steps are taken.
    few = dataclasses.replace(CONFIG, steps=100)
    assert len(finetune(tiny_model(), TASK, Windows(*data, 16), few, seed=0)) == 100


def test_what_is_held_out_is_never_trained_on():
    windows = Windows(*made(14), 8, hold_out=True)
    rng = np.random.default_rng(1)
    trained = set(np.unique(windows.draw(2000, rng)[0] // 30))
    held_out = set(np.unique(windows.draw(200, rng, held_out=True)[0] // 30))
    assert held_out == {4} and trained == set(range(14)) - held_out


def test_a_training_that_was_interrupted_ends_where_an_unbroken_one_does(tmp_path):
    """It goes on from what was measured before, in the middle of two checks and of the last steps."""
    data = made(6)

    def train(model, stop_at=None, state=None):
        def on_step(step):
            if step.step == stop_at:
                raise Interrupted("Ctrl-C")

        return finetune(model, TASK, Windows(*data, 16, hold_out=True), CONFIG, 0, on_step, state)

    whole, state = tiny_model(), tmp_path / "training.pth"
    log = train(whole)
    for stop_at in (2 * CHECK_EVERY + 5, 3 * CHECK_EVERY - 1, len(log) - 5):
        resumed = tiny_model()
        with pytest.raises(Interrupted):
            train(resumed, stop_at, state)
    resumed = tiny_model()
    assert train(resumed, state=state) == log
    assert fingerprint(resumed) == fingerprint(whole)
