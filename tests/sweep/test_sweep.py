"""Sweeps on a local Ray: a killed worker's trial goes on, and tables are those of runs one after another."""

import csv
import os
from pathlib import Path

import faked_trials
import pytest
import torch
from commands import invoke, last_json, spoken
from fakes import Listener
from runs import SMALL, assert_same_run

from vintix_fast.config import AdaptConfig
from vintix_fast.service.errors import UsageError, VintixFastError
from vintix_fast.sweep import sweep as sweep_module
from vintix_fast.sweep.config import SweepConfig, read_sweep
from vintix_fast.sweep.sweep import sweep
from vintix_fast.sweep.table import markdown, read_trial, table
from vintix_fast.sweep.trials import cluster, run_here_or_on_cluster

FILE = """
robots = ["minicheetah"]
seeds = [5, 6]
cores = 0.25
[adapt]
{common}
[settings.long]
[settings.short]
finetune-steps-per-loop = 2
[eval]
num_envs = 3
max_steps = 14
context_len = 32
"""


@pytest.fixture
def file(tmp_path, tiny_checkpoint):
    common = SMALL | {"pretrained_path": str(tiny_checkpoint)}
    lines = (f"{k} = {str(v).lower() if isinstance(v, bool) else repr(v)}" for k, v in common.items())
    path = tmp_path / "sweep.toml"
    path.write_text(FILE.format(common="\n".join(line for line in lines if "robot_type" not in line)))
    return path


@pytest.fixture
def here(monkeypatch):
    """A Ray of this machine's own, whose workers find the tests' modules; here are as many threads as there."""
    pytest.importorskip("ray", reason="needs the extra sweep")
    folders = (Path(__file__).parent, Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def without_minutes(rows):
    return [{key: value for key, value in row.items() if key != "minutes"} for row in rows]


def test_a_killed_trial_goes_on_and_the_table_is_that_of_sequential_runs(here, file, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "run_trial", faked_trials.run_trial)
    file.write_text(file.read_text().replace("[settings.short]\nfinetune-steps-per-loop = 2\n", ""))
    listener = Listener()
    rows = sweep(read_sweep(file, output_dir=tmp_path / "out"), progress=listener)
    assert [said for said in listener.said if "killed" in said] == [
        f"{faked_trials.KILLED}: its process was killed; it goes on in another"
    ]
    # The same one after another in this process.
    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", faked_trials.FakeSimulator)
    alone = list(read_sweep(file, output_dir=tmp_path / "alone").trials())
    for trial in alone:
        faked_trials.real_run_trial(trial, False, listener)
        assert_same_run(tmp_path / "out" / trial.name, trial.adapt.output_dir)
    expected = [read_trial(trial) for trial in alone]
    assert without_minutes(rows) == without_minutes(expected)
    assert without_minutes(table(rows)) == without_minutes(table(expected))
    assert len({row["weights"] for row in rows}) == 2
    # What is finished is not done again; the tables are.
    before = (tmp_path / "out/trials.csv").read_text()
    (tmp_path / "out/trials.csv").unlink()
    assert sweep(read_sweep(file, output_dir=tmp_path / "out", resume=True), progress=listener) == rows
    assert listener.said[-1] == "2 trials, 2 of them done before"
    assert (tmp_path / "out/trials.csv").read_text() == before
    assert len(list(csv.DictReader(before.splitlines()))) == 2
    assert (tmp_path / "out/table.png").stat().st_size > 10_000
    assert "adapt" not in (tmp_path / "out/minicheetah-long-5.log").read_text().splitlines()[0]


def test_what_fails_is_named_and_the_others_are_done(here, tmp_path, monkeypatch):
    trials = {"killed": faked_trials.killed, "full": faked_trials.fails, "sound": faked_trials.process}
    said = []
    with cluster(said.append, cores=0.5, retries=1) as run_trials:
        with pytest.raises(VintixFastError, match=r"2 of 3 trials failed \(.*full: no space left") as failed:
            run_trials(trials, tmp_path / "logs")
        results = run_trials({name: faked_trials.process for name in ("a", "b")}, tmp_path / "logs")
        # A cluster's workers begin where its nodes were started, relative paths where the sweep was.
        monkeypatch.chdir(tmp_path)
        assert run_trials({"folder": faked_trials.folder}, Path("relative")) == {"folder": str(tmp_path)}
    assert (tmp_path / "relative/folder.log").is_file()
    assert "killed: its process was killed 2 times" in str(failed.value)
    assert sum("sound: done" in line for line in said) == 1
    assert len({pid for pid, _ in results.values()} | {os.getpid()}) == 3  # no two trials share a process
    assert {threads for _, threads in results.values()} == {"1"}
    assert (tmp_path / "logs/a.log").read_text() == "in a worker\n"


def test_without_a_cluster_trials_that_take_a_machine_run_here(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert run_here_or_on_cluster({"one": faked_trials.process}, tmp_path) == {"one": (os.getpid(), "7")}
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:1")
    assert run_here_or_on_cluster({}, tmp_path) == {}  # nothing to do needs no cluster


# -- refusals, before anything begins ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ('robots = ["minicheetah"]', "robots = []", "robots is []"),
        ('robots = ["minicheetah"]', "robots = {a = {seed = 1}}", "robots is {'a': {'seed': 1}}; it must be"),
        (
            'robots = ["minicheetah"]',
            "robots = {a = {robot_type = 'go2', noise = -1}}",
            "[robots.a] with [settings.long]: --noise is -1",
        ),
        ('robots = ["minicheetah"]', 'robots = ["a/rex.urdf", "b/rex.urdf"]', "two have one name"),
        ('robots = ["minicheetah"]', 'robots = ["rex.urdf"]', "rex.urdf"),
        ("[settings.short]", "[settings]\nother = 1\n[settings.short]", "[settings.other] is 1; it must be a table"),
        ("seeds = [5, 6]", "seeds = [5, 5]", "each once"),
        ("seeds = [5, 6]", "seed = 5", "seed is not known; known are robots, seeds"),
        ("cores = 0.25", "cores = 0", "--cores is 0"),
        ("cores = 0.25", "gpus = 1", "gpus is 1, but [settings.long] has device cpu"),
        ("finetune-steps-per-loop = 2", "finetune_steps = 2", "[settings.short]: finetune_steps is not known"),
        ("finetune-steps-per-loop = 2", "finetune_steps_per_loop = 0", "[settings.short]: --finetune-steps-per-loop"),
        ("finetune-steps-per-loop = 2", "seed = 2", "[settings.short] has seed"),
        ("[settings.short]", "[settings.'a/b']", "'a/b' becomes part of directories' names"),
        ("num_envs = 3\nmax_steps", "nums = 3\nmax_steps", "[eval]: nums is not known"),
        ("context_len = 32\nbatch", "context_len = 65\nbatch", "--context-len 65 is more than the model's 64"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_begins(file, tmp_path, monkeypatch, line, instead, said):
    monkeypatch.setattr(sweep_module, "cluster", lambda *args: pytest.fail("Ray was started"))
    assert file.read_text().count(line) == 1
    file.write_text(file.read_text().replace(line, instead))
    result = invoke("sweep", file, "--output-dir", tmp_path / "out")
    assert result.exit_code in (2, 4) and said in spoken(result.stderr), result.stderr
    assert not (tmp_path / "out").exists()


def test_two_trials_of_one_name_are_refused(tmp_path):
    with pytest.raises(UsageError, match="two trials are called a-x-y-5"):
        SweepConfig(output_dir=tmp_path, robots={"a": "go2", "a-x": "go2"}, settings={"x-y": {}, "y": {}})


def test_without_ray_the_extra_is_named(file, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    result = invoke("sweep", file, "--output-dir", tmp_path / "out")
    assert result.exit_code == 2 and "pip install 'vintix-fast[sweep]'" in spoken(result.stderr)
    assert not (tmp_path / "out").exists()


def test_a_trial_of_other_options_is_refused(file, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "cluster", lambda *args: pytest.fail("Ray was started"))
    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", faked_trials.FakeSimulator)
    config = read_sweep(file, output_dir=tmp_path / "out")
    sweep_module.adapt(next(iter(config.trials())).adapt)
    with pytest.raises(VintixFastError, match="holds no run of `vintix-fast sweep`"):
        sweep(config)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_means_errors_and_the_worst_seed():
    common = {"robot": "go2", "setting": "", "minutes": 2.0, "total_env_steps": 1000}
    rows = [common | {"seed": seed, "return": value} for seed, value in ((5, 20.0), (6, 21.0), (7, 19.0))]
    (row,) = table(rows)
    assert row["return"] == pytest.approx(20.0) and row["worst"] == 19.0 and row["seeds"] == 3
    assert row["standard_error"] == pytest.approx((1.0 / 3.0) ** 0.5)
    assert "| go2 |  | 3 | 20.00 ± 0.58 | 19.00 | 2.0 | 1,000 |" in markdown([row])


def test_the_command_prints_the_table_and_the_trials(file, tmp_path, monkeypatch):
    row = {"robot": "go2", "setting": "", "seed": 5, "return": 1.0, "minutes": 1.0, "total_env_steps": 9}

    def fake(config, progress):
        config.output_dir.mkdir()
        (config.output_dir / "table.md").write_text(markdown(table([row])))
        return [row]

    monkeypatch.setattr(sweep_module, "sweep", fake)
    result = invoke("sweep", file, "--output-dir", tmp_path / "out", "--json")
    assert last_json(result) == {"trials": [row]} and "| go2 |" in result.stderr


def test_the_projects_study_has_the_default_run_and_changes_of_it(tmp_path):
    study = Path(__file__).parents[2] / "benchmarks/study.toml"
    trials = {trial.setting: trial.adapt for trial in read_sweep(study, output_dir=tmp_path).trials()}
    default = trials.pop("default")
    assert default == AdaptConfig(robot_type="minicheetah-primitive", output_dir=default.output_dir, seed=7)
    assert trials["discount-098"].improve.critic.gamma == 0.98
    assert all(adapt.changed_options(default.to_json()) for adapt in trials.values())


def test_a_robot_has_options_of_its_own_under_a_settings(tmp_path):
    robots = {"a": {"robot_type": "go2", "batch_size": 3, "lr": 0.1}, "b": "go2"}
    found = SweepConfig(
        output_dir=tmp_path, robots=robots, adapt={"batch_size": 2}, settings={"w": {}, "x": {"lr": 0.2}}
    )
    numbers = {trial.name: (trial.adapt.finetune.batch_size, trial.adapt.finetune.lr) for trial in found.trials()}
    assert numbers == {"a-w-5": (3, 0.1), "a-x-5": (3, 0.2), "b-w-5": (2, 5e-4), "b-x-5": (2, 0.2)}
