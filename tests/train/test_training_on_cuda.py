"""Training on a GPU: the numbers of the CPU within rounding, the same bits again for a seed, exact resume."""

import numpy as np
import pytest
import torch
from fakes import make_history, tiny_model

from vintix_fast.config import FinetuneConfig
from vintix_fast.data import Targets, Windows
from vintix_fast.improve.critic import Critic, CriticConfig, transitions
from vintix_fast.service.errors import Interrupted
from vintix_fast.train import finetune
from vintix_fast.train.frozen import hidden_states

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
TASK = "go2_walking_ad"
STEPS = 50


def made_windows(device):
    """Windows of 96 tokens over a long history and short ones, which share rows."""
    histories = [make_history([60, 80, 70], seed=3), make_history([30], seed=4), make_history([25], seed=5)]
    targets = [Targets(0.5 * h.action, np.ones(len(h), np.float32)) for h in histories]
    return Windows(histories, targets, 96, device)


def trained(device, seed=0, state_file=None, on_step=lambda step: None, **settings):
    """Losses, and the weights afterwards."""
    model = tiny_model(hidden_dim=64, action_emb_dim=31, observation_emb_dim=31).to(device)
    config = FinetuneConfig(steps=STEPS, batch_size=4, lr=3e-3, **settings)
    log = finetune(model, TASK, made_windows(device), config, seed, on_step, state_file)
    return np.array([entry.loss for entry in log]), {k: v.cpu() for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    "bf16, tolerance, options",
    [
        (False, 1e-3, {}), (True, 0.05, {"compile": "off"}), (True, 0.05, {"compile": "on"}),
        (False, 1e-3, {"train": "decoder"}), (True, 0.05, {"train": "decoder"}),
    ],
    ids=str,
)  # fmt: skip
def test_losses_are_the_cpus(bf16, tolerance, options):
    expected, _ = trained("cpu", bf16=False, **options | {"compile": "auto"})
    losses, _ = trained("cuda", bf16=bf16, **options)
    assert expected[-1] < 0.7 * expected[0]
    np.testing.assert_allclose(losses, expected, rtol=tolerance)


@pytest.mark.parametrize("options", [{"compile": "off"}, {"compile": "on"}, {"train": "decoder"}], ids=str)
def test_a_seed_decides_the_weights_and_a_stopped_training_goes_on_with_them(options, tmp_path):
    def stop(step):
        if step.step == 20:
            raise Interrupted("enough")

    losses, weights = trained("cuda", bf16=True, **options)
    again, same = trained("cuda", bf16=True, **options)
    assert np.array_equal(losses, again) and all(torch.equal(weights[name], same[name]) for name in weights)
    with pytest.raises(Interrupted):
        trained("cuda", bf16=True, state_file=tmp_path / "state", on_step=stop, **options)
    resumed, same = trained("cuda", bf16=True, state_file=tmp_path / "state", **options)
    assert np.array_equal(losses, resumed) and all(torch.equal(weights[name], same[name]) for name in weights)


def test_hidden_states_are_the_cpus():
    states = []
    for device, bf16 in (("cpu", False), ("cuda", False), ("cuda", True)):
        states.append(hidden_states(tiny_model().to(device), TASK, made_windows(device), bf16).float().cpu())
    torch.testing.assert_close(states[1], states[0], atol=1e-4, rtol=1e-4)
    assert (states[2] - states[0]).norm() < 0.02 * states[0].norm()


def test_the_critic_is_the_cpus():
    histories = [make_history([60, 80, 70], seed=3)]
    config = CriticConfig(updates=60, batch_size=64, hidden=32)
    critics = [
        Critic(transitions(histories, config, device), config, 0, lambda update, loss: None)
        for device in ("cpu", "cuda")
    ]
    state = critics[0].states(histories[0])
    deviation = 0.1 * torch.ones(len(state), histories[0].action.shape[1])
    expected = critics[0].values(state, deviation)
    values = critics[1].values(state.cuda(), deviation.cuda()).cpu()
    assert critics[1].loss == pytest.approx(critics[0].loss, rel=0.01)
    torch.testing.assert_close(values, expected, atol=0.02, rtol=0.02)
