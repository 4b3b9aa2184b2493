"""Decoding with a cache gives the actions of a full forward over each environment's own history."""

import math
from pathlib import Path

import pytest
import torch
from small_models import OPTIONS, forward_from, make_history, make_model

from vintix_fast.model import ContextCache, load_checkpoint
from vintix_fast.model.cache import DTYPES
from vintix_fast.model.layers import alibi_slopes
from vintix_fast.service.errors import UsageError

BUNDLED = Path(__file__).parents[2] / "vintix_fast/checkpoints/without-minicheetah"


def decode_all(model, history, cache, task="task", resets=()):
    """Actions [N, T]; ``resets`` are (step, environment) pairs, forgotten before that step is decoded."""
    out = []
    for t in range(history[0].shape[1]):
        mask = torch.zeros(cache.num_envs, dtype=torch.bool)
        for step, env in resets:
            mask[env] |= step == t
        cache.reset(mask)
        out.append(model.decode(task, *(x[:, t] for x in history), cache))
    return torch.stack(out, 1)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_decoding_equals_forward_with_every_option(options):
    model = make_model(**options)
    history = make_history(model, envs=4, steps=30)
    # Environment 0 is never reset, 3 twice, and 1 and 2 at different times.
    resets = [(9, 1), (17, 2), (4, 3), (21, 3)]
    decoded = decode_all(model, history, ContextCache(model.config, 4), resets=resets)
    for env in range(4):
        starts = [0] + [step for step, e in resets if e == env] + [30]
        for start, stop in zip(starts, starts[1:], strict=False):
            expected = forward_from(model, history, env, start, stop)
            torch.testing.assert_close(decoded[env, start:stop], expected, atol=1e-4, rtol=0)


def test_the_history_before_a_reset_would_have_changed_the_actions():
    model = make_model()
    history = make_history(model, envs=2, steps=12)
    kept = decode_all(model, history, ContextCache(model.config, 2))
    forgotten = decode_all(model, history, ContextCache(model.config, 2), resets=[(6, 1)])
    assert torch.equal(kept[0], forgotten[0])
    assert (kept[1, 7:] - forgotten[1, 7:]).abs().max() > 1e-3


def test_after_the_ring_wraps_a_single_layer_sees_the_last_tokens_only():
    context, steps = 8, 27
    model = make_model(transformer_depth=1)
    history = make_history(model, envs=3, steps=steps)
    cache = ContextCache(model.config, 3, context_len=context)
    decoded = decode_all(model, history, cache, resets=[(13, 2)])
    for env in range(3):
        for t in range(steps):
            began = 13 if env == 2 and t >= 13 else 0
            expected = forward_from(model, history, env, max(began, t + 1 - context), t + 1)[-1]
            torch.testing.assert_close(decoded[env, t], expected, atol=1e-4, rtol=0)
    assert cache.length.tolist() == [context] * 3


def test_the_bundled_model_decodes_as_it_forwards_past_the_steep_heads_spans():
    model, task = load_checkpoint(BUNDLED), "go2_walking_ad"
    steps = 260
    history = make_history(model, 2, steps, task)
    spans = model.transformer.spans(context_len=300)
    assert max(layer[0] for layer in spans) < 230  # the steepest head leaves tokens unread, in both environments
    cache = ContextCache(model.config, 2, context_len=300)
    cache.spans.copy_(torch.tensor(spans))
    decoded = decode_all(model, history, cache, task, resets=[(30, 1)])
    for env, start in ((0, 0), (1, 30)):
        expected = forward_from(model, history, env, start, steps, task)
        torch.testing.assert_close(decoded[env, start:], expected, atol=1e-4, rtol=0)


def test_spans_that_wrap_around_the_ring_lose_nothing():
    """One layer, 300 slots, 700 steps: the steep head's span passes the ring's end, and all slots are in use."""
    model = make_model(transformer_depth=1)
    history = make_history(model, envs=2, steps=700)
    spans = model.transformer.spans(context_len=300)
    assert spans[0][0] < 300
    cache = ContextCache(model.config, 2, context_len=300)
    cache.spans.copy_(torch.tensor(spans))
    decoded = decode_all(model, history, cache)
    for t in (299, 300, 310, 420, 599, 601, 640, 699):
        expected = forward_from(model, history, 1, max(0, t - 299), t + 1)[-1]
        torch.testing.assert_close(decoded[1, t], expected, atol=1e-4, rtol=0)


def test_the_score_bound_holds_and_is_not_vacuous():
    model = make_model()
    attention = model.transformer.blocks[0].attention
    q, k, _ = attention._project(100 * torch.randn(2000, 24))
    scores = torch.einsum("nhd,mhd->hnm", q, k) / math.sqrt(6)
    assert scores.abs().max() <= attention.score_bound() < 3 * scores.abs().max()


@pytest.mark.parametrize("value", [0.0, 1e3, -1e3])
def test_what_trailing_pads_hold_does_not_matter(value):
    model = make_model()
    history = make_history(model, envs=3, steps=20)
    padded = [x.clone() for x in history]
    for x in padded[:3]:
        x[:, 14:] = value
    padded[3][:, 14:] = 0
    with torch.no_grad():
        expected = model("task", *(x[:, :14] for x in history))
        torch.testing.assert_close(model("task", *padded)[:, :14], expected, atol=1e-6, rtol=1e-6)


def test_the_first_step_of_an_episode_ignores_the_previous_action_and_reward():
    model = make_model()
    observation, action, reward, step = make_history(model, envs=1, steps=6)
    step[:] = torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad():
        before = model("task", observation, action, reward, step)
        action[:, 3], reward[:, 3] = 9.0, 9.0
        assert torch.equal(model("task", observation, action, reward, step), before)
        action[:, 4] = 9.0
        assert not torch.allclose(model("task", observation, action, reward, step), before)


def test_steps_beyond_the_step_embedding_share_its_last_row():
    model = make_model(inner_ep_pos_enc=True)
    observation, action, reward, step = make_history(model, envs=1, steps=2)
    at = [model("task", observation, action, reward, torch.full_like(step, n)) for n in (9998, 9999, 20_000)]
    assert torch.equal(at[1], at[2]) and not torch.allclose(at[0], at[1])


def test_a_forward_under_inference_mode_leaves_training_possible():
    model = make_model()
    history = make_history(model, envs=1, steps=5)
    with torch.inference_mode():
        model("task", *history)
    model("task", *history).sum().backward()


def test_alibi_slopes_of_the_paper():
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(4) == [2**-2, 2**-4, 2**-6, 2**-8]
    assert alibi_slopes(3) == [2**-4, 2**-8, 2**-2]
    assert alibi_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    assert alibi_slopes(1) == [2**-8]


def test_a_full_reset_starts_anew():
    model = make_model()
    history = make_history(model, envs=2, steps=10)
    cache = ContextCache(model.config, 2, context_len=4)
    decode_all(model, history, cache)
    cache.reset()
    fresh = ContextCache(model.config, 2, context_len=4)
    assert torch.equal(decode_all(model, history, cache), decode_all(model, history, fresh))


def test_each_layer_has_spans_of_its_own():
    model = make_model(transformer_depth=2)
    history = make_history(model, envs=2, steps=20)
    changed = [x.clone() for x in history]
    changed[0][:, 10] += 1.0

    def decode(history):
        # The first layer sees this token alone, the second two more: three tokens in all.
        cache = ContextCache(model.config, 2)
        cache.spans.copy_(torch.tensor([[1] * 4, [3] * 4]))
        return decode_all(model, history, cache)

    difference = (decode(changed) - decode(history)).abs().amax(dim=(0, 2))  # [T]
    assert (difference[10:13] > 1e-3).all()
    assert difference[:10].max() == difference[13:].max() == 0


def test_a_coarser_cache_stays_close_and_is_smaller():
    model = make_model()
    history = make_history(model, envs=2, steps=20)
    caches = {dtype: ContextCache(model.config, 2, dtype=dtype) for dtype in DTYPES}
    actions = {dtype: decode_all(model, history, cache) for dtype, cache in caches.items()}
    # int8 rounds to 1 part in 254 of a vector's largest number; two layers, actions of about 1
    assert 0 < (actions[torch.int8] - actions[torch.float32]).abs().max() < 0.05
    numbers = 2 * 2 * 2 * 4 * 32 * 6  # k and v, layers, environments, heads, slots, head_dim
    bytes_each = {torch.float32: 4.0, torch.int8: 1.0 + 4.0 / 6.0}
    assert {dtype: cache.nbytes / numbers for dtype, cache in caches.items()} == pytest.approx(bytes_each)


def test_misuse_is_refused():
    model = make_model()
    cache = ContextCache(model.config, 3)
    with pytest.raises(UsageError, match="2 observations for a cache of 3"):
        model.decode("task", *(x[:, 0] for x in make_history(model, 2, 1)), cache)
    with pytest.raises(UsageError, match=r"mask must be \[3\] bool"):
        cache.reset(torch.zeros(2, dtype=torch.bool))
    with pytest.raises(UsageError, match="at least 1"):
        ContextCache(model.config, 0)
    with pytest.raises(UsageError, match="got torch.float16"):
        ContextCache(model.config, 3, dtype=torch.float16)
