"""The compiled policy acts as the model does when it reads each environment's history from its start."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import OPTIONS, forward_from, make_history, make_model

from vintix_fast._core import PolicyDecoder, cpu_features
from vintix_fast.model import load_checkpoint
from vintix_fast.policy import CompiledPolicy, Policy, cache_bytes
from vintix_fast.policy.compiled import decoder_weights
from vintix_fast.service.errors import UsageError

BUNDLED = Path(__file__).parents[2] / "vintix_fast/checkpoints/without-minicheetah"
# Largest errors of actions of size 1: a float32 has 24 bits, an int8 7 of its vector's largest number.
TOLERANCE = {"float32": 1e-5, "int8": 8e-3}


def lacks(name):
    return pytest.mark.skipif(name not in cpu_features()["decoders"], reason=f"this processor lacks {name}")


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the processor's flags are known on Linux only")
def test_what_the_processor_can_do_was_built():
    """Other tests skip what is not there; a build that left it out must not pass for a processor that lacks it."""
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    features = cpu_features()
    built = features["decoders"]
    assert ("avx2" in built) == ({"avx2", "fma"} <= flags)
    avx512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
    assert ("avx512" in built) == (avx512 | {"avx512_vnni"} <= flags)
    assert features["bfloat16"] == features["bfloat16_kernels"] == (avx512 | {"avx512_bf16"} <= flags)


EVERYWHERE = [pytest.param(name, marks=lacks(name)) for name in ("portable", "avx2", "avx512")]


def act_all(policy, history, resets=()):
    """Actions [N, T]; ``resets`` are (step, environment) pairs, forgotten before that step."""
    observation, action, reward, step_num = history
    out = []
    for t in range(observation.shape[1]):
        mask = torch.zeros(len(observation), dtype=torch.bool)
        for step, env in resets:
            mask[env] |= step == t
        policy.reset(mask)
        policy.observe(action[:, t], reward[:, t])
        out.append(policy.act(observation[:, t], step_num[:, t]))
    return torch.stack(out, 1)


@pytest.mark.parametrize("cache_dtype", TOLERANCE)
@pytest.mark.parametrize("implementation", EVERYWHERE)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_acting_equals_forward_with_every_option(options, implementation, cache_dtype):
    model = make_model(**options)
    history = make_history(model, envs=5, steps=40)  # more than two blocks of 16 tokens
    resets = [(9, 1), (17, 2), (4, 3), (21, 3)]
    policy = CompiledPolicy(
        model, "task", 5, 64, cache_dtype=cache_dtype, dropped_mass=1e-8, threads=2, implementation=implementation
    )
    acted = act_all(policy, history, resets)
    assert policy.decoder.implementation == implementation
    for env in range(5):
        starts = [0] + [step for step, e in resets if e == env] + [40]
        for start, stop in zip(starts, starts[1:], strict=False):
            expected = forward_from(model, history, env, start, stop)
            torch.testing.assert_close(acted[env, start:stop], expected, atol=TOLERANCE[cache_dtype], rtol=0)


@pytest.mark.parametrize("cache_dtype", TOLERANCE)
@pytest.mark.parametrize("context_len", [1, 8, 16, 21])
def test_after_the_ring_is_full_a_single_layer_sees_the_last_tokens_only(context_len, cache_dtype):
    model = make_model(transformer_depth=1)
    history = make_history(model, envs=2, steps=70)
    acted = act_all(CompiledPolicy(model, "task", 2, context_len, cache_dtype=cache_dtype), history, [(41, 1)])
    for env in range(2):
        for t in range(70):
            began = 41 if env == 1 and t >= 41 else 0
            expected = forward_from(model, history, env, max(began, t + 1 - context_len), t + 1)[-1]
            torch.testing.assert_close(acted[env, t], expected, atol=TOLERANCE[cache_dtype], rtol=0)


@pytest.mark.parametrize("cache_dtype", TOLERANCE)
def test_the_bundled_model_leaves_far_tokens_unread_and_acts_as_it_forwards(cache_dtype):
    model, task, steps = load_checkpoint(BUNDLED), "go2_walking_ad", 300
    history = make_history(model, 2, steps, task)
    expected = torch.cat([forward_from(model, history, env, 0, steps, task)[None] for env in range(2)])

    def run(dropped_mass):
        policy = CompiledPolicy(model, task, 2, 2048, cache_dtype=cache_dtype, dropped_mass=dropped_mass)
        return act_all(policy, history), policy

    everything, policy = run(0.0)
    torch.testing.assert_close(everything, expected, atol=TOLERANCE[cache_dtype], rtol=0)
    acted, thrifty = run(1e-4)
    # A deeper layer's numbers may be rounded to the next level when its input changes in the last digits.
    torch.testing.assert_close(acted, everything, atol=max(1e-4, TOLERANCE[cache_dtype] / 4), rtol=0)
    assert thrifty.decoder.bytes_read < 0.9 * policy.decoder.bytes_read
    assert thrifty.decoder.bytes_per_env < 0.6 * policy.decoder.bytes_per_env


def test_neither_the_number_of_threads_nor_of_environments_changes_an_action():
    model = make_model()
    history = make_history(model, envs=37, steps=20)
    one = act_all(CompiledPolicy(model, "task", 37, 32, threads=1), history)
    for threads in (2, 3, 5):
        assert torch.equal(act_all(CompiledPolicy(model, "task", 37, 32, threads=threads), history), one)
    alone = act_all(CompiledPolicy(model, "task", 1, 32, threads=2), [x[30:31] for x in history])
    assert torch.equal(alone[0], one[30])


@pytest.mark.parametrize("cache_dtype", TOLERANCE)
def test_nan_stays_in_its_history_until_that_is_reset(cache_dtype):
    model = make_model()
    clean = make_history(model, envs=6, steps=90)
    history = [x.clone() for x in clean]
    history[0][1, 5:40] = torch.nan

    def run(inputs):
        return act_all(CompiledPolicy(model, "task", 6, 32, cache_dtype=cache_dtype, threads=1), inputs, [(40, 1)])

    acted, expected = run(history), run(clean)
    assert acted[1, 5:40].isnan().all()
    acted[1, 5:40] = expected[1, 5:40]
    assert torch.equal(acted, expected)


def test_a_step_that_was_given_up_is_forgotten():
    model = make_model()
    history = make_history(model, envs=40, steps=5)
    policy = CompiledPolicy(model, "task", 40, 32, threads=3)
    expected = act_all(policy, history)
    policy.begin(history[0][:, 0], history[3][:, 0])
    policy.reset()
    assert torch.equal(act_all(policy, history), expected)
    policy.begin(history[0][:, 0], history[3][:, 0])  # nor does it keep the policy from being thrown away


@pytest.mark.parametrize("value", [-100.0, 100.0])
def test_activations_far_from_0_are_right(value):
    model = make_model(mlp_class="LLaMAMLP")
    for block in model.transformer.blocks:
        torch.nn.init.constant_(block.mlp.fc_1.bias, value)
    history = make_history(model, envs=1, steps=20)
    acted = act_all(CompiledPolicy(model, "task", 1, 32, cache_dtype="float32"), history)
    torch.testing.assert_close(acted[0], forward_from(model, history, 0, 0, 20), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dropped_mass", [0.001, 0.01, 0.1])
def test_leaving_tokens_out_changes_actions_by_no_more_than_their_weight(dropped_mass):
    """Steep heads and a full ring, so that spans, the early stop and skipped blocks all leave something out."""
    model = make_model(transformer_depth=1, transformer_heads=6)
    history = make_history(model, envs=2, steps=250)

    def run(mass):
        policy = CompiledPolicy(model, "task", 2, 200, cache_dtype="float32", dropped_mass=mass)
        return act_all(policy, history), policy.decoder.bytes_read

    (exact, everything), (acted, read) = run(0.0), run(dropped_mass)
    assert exact.abs().max() < 1
    assert (acted - exact).abs().max() <= dropped_mass
    assert read < 0.8 * everything


def test_the_cache_is_as_large_as_was_said_before():
    for options in ({}, {"transformer_heads": 6}, {"normalize_qk": False}):
        model = make_model(**options)
        for cache_dtype in TOLERANCE:
            for context_len in (1, 20, 300):
                said = cache_bytes(model, context_len, engine="auto", cache_dtype=cache_dtype, dropped_mass=0.01)
                policy = CompiledPolicy(model, "task", 1, context_len, cache_dtype=cache_dtype, dropped_mass=0.01)
                assert said == pytest.approx(policy.decoder.bytes_per_env, abs=64 * 3 * 2 * 6)  # lines of 64 bytes


def test_a_policy_keeps_the_weights_that_it_was_made_of():
    model = make_model()
    history = make_history(model, envs=2, steps=6)
    policy = CompiledPolicy(model, "task", 2, 32)
    before = act_all(policy, history)
    with torch.no_grad():
        model.head.acs_decoders["quadruped_locomotion"].layers[0].weight.mul_(0.5)
    policy.reset()
    assert torch.equal(act_all(policy, history), before)
    assert not torch.equal(act_all(CompiledPolicy(model, "task", 2, 32), history), before)


def test_the_reference_can_take_its_place():
    model = make_model()
    history = make_history(model, envs=3, steps=30)
    plain, compiled = Policy(model, "task", 3, 32), CompiledPolicy(model, "task", 3, 32, cache_dtype="float32")
    resets = [(11, 2)]
    expected = act_all(plain, history, resets)
    torch.testing.assert_close(act_all(compiled, history, resets), expected, atol=1e-5, rtol=0)


# -- what the core refuses ---------------------------------------------------------------------------------------------


def test_steps_that_do_not_follow_one_another_are_refused():
    policy = CompiledPolicy(make_model(), "task", 2, 32)
    with pytest.raises(RuntimeError, match="no step was begun"):
        policy.finish()
    policy.begin(torch.zeros(2, 7), torch.zeros(2))
    with pytest.raises(RuntimeError, match="not finished"):
        policy.begin(torch.zeros(2, 7), torch.zeros(2))
    policy.finish()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"observation": np.zeros((2, 7))}, TypeError, "observation: expected a numpy array of dtype float32"),
        ({"observation": np.zeros((2, 8), np.float32)}, ValueError, r"shape \[2, 7\], got shape \(2, 8\)"),
        ({"prev_action": np.zeros((5, 2), np.float32).T}, ValueError, "prev_action: expected a C-contiguous"),
        ({"step_num": np.zeros(2, np.int64)}, TypeError, "step_num: expected a numpy array of dtype int32"),
    ],
)  # fmt: skip
def test_arrays_of_another_form_are_refused(change, error, message):
    decoder = CompiledPolicy(make_model(), "task", 2, 32).decoder
    arrays = {
        "observation": np.zeros((2, 7), np.float32), "prev_action": np.zeros((2, 5), np.float32),
        "prev_reward": np.zeros(2, np.float32), "step_num": np.zeros(2, np.int32),
    }  # fmt: skip
    with pytest.raises(error, match=message):
        decoder.begin(**arrays | change)
    decoder.begin(**arrays)
    assert decoder.finish().shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache_dtype": "float16"}, "cache_dtype: expected float32 or int8, got 'float16'"),
        ({"dropped_mass": 1.0}, "dropped_mass is 1.0; it must be from 0 to below 1"),
        ({"dropped_mass": -0.1}, "dropped_mass is -0.1"),
        ({"implementation": "sse9"}, "'sse9' is unknown"),
        ({"threads": -1}, "threads: expected a positive integer, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises((ValueError, UsageError), match=message):
        CompiledPolicy(make_model(), "task", 2, 32, **change)


def test_weights_that_do_not_fit_are_refused(monkeypatch):
    model = make_model()
    weights = decoder_weights(model, "task")
    made = []
    monkeypatch.setattr("vintix_fast.policy.compiled.PolicyDecoder", lambda _, **options: made.append(options))
    CompiledPolicy(model, "task", 2, 32)
    with pytest.raises(ValueError, match="'ln_f.weight' is missing"):
        PolicyDecoder({name: value for name, value in weights.items() if name != "ln_f.weight"}, **made[0])
    with pytest.raises(ValueError, match=r"'ln_f.weight': expected shape \[24\], got \[3\]"):
        PolicyDecoder(weights | {"ln_f.weight": np.zeros(3, np.float32)}, **made[0])
