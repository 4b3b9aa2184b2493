"""Training windows: what is in them, and what never is."""

import numpy as np
import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, make_history

from vintix_fast.data import History, Targets, Windows
from vintix_fast.service.errors import VintixFastError

COLUMNS = ("observation", "prev_action", "prev_reward", "step_num", "target", "weight")


def numbered(env, length, first_step=0):
    """A history in which every value tells its environment and time: observation e00t, action, reward, target."""
    number = 1000.0 * (env + 1) + np.arange(length, dtype=np.float32)
    history = History(
        observation=np.repeat(number[:, None], OBSERVATIONS, axis=1),
        action=np.repeat(number[:, None] + 0.25, ACTIONS, axis=1),
        reward=number + 0.5,
        step_num=(np.arange(length, dtype=np.int32) + first_step) % 7,
        extras={},
        env=env,
    )
    return history, Targets(np.repeat(number[:, None] + 0.75, ACTIONS, axis=1), np.ones(length, np.float32))


def make_windows(*histories, window_len):
    return Windows([h for h, _ in histories], [t for _, t in histories], window_len)


def batches(windows, count=50, batch_size=4):
    rng = np.random.default_rng(0)
    return [windows.batch(batch_size, rng) for _ in range(count)]


def rows(batch):
    """The real tokens of each window, as lists of dicts of numpy arrays."""
    for b in range(len(batch.weight)):
        n = int(batch.weight[b].sum())
        yield {name: getattr(batch, name)[b, :n].numpy() for name in COLUMNS}


def test_a_window_is_one_contiguous_stretch_of_one_stream():
    windows = make_windows(numbered(0, 20), numbered(1, 5), numbered(2, 33), window_len=8)
    seen = set()
    for batch in batches(windows):
        for window in rows(batch):
            number = window["observation"][:, 0]
            assert (np.diff(number) == 1).all() and len({int(n) // 1000 for n in number}) == 1
            np.testing.assert_array_equal(window["step_num"], (number % 1000) % 7)
            seen.add((int(number[0]) // 1000, len(number)))
    assert seen == {(1, 8), (2, 5), (3, 8)}


def test_previous_action_and_reward_are_of_the_step_before_and_the_target_of_the_step_itself():
    windows = make_windows(numbered(0, 20), numbered(1, 6), window_len=8)
    first_tokens = 0
    for batch in batches(windows):
        for window in rows(batch):
            number = window["observation"]
            np.testing.assert_array_equal(window["target"], number[:, :ACTIONS] + 0.75)
            begins = int(number[0, 0] % 1000 == 0)
            np.testing.assert_array_equal(window["prev_action"][begins:], number[begins:, :ACTIONS] - 1 + 0.25)
            np.testing.assert_array_equal(window["prev_reward"][begins:], number[begins:, 0] - 1 + 0.5)
            if begins:
                assert not window["prev_action"][0].any() and window["prev_reward"][0] == 0.0
                first_tokens += 1
    assert first_tokens > 10


def test_slots_past_a_windows_end_are_zeros_of_weight_0():
    windows = make_windows(numbered(0, 20), numbered(1, 5), window_len=8)
    padded = 0
    for batch in batches(windows):
        assert set(batch.weight.unique().tolist()) <= {0.0, 1.0}
        past = batch.weight == 0
        for name in COLUMNS:
            assert not getattr(batch, name)[past].any(), name
        padded += int(past.sum())
        # padding is at the end only, which is what causal attention needs
        assert (batch.weight.diff(dim=1) <= 0).all()
    assert padded > 0


def test_a_batch_is_as_long_as_its_longest_window():
    windows = make_windows(numbered(0, 20), numbered(1, 5), numbered(2, 3), window_len=8)
    lengths = set()
    for batch in batches(windows, count=400, batch_size=2):
        longest = int(batch.weight.sum(dim=1).max())
        assert batch.observation.shape == (2, longest, OBSERVATIONS) and batch.target.shape == (2, longest, ACTIONS)
        assert batch.step_num.shape == batch.prev_reward.shape == batch.weight.shape == (2, longest)
        lengths.add(longest)
    assert lengths == {3, 5, 8}


def test_a_history_shorter_than_a_window_is_used_whole():
    (window,) = rows(batches(make_windows(numbered(0, 30), window_len=2048), count=1, batch_size=1)[0])
    assert window["observation"][:, 0].tolist() == [1000.0 + t for t in range(30)]


def test_targets_weights_are_passed_on():
    history, target = numbered(0, 6)
    weights = np.array([0.0, 0.5, 1.0, 2.0, 0.25, 3.0], np.float32)
    windows = Windows([history], [Targets(target.action, weights)], 6)
    assert windows.batch(1, np.random.default_rng(0)).weight[0].tolist() == weights.tolist()


def test_a_stream_that_begins_inside_an_episode_loses_its_first_token():
    windows = make_windows(numbered(0, 6, first_step=3), window_len=10)
    (window,) = rows(windows.batch(1, np.random.default_rng(0)))
    assert window["observation"][:, 0].tolist() == [1001.0, 1002.0, 1003.0, 1004.0, 1005.0]
    assert window["prev_action"][0, 0] == 1000.25 and window["prev_reward"][0] == 1000.5
    assert window["step_num"].tolist() == [4, 5, 6, 0, 1]


def test_every_transition_is_used_about_equally_often():
    windows = make_windows(numbered(0, 40), numbered(1, 120), numbered(2, 240), window_len=10)
    uses = {}
    for batch in batches(windows, count=1500, batch_size=8):
        for number in batch.observation[..., 0].flatten().tolist():
            uses[number] = uses.get(number, 0) + 1
    assert len(uses) == 400  # the very first and last are used too
    counts = [np.array([uses[1000.0 * (env + 1) + t] for t in range(n)]) for env, n in enumerate((40, 120, 240))]
    means = np.array([c.mean() for c in counts])
    np.testing.assert_allclose(means, 1500 * 8 * 10 / 400, rtol=0.06)  # each history by its length
    for c in counts:
        inner = c[9:-9]  # the outermost are in fewer windows
        assert inner.min() > 0.75 * inner.mean() and inner.max() < 1.25 * inner.mean()


def test_windows_depend_on_the_generator_alone():
    windows = make_windows(numbered(0, 40), numbered(1, 9), window_len=8)
    once, again = (windows.batch(6, np.random.default_rng(5)) for _ in range(2))
    other = windows.batch(6, np.random.default_rng(6))
    assert torch.equal(once.observation, again.observation)
    assert once.observation.shape != other.observation.shape or not torch.equal(once.observation, other.observation)


def test_the_histories_are_left_as_they_were():
    history = make_history([5, 7])
    action, reward = history.action.copy(), history.reward.copy()
    Windows([history], [Targets(history.action, np.ones(12, np.float32))], 4).batch(3, np.random.default_rng(0))
    np.testing.assert_array_equal(history.action, action)
    np.testing.assert_array_equal(history.reward, reward)


@pytest.mark.parametrize(
    "histories", [[], [numbered(0, 0)], [numbered(0, 1, first_step=2)]], ids=["none", "empty", "1"]
)
def test_nothing_to_train_on_is_an_error(histories):
    with pytest.raises(VintixFastError, match="nothing to train on"):
        make_windows(*histories, window_len=8)


def test_histories_without_a_usable_token_are_skipped():
    windows = make_windows(numbered(0, 0), numbered(1, 4), numbered(2, 1, first_step=2), window_len=8)
    assert windows.lengths.tolist() == [4]


def test_windows_are_drawn_where_the_weight_is():
    histories = [make_history([30], seed=s) for s in range(3)]
    weights = [np.zeros(30, np.float32), np.ones(30, np.float32), np.full(30, 3.0, np.float32)]
    targets = [Targets(h.action, w) for h, w in zip(histories, weights, strict=True)]
    windows = Windows(histories, targets, 10)
    drawn = windows.batch(4000, np.random.default_rng(0)).weight[:, 0].numpy()
    assert not (drawn == 0).any() and (drawn == 3).mean() == pytest.approx(0.75, abs=0.03)
    with pytest.raises(VintixFastError, match="every step has weight 0"):
        Windows(histories[:1], targets[:1], 10)


# -- packing -----------------------------------------------------------------------------------------------------------


def packed_batch(windows, batch_size, seed):
    return windows.gather(*windows.lay_out(batch_size, np.random.default_rng(seed), pack=True))


def unpacked(batch):
    """The windows of a packed batch, as the rows of observations' first entries."""
    for row in range(len(batch.weight)):
        first = batch.first[row] if batch.first is not None else torch.zeros(batch.weight.shape[1], dtype=torch.int32)
        for begin in first.unique().tolist():
            inside = (first == begin) & (batch.weight[row] > 0)
            if inside.any():
                assert inside.nonzero()[0] == begin
                yield batch.observation[row, inside, 0].tolist()


def test_short_windows_share_rows_and_are_the_same_windows():
    windows = make_windows(*(numbered(env, 3 + 2 * env) for env in range(9)), window_len=16)
    saved = 0
    for seed in range(30):
        apart, packed = windows.batch(6, np.random.default_rng(seed)), packed_batch(windows, 6, seed)
        assert sorted(unpacked(packed)) == sorted(unpacked(apart))
        assert packed.weight.shape[1] <= 16 and packed.weight.sum() == apart.weight.sum()
        assert (packed.weight.sum(dim=1) > 0).all()
        saved += apart.weight.numel() - packed.weight.numel()
    assert saved > 200


def test_full_rows_need_no_bounds():
    windows = make_windows(numbered(0, 40), numbered(1, 30), window_len=16)
    batch = windows.batch(3, np.random.default_rng(0))
    assert batch.first is None and batch.weight.shape == (3, 16)


def test_empty_slots_are_histories_of_their_own():
    windows = make_windows(numbered(0, 9), numbered(1, 4), window_len=16)
    batch = packed_batch(windows, 3, 1)
    rows, length = batch.weight.shape
    wide = windows.gather(*windows.lay_out(3, np.random.default_rng(1), pack=True, full_size=True))
    assert wide.observation.shape == (3, 16, OBSERVATIONS) and wide.first.shape == (3, 16)
    assert torch.equal(wide.target[:rows, :length], batch.target)
    for part in (batch, wide):
        empty = part.weight == 0
        assert empty.any() and torch.equal(part.first[empty], torch.where(empty)[1].to(torch.int32))
        assert (part.first.diff(dim=1) >= 0).all()


def test_rows_are_the_windows_that_a_batch_would_have():
    windows = make_windows(numbered(0, 40), numbered(1, 6), window_len=8)
    rows, batch = windows.rows(5, np.random.default_rng(3)), windows.batch(5, np.random.default_rng(3))
    assert torch.equal(windows.target[rows], batch.target[batch.weight > 0])
    assert torch.equal(windows.weight[rows], batch.weight[batch.weight > 0])


def test_a_sweep_gives_every_transition_once_with_half_a_window_before_it():
    windows = make_windows(numbered(0, 20), numbered(1, 5), numbered(2, 8), window_len=8)
    numbers = []
    for batch, keep in windows.sweep():
        number = batch.observation[0, :, 0]
        assert len(number) <= 8 and (number.diff() == 1).all()
        assert keep == 0 or keep == 4
        assert keep == 4 or number[0] % 1000 == 0
        numbers += number[keep:].tolist()
    assert numbers == [1000.0 + t for t in range(20)] + [2000.0 + t for t in range(5)] + [3000.0 + t for t in range(8)]
