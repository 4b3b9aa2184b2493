"""The rollout loop: which environment runs which episode, what the policy is shown, what is stored."""

import functools

import numpy as np
import pytest
import torch
from fakes import ACTIONS, FakeSimulator

from vintix_fast.data import open_writer, read_trajectories
from vintix_fast.data.schema import FIELDS, REQUIRED_FIELDS
from vintix_fast.policy import Actor
from vintix_fast.rollout import HostCopies, Noise, collect, collector, episodes_per_env, ladder
from vintix_fast.service.errors import Interrupted
from vintix_fast.world.layout import QUADRUPED
from vintix_fast.world.task import WalkingTask


class FakePolicy(Actor):
    """Acts by a formula, writes down what it is shown, and refuses what is not finite."""

    def __init__(self):
        self.seen, self.observed, self.resets = [], [], 0

    def reset(self, mask=None):
        self.resets += 1

    def act(self, observation, step_num):
        assert observation.isfinite().all()
        self.seen.append((observation.clone(), step_num.clone()))
        return 0.3 * torch.sin(3.0 * observation[:, QUADRUPED.joint_pos] + step_num[:, None]) + 0.1

    def observe(self, action, reward):
        assert action.isfinite().all() and reward.isfinite().all()
        self.observed.append((action.clone(), reward.clone()))


class LastMomentCopies(HostCopies):
    """Copies a step when the next one is pushed, as late as a GPU may."""

    def __init__(self, device):
        self._columns = {}

    def push(self, columns):
        arrived, self._columns = self.flush(), columns
        return arrived

    def flush(self):
        columns, self._columns = self._columns, {}
        return [{name: column.clone().numpy() for name, column in columns.items()}] if columns else []


def run(
    robot,
    num_envs,
    num_episodes,
    *,
    max_steps=15,
    seed=1,
    policy=None,
    fall_after=(),
    faults=None,
    masked=None,
    **options,
):
    sim = FakeSimulator(robot, num_envs, fall_after=fall_after, faults=faults)
    options = {"random_starts": True, "keep": True} | options
    policy = policy or FakePolicy()
    return collect(WalkingTask(sim, robot, max_steps, masked), policy, num_episodes, seed=seed, **options), policy


def assert_same_histories(left, right):
    assert [h.env for h in left] == [h.env for h in right]
    for a, b in zip(left, right, strict=True):
        for name in ("observation", "action", "reward", "step_num"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert a.extras.keys() == b.extras.keys()
        for name in a.extras:
            np.testing.assert_array_equal(a.extras[name], b.extras[name], err_msg=name)


# -- how many episodes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_envs", "num_episodes", "shares"),
    [(8, 3, [0, 0, 1, 0, 0, 1, 0, 1]), (3, 3, [1, 1, 1]), (3, 8, [2, 3, 3]), (1, 4, [4]), (4, 6, [1, 2, 1, 2])],
)
def test_exactly_as_many_complete_episodes_as_asked(go2, num_envs, num_episodes, shares):
    collection, _ = run(go2, num_envs, num_episodes)
    assert len(collection.episodes) == num_episodes
    assert [sum(e.env == env for e in collection.episodes) for env in range(num_envs)] == shares
    assert collection.env_steps == sum(e.length for e in collection.episodes) == sum(map(len, collection.histories))
    for history in collection.histories:
        ended = history.extras["terminated"] | history.extras["truncated"]
        assert len(history.episodes()) == ended.sum() == shares[history.env]
        assert ended[-1]  # nothing is stored after an environment's last episode


def test_shares_sum_up_and_differ_by_one_at_most():
    for num_episodes in range(1, 30):
        for num_envs in range(1, 12):
            shares = episodes_per_env(num_episodes, num_envs)
            assert shares.sum() == num_episodes and len(shares) == num_envs and np.ptp(shares) <= 1


@pytest.mark.parametrize(("num_envs", "num_episodes"), [(100, 20), (256, 50), (64, 50), (40, 50), (25, 50)])
def test_a_fifth_of_the_episodes_is_quiet_and_the_boldest_runs_however_many_environments(num_envs, num_episodes):
    sigma = np.repeat(ladder(num_envs, 0.3).numpy(), episodes_per_env(num_episodes, num_envs))
    assert abs((sigma == 0.0).sum() - num_episodes / 5) <= 1 and sigma.max() == pytest.approx(0.3)


def test_an_environment_that_falls_at_once_runs_no_more_episodes_than_the_others(go2):
    collection, _ = run(go2, 3, 6, fall_after=(2, 14, 9))
    lengths = {env: [e.length for e in collection.episodes if e.env == env] for env in range(3)}
    assert lengths == {0: [2, 2], 1: [14, 14], 2: [9, 9]}
    assert [e.number for e in collection.episodes if e.env == 1] == [0, 1]
    assert [len(h) for h in collection.histories] == [4, 28, 18]


@pytest.mark.parametrize(("min_steps", "rounds"), [(0, 1), (9, 1), (10, 2), (20, 3)])
def test_all_shares_are_run_again_until_there_are_enough_steps(go2, min_steps, rounds):
    collection, policy = run(go2, 2, 3, fall_after=(3, 3), min_steps=min_steps)  # 9 steps a round
    assert [len(h.episodes()) for h in collection.histories] == [rounds, 2 * rounds]
    assert len(collection.episodes) == 3 * rounds and collection.env_steps == 9 * rounds
    assert [e.number for e in collection.episodes if e.env == 1] == list(range(2 * rounds))
    assert policy.resets == rounds


@pytest.mark.parametrize("min_steps", [0, 31])  # a second round finds environment 0 idle in mid-episode
def test_an_episodes_numbers_are_those_of_its_transitions(go2, min_steps):
    collection, _ = run(go2, 2, 4, max_steps=11, fall_after=(4, 20), min_steps=min_steps)
    assert len(collection.episodes) == (8 if min_steps else 4)
    assert sum(e.length for e in collection.episodes) == collection.env_steps
    for episode in collection.episodes:
        history = collection.histories[episode.env]
        start, stop = history.episodes()[episode.number]
        assert episode.length == stop - start
        assert episode.return_ == pytest.approx(history.reward[start:stop].sum(dtype=np.float64), abs=1e-9)
        assert episode.terminated == bool(history.extras["terminated"][stop - 1]) == (episode.env == 0)
    assert collection.mean_length == (4 + 11) / 2


# -- what the policy is shown ------------------------------------------------------------------------------------------


def test_the_policy_sees_each_stored_transition_once_and_nothing_else(go2):
    collection, policy = run(go2, 3, 7, fall_after=(3, 8, 6))
    assert policy.resets == 1  # the context goes on over an environment's episodes
    for history in collection.histories:
        n, env = len(history), history.env
        np.testing.assert_array_equal(history.observation, torch.stack([o[env] for o, _ in policy.seen[:n]]))
        np.testing.assert_array_equal(history.step_num, torch.stack([s[env] for _, s in policy.seen[:n]]))
        np.testing.assert_array_equal(history.action, torch.stack([a[env] for a, _ in policy.observed[:n]]))
        np.testing.assert_array_equal(history.reward, torch.stack([r[env] for _, r in policy.observed[:n]]))
    assert collection.histories[0].step_num.tolist() == [0, 1, 2] * 2
    assert collection.histories[2].step_num.tolist() == [*range(6)] * 3
    assert len(policy.seen) == len(policy.observed) == max(map(len, collection.histories))


def test_a_failing_simulation_is_counted_and_never_reaches_the_policy(go2):
    faults = {(2, 0): "nan", (4, 1): "speed", (5, 2): "solver"}
    collection, _ = run(go2, 3, 6, faults=faults, fall_after=(20, 20, 20))
    assert collection.metrics()["failures"] == 3
    failed = {e.env: (e.number, e.length) for e in collection.episodes if e.failed}
    assert failed == {0: (0, 3), 1: (0, 5), 2: (0, 6)}
    for history in collection.histories:
        (at,) = np.flatnonzero(history.extras["failed"])
        assert history.reward[at] == 0.0 and history.extras["terminated"][at] == 1
        assert np.isfinite(history.observation).all() and np.isfinite(history.reward).all()


# -- what is stored ----------------------------------------------------------------------------------------------------


def test_the_file_holds_what_is_kept_in_memory(go2, tmp_path):
    path = tmp_path / "trajectories.h5"
    noise = Noise(ladder(5, 0.3), ACTIONS, 0)
    with open_writer(path, 5, {"seed": 1}) as writer:
        collection, _ = run(go2, 5, 7, writer=writer, noise=noise, fall_after=(3, 9, 4, 12, 40))
    read = read_trajectories(path)
    assert read.closed_cleanly and read.num_transitions == collection.env_steps
    assert read.histories[0].extras.keys() == FIELDS.keys() - set(REQUIRED_FIELDS)
    assert_same_histories(read.histories, collection.histories)


def test_without_keep_nothing_is_kept(go2):
    collection, _ = run(go2, 2, 2, keep=False)
    assert collection.histories == [] and len(collection.episodes) == 2


def test_a_seed_decides_everything(go2):
    def noisy(seed):
        noise = Noise(ladder(3, 0.2), ACTIONS, seed)
        return run(go2, 3, 5, seed=seed, noise=noise)[0].histories

    once, again, other = noisy(1), noisy(1), noisy(2)
    assert_same_histories(once, again)
    assert not np.array_equal(once[0].observation[0], other[0].observation[0])


def test_stopping_from_on_step(go2):
    seen = []

    def stop(collection):
        seen.append(collection.env_steps)
        if len(seen) == 4:
            raise Interrupted("enough")

    with pytest.raises(Interrupted):
        run(go2, 2, 2, on_step=stop, fall_after=(20, 20))
    assert seen == [2, 4, 6, 8]


# -- as on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [functools.partial(HostCopies, late=True), LastMomentCopies])
@pytest.mark.parametrize(
    ("num_episodes", "options"),
    [
        (7, {}),
        (3, {"min_steps": 25}),  # three rounds of 12 steps
        (5, {"min_steps": 40, "faults": {(4, 1): "nan", (30, 2): "solver"}}),
        (0, {"steps_per_env": 23}),
    ],
)
def test_steps_that_arrive_late_give_the_same(go2, tmp_path, monkeypatch, num_episodes, options, copies):
    def noisy(path, **more):
        seen = []
        with open_writer(path, 3, {}) as writer:
            collection, _ = run(
                go2, 3, num_episodes, fall_after=(3, 5, 4), writer=writer, noise=Noise(ladder(3, 0.3), ACTIONS, 0),
                on_step=lambda c: seen.append((c.env_steps, len(c.episodes))), **options, **more,
            )  # fmt: skip
        return collection, read_trajectories(path), seen

    prompt, prompt_file, prompt_seen = noisy(tmp_path / "prompt.h5")
    monkeypatch.setattr(collector, "HostCopies", copies)
    late, late_file, late_seen = noisy(tmp_path / "late.h5", masked=True)
    assert late.episodes == prompt.episodes and late.env_steps == prompt.env_steps
    assert late_seen == prompt_seen
    assert_same_histories(late.histories, prompt.histories)
    assert_same_histories(late_file.histories, prompt_file.histories)
    assert late_file.closed_cleanly and late_file.num_transitions == prompt.env_steps


# -- exploration noise -------------------------------------------------------------------------------------------------


def test_noise_is_the_difference_between_what_was_done_and_what_was_meant(go2):
    sigma = torch.tensor([0.0, 0.05, 0.4])
    drawn = Noise(sigma, ACTIONS, 3)
    collection, _ = run(go2, 3, 3, noise=Noise(sigma, ACTIONS, 3))
    noise = torch.stack([drawn.apply(torch.zeros(3, ACTIONS), step) for step in range(15)]).numpy()  # [T, N, A]
    for history in collection.histories:
        added = history.action - history.extras["mean_action"]
        np.testing.assert_allclose(added, noise[: len(added), history.env], atol=1e-6)
    assert not (collection.histories[0].action - collection.histories[0].extras["mean_action"]).any()
    assert (collection.histories[1].action != collection.histories[1].extras["mean_action"]).all()


def test_noise_has_its_strength_and_memory_from_the_first_step_on():
    sigma = ladder(200, 0.2)
    noise = Noise(sigma, ACTIONS, 0)
    x = torch.stack([noise.apply(torch.zeros(200, ACTIONS), step) for step in range(1000)])  # [T, N, A]
    loud = x[:, 40:] / sigma[40:, None]
    assert not x[:, :40].any()
    torch.testing.assert_close(loud.std(dim=(0, 2)), torch.ones(160), atol=0.06, rtol=0)
    assert loud[0].std().item() == pytest.approx(1.0, abs=0.06)  # stationary: no weaker at the start
    assert loud.mean().item() == pytest.approx(0.0, abs=0.01)
    lag_1 = (loud[1:] * loud[:-1]).mean() / loud.square().mean()
    assert lag_1.item() == pytest.approx(0.7, abs=0.01)
    across = (loud[:, :-1] * loud[:, 1:]).mean() / loud.square().mean()
    assert across.item() == pytest.approx(0.0, abs=0.01)  # environments are independent


def test_noise_depends_on_its_seed():
    def first(seed):
        return Noise(ladder(4, 0.2), ACTIONS, seed).apply(torch.zeros(4, ACTIONS), 0)

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_a_step_that_is_made_again_gets_the_same_noise():
    once, again = (Noise(ladder(4, 0.2), ACTIONS, 3) for _ in range(2))
    for step in range(520):  # over two blocks
        first = again.apply(torch.zeros(4, ACTIONS), step)
        assert torch.equal(again.apply(torch.zeros(4, ACTIONS), step), first)
        assert torch.equal(once.apply(torch.zeros(4, ACTIONS), step), first)


def test_an_environments_noise_does_not_depend_on_its_neighbours():
    def drawn(num_envs, steps=600):
        noise = Noise(torch.full((num_envs,), 0.2), ACTIONS, 7)
        return torch.stack([noise.apply(torch.zeros(num_envs, ACTIONS), step) for step in range(steps)])

    few, many = drawn(2), drawn(5)
    torch.testing.assert_close(few, many[:, :2], rtol=0, atol=0)
    assert not torch.equal(many[:, 0], many[:, 1])
    assert not torch.equal(many[:256], many[256:512]), "blocks of draws differ"


def test_the_ladder_has_quiet_rungs_and_log_spaced_loud_ones():
    sigma = ladder(10, 0.3)
    assert sigma[:2].tolist() == [0.0, 0.0]
    assert sigma[2].item() == pytest.approx(0.03) and sigma[-1].item() == pytest.approx(0.3)
    ratios = sigma[3:] / sigma[2:-1]
    torch.testing.assert_close(ratios, torch.full((7,), 10 ** (1 / 7)), rtol=1e-4, atol=0)
    assert ladder(6, 0.0).tolist() == [0.0] * 6
    assert ladder(1, 0.2).tolist() == pytest.approx([0.2])
    assert ladder(5, 0.01).tolist() == pytest.approx([0.0, 0.01, 0.01, 0.01, 0.01])
