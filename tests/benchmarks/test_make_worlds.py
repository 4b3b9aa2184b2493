"""What `benchmarks/make_worlds.py` asks of the commands, and what it stores, with their results made up."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from fakes import save_tiny

from vintix_fast.benchmarks.make_checkpoints import FULL
from vintix_fast.model import fingerprint, load_checkpoint
from vintix_fast.pretrain.pretrain import MODEL_DIR
from vintix_fast.service.files import write_json

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
make_worlds = importlib.import_module("make_worlds")
EVALUATED = {
    "episodes": 100, "terminated": 3, "mean_return": 1.25, "mean_episode_length": 80.0, "standard_error": 0.125,
    "returns_by_episode_number": [1.0, 2.0, 3.0, 5.0], "standard_errors_by_episode_number": [0.2, 0.3, 0.3, 0.4],
}  # fmt: skip
WORLD = {
    "vary": "motor=0.7", "return": 9.5, "return_error": 0.25, "survival": 0.96, "speed_ratio": 1.04,
    "by_episode": [{"return": 8.0}, {"return": 9.75}],
}  # fmt: skip
AXES = ("forward_m_s", "lateral_m_s", "yaw_rad_s")
COMMAND = {"return": 9.0, "survival": 1.0} | dict.fromkeys(AXES, 0.25) | {f"measured_{axis}": 0.2 for axis in AXES}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The commands that were run, by the file that each ends with; models are untrained ones."""
    found = {}

    def run(command, result):
        found[result] = command
        result.parent.mkdir(parents=True, exist_ok=True)
        if command[0] == "pretrain":
            save_tiny(result.parent / MODEL_DIR, {"go2_walking_ad": "go2_locomotion"}, seed=1)
        commands = [COMMAND] if "--task" in command else []
        write_json(result, EVALUATED if command[0] == "eval" else {"worlds": [WORLD], "commands": commands})

    for module in (make_worlds, sys.modules[make_worlds.measured.__module__]):
        monkeypatch.setattr(module, "run", run)
    return found


@pytest.mark.parametrize("recipe", make_worlds.RECIPES, ids=lambda recipe: recipe.name)
def test_a_model_is_stored_with_a_card_of_what_was_measured(ran, tmp_path, recipe):
    make_worlds.make(recipe, tmp_path / "out", tmp_path / "plain", tmp_path / "bundled", "A note.", FULL)
    stored, card = (
        tmp_path / "bundled" / recipe.name,
        json.loads((tmp_path / "bundled" / recipe.name / "card.json").read_text()),
    )
    trained = next(result.parent / MODEL_DIR for result, command in ran.items() if command[0] == "pretrain")
    assert card["weights"] == fingerprint(load_checkpoint(trained))
    assert {robot: found["seen"] for robot, found in card["returns"].items()} == {
        "go1": True, "go2": True, "a1": True, "minicheetah": False,
    }  # fmt: skip
    text = (stored / "README.md").read_text()
    table = "| 0.25 0.25 0.25 | 0.20 0.20 0.20 | 9.00 | 100% |"
    if recipe.name == "worlds":
        table = "| motor=0.7 | 9.50 ± 0.25 | 96% | 104% | 8.00 9.75 |"
    assert "A note." in text and ("benchmarks/commands.toml" in text) == (recipe.name == "commands")
    assert str(Path(make_worlds.__file__).parent) not in text
    assert table in text and "| go2 | 1.25 ± 0.125 | 1.00 ± 0.200 | 4.00 ± 0.250 | 80 | 3/100 |" in text


def test_what_is_described_is_not_measured_again(ran, tmp_path):
    places = tmp_path / "out", tmp_path / "plain", tmp_path / "bundled"
    for note in ("A note.", "Another note."):
        make_worlds.make(make_worlds.RECIPES[0], *places, note, FULL)
    assert "Another note." not in (places[2] / make_worlds.RECIPES[0].name / "README.md").read_text()


def test_one_expert_teaches_a_robots_worlds_all(ran, tmp_path):
    recipe = next(recipe for recipe in make_worlds.RECIPES if recipe.name == "worlds")
    make_worlds.make(recipe, tmp_path / "out", tmp_path / "plain", tmp_path / "bundled", "A note.", FULL)
    teachers = {command[command.index("--output-dir") + 1]: command[command.index("--expert") + 1]
                for command in ran.values() if command[0] == "distil"}  # fmt: skip
    pretrain = next(command for command in ran.values() if command[0] == "pretrain")
    data = {after for word, after in zip(pretrain, pretrain[1:], strict=False) if word == "--data"}
    assert data == {*teachers, str(tmp_path / "plain/a1")}
    for robot in recipe.robots:
        own = {teacher for histories, teacher in teachers.items() if f"-{robot}-" in histories}
        assert len(own) == 1, "of two teachers a context would tell which it follows"
