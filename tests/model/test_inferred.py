"""What a checkpoint does not say is read off its tensors, said in one line, and refused where they do not decide it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vintix_fast.model import load_checkpoint, save_checkpoint
from vintix_fast.service.errors import InputFileError

GOLDEN = Path(__file__).parents[1] / "golden"
ADDED, UNNAMED, WHOLE = "vintix_tiny_add_task", "vintix_tiny_no_group_name", "vintix_tiny"
INFERRED = {
    ADDED: "minicheetah_walking_ad: group quadruped_locomotion, 33 observations, 12 actions",
    UNNAMED: "unitreea1_walking_ad: group a1_locomotion",
}
KEYS = {
    *("group_name", "observation_shape", "action_dim", "action_type", "reward_scale"),
    *("obs_mean", "obs_std", "acs_mean", "acs_std"),
}


@pytest.fixture
def copy(tmp_path):
    """A golden checkpoint to change: its JSON files and tensors are what the functions given make of them."""

    def make(name, metadata=None, state=None):
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        for file in ("model.pth", "metadata.json", "config.json"):
            shutil.copyfile(GOLDEN / name / file, folder / file)
        if metadata is not None:
            content = json.loads((folder / "metadata.json").read_text())
            (folder / "metadata.json").write_text(json.dumps(metadata(content) or content))
        if state is not None:
            tensors = torch.load(folder / "model.pth", weights_only=True)
            torch.save(state(tensors) or tensors, folder / "model.pth")
        return folder

    return make


def actions(model, golden, task, also=None):
    """A task's actions on what ``also``, or the task itself, has in ``golden``; and those that are expected there."""
    data = np.load(GOLDEN / golden / "io.npz")
    inputs = [data[f"{also or task}/{key}"] for key in ("observation", "prev_action", "prev_reward", "step_num")]
    return model.predict_actions(*inputs, task_name=task), data[f"{also or task}/predicted_action"]


def without_groups(metadata):
    for entry in metadata.values():
        entry.pop("group_name", None)


# -- tasks that say too little -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INFERRED)
def test_what_was_inferred_is_said_in_one_line(name):
    said = []
    load_checkpoint(GOLDEN / name, say=said.append)
    assert said == [f"Checkpoint {GOLDEN / name}: inferred from its tensors: {INFERRED[name]}"]
    load_checkpoint(GOLDEN / WHOLE, say=pytest.fail)


@pytest.mark.parametrize("name", INFERRED)
def test_what_is_saved_again_says_everything(name, tmp_path):
    model = load_checkpoint(GOLDEN / name)
    save_checkpoint(model, tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved", say=pytest.fail)
    assert again.tasks == model.tasks and again.groups == model.groups
    for task in model.tasks:
        np.testing.assert_array_equal(actions(again, name, task)[0], actions(model, name, task)[0])
    written = json.loads((tmp_path / "saved/metadata.json").read_text())
    assert [entry.keys() for entry in written.values()] == [KEYS, KEYS]


@pytest.mark.parametrize("absent", [None, ""])
def test_a_group_that_is_null_or_empty_is_absent(copy, absent):
    folder = copy(UNNAMED, lambda metadata: metadata["unitreea1_walking_ad"].update(group_name=absent))
    assert load_checkpoint(folder).tasks["unitreea1_walking_ad"].group_name == "a1_locomotion"


def test_of_several_unclaimed_groups_a_task_gets_the_one_that_is_called_like_its_robot(copy):
    folder = copy(WHOLE, without_groups)
    model, said = load_checkpoint(folder, say=(said := []).append), said
    assert "go2_walking_ad: group go2_locomotion; unitreea1_walking_ad: group a1_locomotion" in said[0]
    for task in model.tasks:
        found, expected = actions(model, WHOLE, task)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_the_order_of_tasks_does_not_decide_their_groups(copy):
    def turned(metadata):
        without_groups(metadata)
        return dict(reversed(metadata.items()))

    model = load_checkpoint(copy(WHOLE, turned))
    groups = {task: info.group_name for task, info in model.tasks.items()}
    assert groups == {"unitreea1_walking_ad": "a1_locomotion", "go2_walking_ad": "go2_locomotion"}


def test_groups_that_nothing_decides_are_an_error(copy):
    def nameless(metadata):
        without_groups(metadata)
        return {f"task_{number}": entry for number, entry in enumerate(metadata.values())}

    folder = copy(WHOLE, nameless)
    with pytest.raises(InputFileError, match="lacks encoder.obs_encoders.quadruped_locomotion") as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)


def test_a_task_that_names_a_group_without_tensors_is_an_error(copy):
    folder = copy(ADDED, lambda metadata: metadata["minicheetah_walking_ad"].update(group_name="elsewhere"))
    with pytest.raises(InputFileError, match="minicheetah_walking_ad.*missing key.*observation_shape, action_dim"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([1, 2], "expected a JSON object describing a task, got list"),
        (None, "expected a JSON object describing a task, got NoneType"),
        ("go2", "expected a JSON object describing a task, got str"),
        ({"group_name": 7}, "group_name must be a non-empty name without dots, got 7"),
        ({"group_name": ["a1_locomotion"]}, "group_name must be a non-empty name"),
        ({"group_name": "a.b"}, "group_name must be a non-empty name without dots, got 'a.b'"),
        ({"action_dim": "12"}, "action_dim must be a positive integer, got '12'"),
        ({"observation_shape": [33]}, "observation_shape must look like"),
        ({"observation_shape": {"proprio": ["33"]}}, "observation_dim must be a positive integer, got '33'"),
        ({"observation_shape": {"proprio": [34]}}, "obs_mean has 33 entries, expected 34"),
        ({"obs_std": None}, "missing key.*obs_std"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("name", [UNNAMED, WHOLE])
def test_entries_of_a_wrong_type_are_named(copy, name, changes, words):
    def change(metadata):
        entry = metadata["unitreea1_walking_ad"]
        metadata["unitreea1_walking_ad"] = entry | changes if isinstance(changes, dict) else changes

    folder = copy(name, change)
    with pytest.raises(InputFileError, match=f"metadata.json.*'unitreea1_walking_ad': {words}"):
        load_checkpoint(folder)


# -- files of other tools ----------------------------------------------------------------------------------------------


def test_json_files_may_begin_with_a_byte_order_mark(copy):
    folder = copy(WHOLE)
    for name in ("metadata.json", "config.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    model = load_checkpoint(folder, say=pytest.fail)
    found, expected = actions(model, WHOLE, "go2_walking_ad")
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("name", [ADDED, WHOLE])
def test_prefixes_of_wrapped_models_are_taken_off(copy, name, prefix):
    folder = copy(name, state=lambda tensors: {prefix + key: value for key, value in tensors.items()})
    model = load_checkpoint(folder, say=(said := []).append)
    assert len(said) == 1 and said[0].count("\n") == 0
    assert all(repr(part + ".") in said[0] for part in prefix.removesuffix(".").split("."))
    assert INFERRED.get(name, "") in said[0]
    plain = load_checkpoint(GOLDEN / name).state_dict()
    assert plain.keys() == model.state_dict().keys()
    assert all(torch.equal(value, plain[key]) for key, value in model.state_dict().items())


def test_a_tensor_that_is_there_with_and_without_a_prefix_is_refused(copy):
    name = "transformer.ln_f.weight"
    folder = copy(WHOLE, state=lambda tensors: tensors | {f"module.{name}": tensors[name]})
    with pytest.raises(InputFileError, match=f"model.pth: {name} is there twice, with and without a prefix"):
        load_checkpoint(folder)
