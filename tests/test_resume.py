"""Stopping a run anywhere and going on gives the run that nobody stopped; directories in use are not harmed."""

import os
import shutil
import signal

import h5py
import pytest
from fakes import save_tiny
from runs import assert_same_run, read_rows, run_small, script_evaluations, small_config, tree

from vintix_fast.rundir import Run
from vintix_fast.service.errors import InputFileError, Interrupted, UsageError
from vintix_fast.service.progress import Progress


@pytest.fixture(autouse=True)
def plots_are_empty(monkeypatch):
    """Half of a small run's time is its plot; test_adapt.py makes a real one."""
    monkeypatch.setattr("vintix_fast.adaptation.write_curve", lambda path, rows: path.touch())


class Stopper(Progress):
    """Stops in the ``at``-th step of the part of a run that ``where`` names, as Ctrl-C would."""

    def __init__(self, where, at=1, stop=KeyboardInterrupt):
        super().__init__()
        self.where, self.left, self.stop = where, at, stop
        self.part, self.parts, self.said = "", [], []

    def say(self, text):
        self.said.append(text)

    def _enter(self, what):
        self.part = what
        self.parts.append(what)

    def rollout(self, what, num_episodes, max_steps):
        self._enter(what)
        return super().rollout(what, num_episodes, max_steps)

    def training(self, what, steps):
        self._enter(what)
        return super().training(what, steps)

    def _count(self):
        if self.part == self.where:
            self.left -= 1
            if self.left == 0:
                raise self.stop

    def on_rollout_step(self, collection):
        super().on_rollout_step(collection)
        self._count()

    def on_training_step(self, step, loss):
        super().on_training_step(step, loss)
        self._count()

    def on_loop(self, row):
        self.part = f"after loop {row['loop']}"
        self._count()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_checkpoint):
    """Runs that nobody stopped, by their options; each is made once."""
    made = {}

    def get(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("unbroken") / "run"
            run_small(made[key], tiny_checkpoint, **options)
        return made[key]

    return get


@pytest.mark.parametrize(
    ("where", "at", "options"),
    [
        ("evaluating the initial policy", 3, {}),
        ("loop 1: collecting", 5, {}),
        ("loop 1: critic", 1, {"critic_updates": 40, "num_improvement_loops": 1}),  # half are taken; each 20th reports
        ("after loop 1", 1, {}),
        ("loop 2: collecting", 2, {}),
        ("loop 2: fine-tuning", 5, {}),
        ("loop 2: evaluating", 4, {}),
        ("loop 2: collecting", 4, {"gate": False}),
        ("after loop 1", 1, {"gate": False, "replay": "all"}),
    ],
    ids=lambda value: str(value).replace(" ", "-"),
)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(unbroken, tmp_path, tiny_checkpoint, where, at, options):
    out = tmp_path / "run"
    with pytest.raises(Interrupted, match="--resume"):
        run_small(out, tiny_checkpoint, progress=Stopper(where, at), **options)
    result = run_small(out, tiny_checkpoint, resume=True, **options)
    assert_same_run(out, unbroken(**options))
    assert result.rows == read_rows(out)


def test_a_resumed_run_remembers_that_a_loop_was_rejected(monkeypatch, tmp_path, tiny_checkpoint):
    whole, out = tmp_path / "whole", tmp_path / "run"
    script_evaluations(monkeypatch, [5.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0, 6.0])
    run_small(whole, tiny_checkpoint, num_improvement_loops=3)
    script_evaluations(monkeypatch, [5.0, 3.0, 3.0, 3.0])
    with pytest.raises(Interrupted):
        run_small(out, tiny_checkpoint, num_improvement_loops=3, progress=Stopper("loop 2: fine-tuning"))
    script_evaluations(monkeypatch, [4.0, 4.0, 4.0, 6.0])
    result = run_small(out, tiny_checkpoint, num_improvement_loops=3, resume=True)
    assert [row["accepted"] for row in result.rows] == [True, False, False, True]
    assert_same_run(out, whole)


def test_a_finished_collection_is_not_made_again(tmp_path, tiny_checkpoint):
    out = tmp_path / "run"
    with pytest.raises(Interrupted, match="after 1 finished loops"):
        run_small(out, tiny_checkpoint, progress=Stopper("loop 2: fine-tuning", 2))
    before = (out / "loop_01/trajectories.h5").stat().st_mtime_ns
    watcher = Stopper("nowhere")
    run_small(out, tiny_checkpoint, progress=watcher, resume=True)
    assert list(dict.fromkeys(watcher.parts)) == ["loop 2: critic", "loop 2: fine-tuning", "loop 2: evaluating"]
    assert (out / "loop_01/trajectories.h5").stat().st_mtime_ns == before
    assert any("Collection 01 was finished before" in line for line in watcher.said)


def test_a_collection_of_an_older_version_is_gone_on_with(unbroken, tmp_path, tiny_checkpoint):
    """Its files had a dataset more."""
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run_small(out, tiny_checkpoint, progress=Stopper("loop 1: fine-tuning", 2))
    with h5py.File(out / "loop_00/trajectories.h5", "r+") as file:
        for group in file.values():
            group["noise"] = group["action"][:] - group["mean_action"][:]
    run_small(out, tiny_checkpoint, resume=True)
    assert_same_run(out, unbroken())


def test_a_stopped_collection_leaves_what_it_had_and_no_final_file(tmp_path, tiny_checkpoint):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run_small(out, tiny_checkpoint, progress=Stopper("loop 1: collecting", 5))
    assert {name for name in tree(out) if name.startswith("loop_00")} == {"loop_00/trajectories.h5.partial"}


def test_more_loops_can_be_added(unbroken, tmp_path, tiny_checkpoint):
    out = tmp_path / "run"
    shutil.copytree(unbroken(num_improvement_loops=1), out)
    run_small(out, tiny_checkpoint, num_improvement_loops=2, resume=True)
    assert_same_run(out, unbroken())


def test_resuming_a_finished_run_changes_nothing(unbroken, tmp_path, tiny_checkpoint):
    out = shutil.copytree(unbroken(), tmp_path / "run")
    watcher = Stopper("nowhere")
    result = run_small(out, tiny_checkpoint, progress=watcher, resume=True)
    assert watcher.parts == [] and [row["loop"] for row in result.rows] == [0, 1, 2]
    assert_same_run(out, unbroken())


def test_a_run_goes_on_from_what_it_began_with(tmp_path, tiny_checkpoint):
    pretrained = shutil.copytree(tiny_checkpoint, tmp_path / "pretrained")
    options = {"gate": False, "num_improvement_loops": 1}
    whole = tmp_path / "whole"
    run_small(whole, pretrained, **options)
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run_small(out, pretrained, progress=Stopper("loop 1: fine-tuning", 2), **options)
    save_tiny(tmp_path / "other", seed=7)
    (tmp_path / "other/model.pth").replace(pretrained / "model.pth")  # as another run's models/best changes
    run_small(out, pretrained, resume=True, **options)
    assert_same_run(out, whole)
    shutil.rmtree(pretrained)
    run_small(out, pretrained, resume=True, **options | {"num_improvement_loops": 2})


def test_overwritten_runs_are_told_how_to_go_on(tmp_path, tiny_checkpoint):
    run_small(tmp_path, tiny_checkpoint, num_improvement_loops=1)
    with pytest.raises(Interrupted, match="--resume in place of --overwrite"):
        run_small(tmp_path, tiny_checkpoint, progress=Stopper("loop 1: collecting"), overwrite=True)


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


class PressesCtrlC(Stopper):
    def __init__(self, where, presses):
        super().__init__(where)
        self.presses = presses

    def _count(self):
        if self.part == self.where and self.presses:
            self.stopped_at, presses, self.presses = list(self.parts), self.presses, 0
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("where", "presses"), [("loop 1: collecting", 1), ("loop 1: fine-tuning", 2)])
def test_ctrl_c_stops_at_the_next_step(unbroken, tmp_path, tiny_checkpoint, where, presses):
    out = tmp_path / "run"
    handler = signal.getsignal(signal.SIGINT)
    progress = PressesCtrlC(where, presses)
    with pytest.raises(Interrupted, match="after 0 finished loops; .*--resume") as stop:
        run_small(out, tiny_checkpoint, progress=progress)
    assert progress.parts == progress.stopped_at  # it did not go on to the next part
    assert any("Ctrl-C once more" in line for line in progress.said)
    assert isinstance(stop.value.__cause__, Interrupted if presses == 1 else KeyboardInterrupt)
    assert stop.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is handler
    run_small(out, tiny_checkpoint, resume=True)
    assert_same_run(out, unbroken())


# -- directories in use ------------------------------------------------------------------------------------------------


@pytest.fixture
def used(tmp_path, unbroken):
    """A run of one loop, free to be harmed."""
    return shutil.copytree(unbroken(num_improvement_loops=1), tmp_path / "run")


def contents(out):
    return {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_directory_in_use_is_refused_and_left_as_it_is(used, tiny_checkpoint):
    before = contents(used)
    with pytest.raises(UsageError, match=r"--output-dir .*--resume.*--overwrite"):
        run_small(used, tiny_checkpoint)
    assert contents(used) == before


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
def test_two_processes_cannot_write_into_one_directory(used, tiny_checkpoint, options):
    config = small_config(used, tiny_checkpoint, num_improvement_loops=1, resume=True)
    with Run(config) as other:  # a lock is an open file's, not a process's, so that this process may play both
        other.begin()
        before = contents(used)
        with pytest.raises(UsageError, match="another process writes there now"):
            run_small(used, tiny_checkpoint, **options)
        assert contents(used) == before
    run_small(used, tiny_checkpoint, **options)


def test_overwriting_begins_anew(used, unbroken, tiny_checkpoint):
    (used / "loop_07").mkdir()
    (used / "loop_07/trajectories.h5").touch()
    run_small(used, tiny_checkpoint, overwrite=True)
    assert_same_run(used, unbroken())


@pytest.mark.parametrize("foreign", ["thesis.tex", "config.json", "models/loop_01/model.pth"])
def test_overwriting_refuses_what_is_no_run(tmp_path, tiny_checkpoint, foreign):
    out = tmp_path / "documents"
    (out / foreign).parent.mkdir(parents=True)
    (out / foreign).write_text("{}")
    for overwrite in (True, False):
        with pytest.raises(UsageError, match="no run"):
            run_small(out, tiny_checkpoint, overwrite=overwrite)
    assert tree(out) == {foreign} and (out / foreign).read_text() == "{}"


def test_overwriting_spares_the_pretrained_model_in_the_directory(used):
    before = contents(used)
    with pytest.raises(UsageError, match="--pretrained-path"):
        run_small(used, used / "models/best", overwrite=True, robot_type="go1")
    assert contents(used) == before


def test_an_empty_directory_is_used(tmp_path, tiny_checkpoint):
    (tmp_path / "run").mkdir()
    result = run_small(tmp_path / "run", tiny_checkpoint, num_improvement_loops=1, gate=False)
    assert result.last_model.is_dir()


@pytest.mark.parametrize("content", ["a file", "below a file"])
def test_an_output_directory_that_cannot_be(tmp_path, tiny_checkpoint, content):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" if content == "a file" else tmp_path / "file/run"
    for options in ({}, {"overwrite": True}):
        with pytest.raises(UsageError, match="--output-dir .*file"):
            run_small(out, tiny_checkpoint, **options)
    assert (tmp_path / "file").read_text() == "mine"


def test_resuming_needs_a_run(tmp_path, tiny_checkpoint):
    with pytest.raises(UsageError, match="--resume.*no run"):
        run_small(tmp_path / "run", tiny_checkpoint, resume=True)
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_options_names_them(used, tiny_checkpoint):
    before = contents(used)
    with pytest.raises(UsageError, match=r"--lr was 0\.001, now 0\.002; --seed was 5, now 6|--seed.*--lr") as error:
        run_small(used, tiny_checkpoint, resume=True, lr=2e-3, seed=6)
    assert "batch-size" not in str(error.value)
    assert contents(used) == before


@pytest.mark.parametrize("broken", ["state.json", "loop_00/loop_00.json"])
def test_a_broken_run_is_named(used, tiny_checkpoint, broken):
    if broken != "state.json":  # read only where the loop is to be done again
        (used / "state.json").unlink()
    (used / broken).write_text('{"loops_done": ')
    with pytest.raises(InputFileError, match=f"{broken} is broken.*--overwrite"):
        run_small(used, tiny_checkpoint, resume=True, num_improvement_loops=2)
