"""Bundled checkpoints by name, and the compact form in which they are stored."""

import json

import numpy as np
import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, save_tiny, tiny_model

from vintix_fast.config import AdaptConfig
from vintix_fast.eval_config import EvalConfig
from vintix_fast.model import load_checkpoint, save_checkpoint
from vintix_fast.service.bundled import bundled_checkpoints, checkpoint_path
from vintix_fast.service.errors import UsageError

# Wide enough that the weights are most of the file, as in a real model.
WIDE = dict(
    action_emb_dim=63, observation_emb_dim=63, reward_emb_dim=2, hidden_dim=128, transformer_heads=4,
    intermediate_size=128,
)  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The same model stored plainly and compactly; not to be written to."""
    folder, model = tmp_path_factory.mktemp("stored"), tiny_model(**WIDE)
    save_checkpoint(model, folder / "plain")
    save_checkpoint(model, folder / "compact", compact=True)
    return model, folder / "plain", folder / "compact"


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_name_is_the_bundled_checkpoint_of_that_name():
    bundled = bundled_checkpoints()
    assert bundled
    for name, path in bundled.items():
        assert checkpoint_path(f"builtin:{name}") == path and path.is_dir()
        assert AdaptConfig("go2", "out", pretrained_path=f"builtin:{name}").pretrained_path == path
        assert EvalConfig(f"builtin:{name}", "go2").vintix_path == path
        assert load_checkpoint(path).tasks


@pytest.mark.parametrize("name", ["", "nobody", "../checkpoints", "GO1"])
def test_an_unknown_name_is_answered_with_those_known(name):
    for make in (
        checkpoint_path,
        lambda value: AdaptConfig("go2", "out", pretrained_path=value),
        lambda value: EvalConfig(value, "go2"),
    ):
        with pytest.raises(UsageError) as error:
            make(f"builtin:{name}")
        assert f"no bundled checkpoint is called {name!r}" in str(error.value)
        assert all(f"builtin:{other}" in str(error.value) for other in bundled_checkpoints())


def test_anything_else_is_a_path(tmp_path):
    name = next(iter(bundled_checkpoints()))
    for value in (name, f"./builtin:{name}", tmp_path):
        assert str(checkpoint_path(value)) == str(tmp_path if value is tmp_path else value).removeprefix("./")


# -- compact files -----------------------------------------------------------------------------------------------------


def test_a_compact_file_is_less_than_half_as_large(stored):
    _, plain, compact = stored
    assert (compact / "model.pth").stat().st_size < 0.5 * (plain / "model.pth").stat().st_size


def test_a_compact_file_is_an_ordinary_one_to_torch(stored):
    model, _, compact = stored
    state = torch.load(compact / "model.pth", weights_only=True)
    assert {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in model.state_dict().items()}


def test_compact_weights_are_rounded_to_bfloat16_and_no_further(stored):
    model, plain, compact = stored
    exact, rounded = model.state_dict(), load_checkpoint(compact).state_dict()
    assert exact.keys() == rounded.keys()
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        assert ((rounded[name] - value).abs() <= 2.0**-8 * value.abs()).all(), name
    assert any((rounded[name] != exact[name]).any() for name in exact)
    unrounded = load_checkpoint(plain).state_dict()
    assert all(torch.equal(unrounded[name], exact[name]) for name in exact)


def test_compact_checkpoints_keep_configuration_and_statistics(stored):
    model, plain, compact = stored
    for name in ("config.json", "metadata.json"):
        assert (compact / name).read_text() == (plain / name).read_text()
    loaded = load_checkpoint(compact)
    assert loaded.config == model.config and loaded.tasks == model.tasks
    assert json.loads((compact / "config.json").read_text())["hidden_dim"] == 128


def test_a_compact_model_acts_nearly_like_the_original(stored):
    model, _, compact = stored
    rng = np.random.default_rng(0)
    history = (
        rng.normal(0.0, 0.3, (40, OBSERVATIONS)).astype(np.float32),
        rng.normal(0.0, 0.5, (40, ACTIONS)).astype(np.float32),
        rng.normal(0.01, 0.005, 40).astype(np.float32), np.arange(40) % 25,
    )  # fmt: skip
    exact, near = (m.predict_actions(*history, task_name="go2_walking_ad") for m in (model, load_checkpoint(compact)))
    assert np.abs(near - exact).max() < 0.03 * np.abs(exact).max()
    assert np.abs(near - exact).max() > 0


def test_storing_again_is_exact(stored, tmp_path):
    """What was rounded once loses nothing more."""
    _, _, compact = stored
    save_checkpoint(load_checkpoint(compact), tmp_path / "again", compact=True)
    first, again = (torch.load(path / "model.pth", weights_only=True) for path in (compact, tmp_path / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_compact_checkpoint_replaces_a_plain_one(tmp_path):
    path = save_tiny(tmp_path / "checkpoint")
    before = (path / "model.pth").stat().st_size
    save_checkpoint(load_checkpoint(path), path, compact=True)
    assert (path / "model.pth").stat().st_size < before
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]
    load_checkpoint(path)
