"""What the critic learns from: n-step returns by hand."""

import numpy as np
from fakes import ACTIONS, OBSERVATIONS
from made_histories import history_of

from vintix_fast.config import CriticConfig
from vintix_fast.improve.critic import transitions

BY_HAND = CriticConfig(gamma=0.5, n_steps=3, reward_scale=2.0, reward_bonus=1.0)


def test_returns_end_with_a_fall_and_are_bootstrapped_where_the_successor_is_unknown():
    #       fall at 2, time-out at 4, failure at 6, the stream ends at 8; rewards are 3, 5, 7, ... scaled
    h = history_of(
        [0, 1, 2, 0, 1, 0, 1, 0, 1], terminated=[2, 6], truncated=[4], failed=[6], reward=np.arange(1.0, 10.0)
    )
    data = transitions([h], BY_HAND)
    kept = [0, 1, 2, 3, 5, 7]
    assert data.state[:, 0].tolist() == kept and (data.deviation == -0.25).all()
    assert data.reward.tolist() == [3 + 5 / 2 + 7 / 4, 5 + 7 / 2, 7, 9, 13, 17]
    assert data.discount.tolist() == [0, 0, 0, 0.5, 0.5, 0.5]
    assert data.next_state[3:, 0].tolist() == [4, 6, 8] and data.next_state[3:, -1].tolist() == [4.5, 6.5, 8.5]


def test_returns_are_of_n_steps_where_the_episode_is_long_enough():
    data = transitions([history_of(range(6), truncated=[5], reward=np.arange(1.0, 7.0))], BY_HAND)
    assert data.next_state[:, 0].tolist() == [3, 4, 5, 5, 5]
    assert data.discount.tolist() == [0.125, 0.125, 0.125, 0.25, 0.5]
    assert data.reward.tolist() == [7.25, 10.75, 14.25, 9 + 11 / 2, 11]


def test_the_last_action_is_part_of_the_state_and_0_at_an_episodes_start():
    data = transitions([history_of([0, 1, 2, 0, 1, 2], terminated=[2], truncated=[5])], BY_HAND)
    assert data.state.shape == (5, OBSERVATIONS + 2 * ACTIONS)
    last = data.state[:, OBSERVATIONS : OBSERVATIONS + ACTIONS]
    assert last[:, 0].tolist() == [0.0, 0.25, 1.25, 0.0, 3.25] and (last == last[:, :1]).all()
    assert data.next_state[3:, OBSERVATIONS].tolist() == [4.25, 4.25]


def test_a_stream_is_not_continued_by_the_next_one():
    left = history_of([0, 1])
    right = history_of([2, 3, 4])  # would fit on, were it the same stream
    data = transitions([left, right], BY_HAND)
    assert data.state[:, 0].tolist() == [0, 0, 1] and data.next_state[:, 0].tolist() == [1, 2, 2]
    assert data.discount.tolist() == [0.5, 0.25, 0.5]
