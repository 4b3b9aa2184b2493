"""`verify`: a run's loop is repeated from its files to the last bit, and a difference is told."""

import json
import shutil

import pytest
from commands import invoke, last_json, tree
from fakes import FakeSimulator, save_tiny
from runs import read_rows, run_small, small_config

from vintix_fast.model import fingerprint, load_checkpoint
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.verify import verify
from vintix_fast.world.robot import load_robot


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three loops; not to be written to."""
    folder = tmp_path_factory.mktemp("verify")
    run_small(folder / "out", save_tiny(folder / "checkpoint"), num_improvement_loops=3, seed=7)
    return folder / "out"


@pytest.fixture
def run(finished, tmp_path):
    """The same, free to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def again(path, loop=None):
    config = small_config(path, path)
    return verify(path, loop, simulator=FakeSimulator(load_robot("minicheetah"), config.envs))


def edit_state(path, change):
    state = json.loads((path / "state.json").read_text())
    change(state["rows"])
    (path / "state.json").write_text(json.dumps(state))


def test_rows_and_results_carry_the_hash_of_the_weights(finished, tmp_path):
    rows = read_rows(finished)
    assert "weights" not in rows[0]
    for row in rows[1:]:
        assert row["weights"] == fingerprint(load_checkpoint(finished / f"models/loop_{row['loop']:02d}"))
    assert len({row["weights"] for row in rows[1:]}) == 3


@pytest.mark.parametrize("loop", [1, 2, 3, None])
def test_every_loop_gives_the_same_weights_again(finished, loop):
    before = tree(finished)
    found = again(finished, loop)
    assert found.equal and found.same_collection and found.loop == (loop or 3) and found.other_versions == {}
    assert tree(finished) == before


@pytest.mark.parametrize(
    "options", [{"gate": False}, {"replay": "all"}, {"improver": "clone"}], ids=["no-gate", "replay-all", "clone"]
)
def test_other_runs_too(tmp_path, options):
    run_small(tmp_path / "out", save_tiny(tmp_path / "checkpoint"), num_improvement_loops=2, **options)
    assert again(tmp_path / "out").equal
    assert again(tmp_path / "out", 1).equal


def test_a_run_of_an_earlier_version_is_compared_by_its_models(run):
    edit_state(run, lambda rows: [row.pop("weights", None) for row in rows])
    record = json.loads((run / "config.json").read_text())
    del record["options"]["finetune_exactly"]  # which it could not name, and did
    (run / "config.json").write_text(json.dumps(record))
    assert again(run).equal


def test_another_start_or_hash_is_told_as_a_difference(run, monkeypatch):
    edit_state(run, lambda rows: rows[2].update(weights="0" * 64))
    found = again(run, 2)
    assert not found.equal and found.same_collection and found.recorded == "0" * 64
    shutil.rmtree(run / "models/initial")
    shutil.copytree(run / "models/loop_03", run / "models/initial")
    found = again(run, 1)
    assert not found.equal and not found.same_collection


def test_the_command_says_so_and_ends_with_1(run, monkeypatch):
    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", lambda robot, envs, *rest: FakeSimulator(robot, envs))
    result = invoke("verify", run, columns=200)
    assert result.exit_code == 0 and result.stdout.endswith("equal\n") and "different" not in result.stdout
    edit_state(run, lambda rows: rows[3].update(weights="0" * 64))
    result = invoke("verify", run, columns=200)
    assert result.exit_code == 1 and "They differ from fine-tuning on.\ndifferent\n" in result.stdout
    found = last_json(invoke("verify", run, "--loop", 2, "--json"))
    assert found["equal"] and found["loop"] == 2


def test_what_cannot_be_repeated_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match="--loop is 4; .*run has 3 finished loops"):
        again(run, 4)
    with pytest.raises(UsageError, match="--loop is 0"):
        again(run, 0)
    with pytest.raises(InputFileError, match="config.json"):
        again(tmp_path)
    best = json.loads((run / "state.json").read_text())["best"]["loop"]
    edit_state(run, lambda rows: [row.update(accepted=row["loop"] < 2) for row in rows])
    shutil.rmtree(run / "models/loop_01")
    if best != 1:
        with pytest.raises(InputFileError, match="models/loop_01 is missing, and the loop cannot be repeated"):
            again(run, 3)
