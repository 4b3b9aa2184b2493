"""What `make checkpoints` stores, with its commands' results made up."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from fakes import save_tiny

from vintix_fast.model import load_checkpoint
from vintix_fast.pretrain.pretrain import MODEL_DIR
from vintix_fast.service.errors import VintixFastError
from vintix_fast.service.files import write_json

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
make_checkpoints = importlib.import_module("make_checkpoints")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The commands' output directory, where a new model is trained; evaluations are made up."""
    out = tmp_path / "out"
    tasks = {f"{robot}_walking_ad": f"{robot}_locomotion" for robot in ("go2", "a1", "minicheetah")}
    save_tiny(out / "models/without-go1" / MODEL_DIR, tasks, seed=1)
    options = {"target": "expert", "batch_size": 16, "window_len": 8, "long_steps": 1, "long_window_len": 9, "lr": 1e-3}
    training = {
        "parameters": 123, "versions": {"genesis-world": "1.4"}, "rows": [{"loss": 0.5}], "steps": 7, "tokens": 800,
        "seconds": 6, "options": options | {"seed": 5},
    }  # fmt: skip
    write_json(out / "models/without-go1/pretrain.json", training)
    found = {"episodes": 100, "terminated": 3, "mean_return": 1.25, "std_return": 0.5, "mean_episode_length": 80.0}
    for robot in ("go2", "a1", "minicheetah"):
        for folder in ("experts", "histories"):
            (out / folder / robot).mkdir(parents=True)
        expert = {"evaluation": found, "env_steps": 10, "train_seconds": 2}
        write_json(out / "experts" / robot / "expert.json", expert)
        history = {"histories": 1, "env_steps": 20, "collect_seconds": 3}
        write_json(out / "histories" / robot / "distil.json", history)

    def run(command, result):
        result.parent.mkdir(parents=True, exist_ok=True)
        errors = {"standard_error": 0.125, "standard_errors_by_episode_number": [0.2, 0.3, 0.3, 0.4]}
        write_json(result, found | {"returns_by_episode_number": [1.0, 2.0, 3.0, 5.0]} | errors)

    monkeypatch.setattr(make_checkpoints, "run", run)
    return out


def test_a_new_model_takes_the_place_of_the_bundled_one(results, tmp_path):
    bundled = save_tiny(tmp_path / "bundled/without-go1", seed=2)
    (bundled / "card.json").write_text("{}")
    (bundled / "README.md").write_text("of the earlier model")
    make_checkpoints.bundle(results, tmp_path / "bundled", "go1", "A note.")
    stored, trained = load_checkpoint(bundled), load_checkpoint(results / "models/without-go1" / MODEL_DIR)
    assert stored.groups == trained.groups
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(stored.state_dict()[name], value, rtol=2**-8, atol=0)  # stored in bfloat16
    returns = json.loads((bundled / "card.json").read_text())["returns"]
    assert {robot: found["seen"] for robot, found in returns.items()} == {
        "go2": True, "a1": True, "minicheetah": True, "go1": False,
    }  # fmt: skip
    card = (bundled / "README.md").read_text()
    assert "A note." in card and "minicheetah_locomotion" in card and "97/100" in card
    # Of 100 episodes with a standard deviation of 0.5, and of the mean of the third and fourth episodes.
    assert "| go2 | 1.25 ± 0.050 |" in card
    assert "1.25 ± 0.125 | 1.00 ± 0.200 | 4.00 ± 0.250 |" in card
    assert [found["late_standard_error"] for found in returns.values()] == [pytest.approx(0.25)] * 4


def test_what_is_stored_is_not_stored_again(results, tmp_path, monkeypatch):
    made = make_checkpoints.bundle, results, tmp_path / "bundled", "go1"
    made[0](*made[1:], "A note.")
    files = {path: path.read_bytes() for path in (tmp_path / "bundled/without-go1").iterdir()}
    assert len(files) == 5
    monkeypatch.setattr(make_checkpoints, "run", lambda command, result: pytest.fail(str(command)))
    made[0](*made[1:], "Another note.")
    assert {path: path.read_bytes() for path in files} == files
    # A model that was trained anew is.
    save_tiny(results / "models/without-go1" / MODEL_DIR, {"go2_walking_ad": "go2_locomotion"}, seed=3)
    with pytest.raises(pytest.fail.Exception, match="eval"):
        made[0](*made[1:], "Another note.")


def test_a_command_that_fails_is_named(tmp_path, capfd):
    with pytest.raises(VintixFastError, match=r"`vintix-fast expert` of .*out ended with exit code 2"):
        make_checkpoints.run(["expert", "--no-such-option"], tmp_path / "out/expert.json")
    assert "--no-such-option" in capfd.readouterr().err
