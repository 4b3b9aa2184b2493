"""A run's directory: what a killed run blocks, what a harmed one gets back, who may write there, who took it away."""

import json
import os
import shutil

import pytest
from killed import differences
from runs import run_small, small_config

from vintix_fast.rundir import Run
from vintix_fast.service.errors import InputFileError, UsageError, VintixFastError
from vintix_fast.service.progress import Progress

SHORT = {"seed": 11, "max_steps_per_episode": 5, "num_envs": 2, "episodes_per_loop": 2, "gate_episodes": 2}
"""Of this seed every loop is kept."""


@pytest.fixture(autouse=True)
def plots_tell_their_rows(monkeypatch):
    for module in ("adaptation", "mend"):
        monkeypatch.setattr(
            f"vintix_fast.{module}.write_curve", lambda path, rows: path.write_text(str([row["loop"] for row in rows]))
        )


def run_short(out, checkpoint, **options):
    return run_small(out, checkpoint, **SHORT | options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_checkpoint):
    """Two loops, both kept; not to be written to."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        plots_tell_their_rows.__wrapped__(patch)
        assert run_short(out, tiny_checkpoint).rows[-1]["accepted"]
    return out


@pytest.fixture
def used(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


# -- the first write ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"overwrite": True}], ids=["anew", "overwrite"])
def test_the_beginning_of_a_config_json_blocks_nothing(tmp_path, tiny_checkpoint, options):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json.tmp").write_text('{"comm')
    run_short(out, tiny_checkpoint, num_improvement_loops=1, gate=False, **options)
    assert not (out / "config.json.tmp").exists() and (out / "models/loop_01").is_dir()


def test_a_full_disk_at_the_first_write_blocks_nothing(tmp_path, tiny_checkpoint, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    config = small_config(tmp_path / "run", tiny_checkpoint)
    with monkeypatch.context() as patch, Run(config) as run:
        patch.setattr(os, "fsync", full)
        with pytest.raises(VintixFastError, match=r"cannot write .*config.json: No space left"):
            run.begin()
    assert list((tmp_path / "run").iterdir()) == []


def test_what_only_looks_half_written_stays(used, tiny_checkpoint):
    mine = [used / name for name in ("notes.tmp", ".cache.new-1", "models/.mine.new-abcdefgh", "loop_00/x.json.tmp")]
    ours = [used / name for name in ("state.json.tmp", ".robot.new-abcdefgh", "models/.best.old-a_cd3fgh")]
    for path in mine + ours:
        path.touch()
    run_short(used, tiny_checkpoint, resume=True)
    assert all(path.exists() for path in mine) and not any(path.exists() for path in ours)


# -- what a run left ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["metrics.jsonl", "curve.png", "models/best", "models/loop_02"])
def test_what_a_finished_run_lost_is_made_again(used, finished, tiny_checkpoint, lost):
    shutil.rmtree(used / lost) if (used / lost).is_dir() else (used / lost).write_text("{")
    run_short(used, tiny_checkpoint, resume=True)
    assert differences(used, finished) == []


def test_another_loops_model_is_not_the_best(used, finished, tiny_checkpoint):
    """As where a loop more was killed between its model and its count, and is not asked for any more."""
    shutil.copy(used / "models/loop_01/model.pth", used / "models/best/model.pth")
    run_short(used, tiny_checkpoint, resume=True)
    assert differences(used, finished) == []


def test_lost_events_are_made_again_but_for_single_steps(used, finished, tiny_checkpoint):
    from killed import scalars

    shutil.rmtree(used / "tensorboard")
    run_short(used, tiny_checkpoint, resume=True)
    single = {"Loss/action", "Loss/grad_norm", "Loss/learning_rate"}
    assert scalars(used) == {tag: values for tag, values in scalars(finished).items() if tag not in single}


def test_a_model_that_nothing_gives_back_is_an_error_before_anything_is_written(used, tiny_checkpoint):
    for name in ("best", "loop_02"):
        shutil.rmtree(used / "models" / name)
    (used / "metrics.jsonl").unlink()
    with pytest.raises(InputFileError, match=r"models/loop_02 and .*models/best: no model.pth there.*--overwrite"):
        run_short(used, tiny_checkpoint, resume=True)
    assert not (used / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 5},
        {"rows": [5]},
        {"rows": [{"loop": "1"}]},
        {"loops_done": "2"},
        {"best": {"loop": 1}},
        {"improver": 0},
    ],
    ids=str,
)
def test_a_state_of_wrong_types_is_broken(used, tiny_checkpoint, wrong):
    state = json.loads((used / "state.json").read_text())
    (used / "state.json").write_text(json.dumps(state | wrong))
    with pytest.raises(InputFileError, match="state.json is broken"):
        run_short(used, tiny_checkpoint, resume=True)


# -- who writes there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["still runs", "has ended"])
def test_of_two_runs_begun_together_one_wins(tmp_path, tiny_checkpoint, first):
    """Both saw an empty place, and then built their scenes."""
    one, other = (Run(small_config(tmp_path / "run", tiny_checkpoint)) for _ in range(2))
    one.check()
    other.check()
    words = {"still runs": "another process writes there now", "has ended": "holds a run: --resume"}[first]
    with one:
        one.begin()
        (tmp_path / "run/state.json").write_text("one's")
        if first == "still runs":
            with pytest.raises(UsageError, match=words), other:
                other.begin()
    if first == "has ended":
        with pytest.raises(UsageError, match=words), other:
            other.begin()
    assert (tmp_path / "run/state.json").read_text() == "one's"


class Remover(Progress):
    """Removes a run's directory after a loop, or in a step of a training."""

    def __init__(self, out, when):
        self.out, self.when, self.loop = out, when, None

    def on_loop(self, row):
        self.loop = row["loop"]
        if self.when == f"after loop {self.loop}":
            shutil.rmtree(self.out)

    def on_training_step(self, step, loss):
        if self.when == f"in training {self.loop}" and self.out.exists():
            shutil.rmtree(self.out)


@pytest.mark.parametrize("when", ["after loop 0", "after loop 1", "in training 1", "after loop 2"])
def test_a_removed_directory_ends_the_run_and_is_not_made_anew(tmp_path, tiny_checkpoint, when):
    out = tmp_path / "run"
    with pytest.raises(VintixFastError, match="--output-dir .*run was removed or moved while the run wrote") as error:
        run_short(out, tiny_checkpoint, progress=Remover(out, when))
    assert error.value.exit_code == 1 and not out.exists()


def test_a_path_that_is_not_utf8_is_refused(tmp_path, tiny_checkpoint):
    out = tmp_path / os.fsdecode(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"--output-dir '.*\\udcff\\udcfe' is not UTF-8") as error:
        run_short(out, tiny_checkpoint)
    str(error.value).encode()  # can be shown
    assert list(tmp_path.iterdir()) == []
