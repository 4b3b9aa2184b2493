"""The policy that a CUDA graph can hold acts as the plain policy does; without a GPU its step runs eagerly."""

import contextlib

import numpy as np
import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, FakeSimulator, tiny_model

from vintix_fast.kernels.reference import standardise
from vintix_fast.policy import GraphPolicy, Policy
from vintix_fast.rollout import Noise, collect, ladder
from vintix_fast.service.errors import UsageError
from vintix_fast.world.task import WalkingTask

TASK = "go2_walking_ad"
ROUNDING = 1e-4
"""Actions of float32 sums in another order, and of spans that drop 1e-8 of the softmax."""
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


def run(robot, policy, episodes=13, seed=0):
    """Episodes that end at other times in each environment, by falls and by time-outs: the context wraps twice."""
    task = WalkingTask(FakeSimulator(robot, 4, fall_after=(5, 30, 9, 12)), robot, max_steps=14)
    noise = Noise(ladder(4, 0.3), ACTIONS, seed)
    return collect(task, policy, episodes, seed=seed, random_starts=True, noise=noise, keep=True).histories


def assert_same_actions(histories, others, tolerance=ROUNDING):
    for history, other in zip(histories, others, strict=True):
        np.testing.assert_allclose(
            history.extras["mean_action"], other.extras["mean_action"], atol=tolerance, rtol=0, strict=True
        )


def inputs(steps, num_envs=4, seed=0, device="cpu"):
    """Steps of (observation, step_num, executed action, reward); episodes last 5 to 8 steps."""
    generator = torch.Generator().manual_seed(seed)
    for t in range(steps):
        step_num = t % (5 + torch.arange(num_envs, dtype=torch.int32) % 4)
        rows = [torch.randn(num_envs, n, generator=generator).to(device) for n in (OBSERVATIONS, ACTIONS, 1)]
        yield rows[0], step_num.to(device), rows[1], rows[2][:, 0]


def actions(policy, steps, resets=None, num_envs=4, seed=0, device="cpu"):
    """Actions [T, N, A]; ``resets`` maps steps to masks."""
    out = []
    for t, (observation, step_num, action, reward) in enumerate(inputs(steps, num_envs, seed, device)):
        if t in (resets or {}):
            policy.reset(resets[t].to(device))
        policy.begin(observation, step_num)
        out.append(policy.finish())
        policy.observe(action, reward)
    return torch.stack(out).cpu()


def test_acts_as_the_plain_policy_in_episodes_of_many_environments(tiny, go2):
    assert_same_actions(run(go2, GraphPolicy(tiny, TASK, 4, 24)), run(go2, Policy(tiny, TASK, 4, 24)))


def test_resetting_all_starts_anew(tiny, go2):
    policy = GraphPolicy(tiny, TASK, 4, 24)
    assert_same_actions(run(go2, policy), run(go2, policy), tolerance=0)  # collect() resets


def test_resetting_some_environments_leaves_the_others_alone(tiny):
    mask = torch.tensor([False, True, False, True])
    kept, partly = (actions(GraphPolicy(tiny, TASK, 4, 24), 30, resets) for resets in ({}, {11: mask}))
    assert torch.equal(partly[:11], kept[:11]) and torch.equal(partly[:, ~mask], kept[:, ~mask])
    anew = actions(GraphPolicy(tiny, TASK, 4, 24), 30, {11: torch.ones(4, dtype=torch.bool)})
    torch.testing.assert_close(partly[11:, mask], anew[11:, mask], atol=ROUNDING, rtol=0)
    assert (partly[12:, mask] - kept[12:, mask]).abs().max() > 1e-3


def test_weights_changed_in_place_count_from_the_next_reset(tiny):
    """Its spans too: wider scores need longer ones."""
    policy = GraphPolicy(tiny, TASK, 4, 64, dropped_mass=0.5)
    actions(policy, 10)
    with torch.no_grad():
        for block in tiny.transformer.blocks:
            block.attention.q_norm.weight.mul_(3.0)
    policy.reset()
    changed = actions(policy, 60)
    assert torch.equal(changed, actions(GraphPolicy(tiny, TASK, 4, 64, dropped_mass=0.5), 60))


def test_training_mode_is_left_at_the_next_reset():
    model = tiny_model(residual_dropout=0.5)
    policy = GraphPolicy(model, TASK, 4, 24)
    expected = actions(policy, 10)
    model.train()
    policy.reset()
    assert torch.equal(actions(policy, 10), expected)


def test_a_coarse_cache_acts_nearly_the_same(tiny):
    exact = actions(GraphPolicy(tiny, TASK, 4, 24), 30)
    coarse = actions(GraphPolicy(tiny, TASK, 4, 24, torch.int8), 30)
    assert 0 < (coarse - exact).abs().max() < 0.02


def test_an_action_stays_what_it_was_when_the_next_is_decided(tiny):
    policy = GraphPolicy(tiny, TASK, 4, 24)
    (first, second) = inputs(2)
    action = policy.act(*first[:2])
    before = action.clone()
    policy.act(*second[:2])
    assert torch.equal(action, before)


def test_a_standardised_observation_takes_the_place_of_what_the_policy_would_make_of_it(tiny):
    whole, given, misled = (GraphPolicy(tiny, TASK, 4, 24) for _ in range(3))
    (observation, *_), step_num = next(inputs(1, 4)), torch.zeros(4, dtype=torch.int32)
    expected = whole.act(observation, step_num)
    given.begin(observation, step_num, standardise(observation, *given.statistics))
    assert torch.equal(given.finish(), expected)
    misled.begin(observation, step_num, torch.zeros_like(observation))
    assert (misled.finish() - expected).abs().max() > 1e-3


def test_observations_of_another_number_of_environments_are_refused(tiny):
    with pytest.raises(UsageError, match=r"must be \[4, 33\], got \[1, 33\]"):
        GraphPolicy(tiny, TASK, 4, 24).begin(torch.zeros(1, OBSERVATIONS), torch.zeros(1))


class FakeCuda:
    """Streams that only note who waits for whom; graphs that run the step again."""

    def __init__(self, monkeypatch, policy):
        self.log, self.captures, self.decide = [], 0, policy._decide
        self.current, self.side = self.stream("current"), self.stream("policy's")
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: self.capture())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        policy._stream, policy._capturing = self.side, True

    def stream(self, name):
        log = self.log

        class Stream:
            def __str__(self):
                return name

            def wait_stream(self, other):
                log.append(f"{self} waits for {other}")

        return Stream()

    def capture(self):
        self.captures += 1
        return contextlib.nullcontext()

    def replay(self):
        self.log.append("replay")
        self.decide()


def test_streams_wait_for_each_other_and_a_graph_is_captured_once(tiny, monkeypatch):
    expected = actions(GraphPolicy(tiny, TASK, 4, 24), 20)
    policy = GraphPolicy(tiny, TASK, 4, 24)
    cuda = FakeCuda(monkeypatch, policy)
    policy.reset()
    assert cuda.captures == 1
    assert torch.equal(actions(policy, 20), expected)
    policy.reset(torch.ones(4, dtype=torch.bool))
    policy.reset()
    assert cuda.captures == 1  # resets need no other graph

    observation, step_num, action, reward = next(inputs(1))
    cuda.log.clear()
    policy.begin(observation, step_num)
    assert cuda.log[-2:] == ["policy's waits for current", "replay"]  # so its inputs are there
    cuda.log.clear()
    policy.finish()
    assert cuda.log == ["current waits for policy's"]  # so the action is there

    tiny.encoder.prev_rew_padding.data = tiny.encoder.prev_rew_padding.data.clone()  # elsewhere in memory
    policy.reset()
    assert cuda.captures == 2
    assert torch.equal(actions(policy, 20), expected)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_the_captured_graph_acts_as_the_cpu_does(tiny, dtype):
    num_envs, steps = 33, 60
    resets = {11: torch.arange(num_envs) % 3 == 0, 40: torch.arange(num_envs) % 2 == 0}
    expected = actions(GraphPolicy(tiny, TASK, num_envs, 24, dtype), steps, resets, num_envs)
    model = tiny.to("cuda")
    for capture in (False, True):
        policy = GraphPolicy(model, TASK, num_envs, 24, dtype, capture=capture)
        for _ in range(2):  # the second time without another capture
            acted = actions(policy, steps, resets, num_envs, device="cuda")
            tolerance = 1e-3 if dtype == torch.float32 else 0.02  # a number that rounds the other way in a cache
            torch.testing.assert_close(acted, expected, atol=tolerance, rtol=0)
            policy.reset()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_step_never_waits_for_the_gpu(tiny):
    policy = GraphPolicy(tiny.to("cuda"), TASK, 33, 24)
    mask = torch.zeros(33, dtype=torch.bool, device="cuda")
    steps = list(inputs(5, 33, device="cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for observation, step_num, action, reward in steps:
            policy.reset(mask)
            policy.begin(observation, step_num)
            policy.observe(policy.finish() + action, reward)
    finally:
        torch.cuda.set_sync_debug_mode("default")
