"""What the commands document, parse, print and write; the simulator is never built."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import invoke, last_json, spoken
from rich.console import Console

import vintix_fast
from vintix_fast.adaptation import AdaptResult
from vintix_fast.cli import main
from vintix_fast.config import AdaptConfig
from vintix_fast.eval_config import EvalConfig
from vintix_fast.evaluation import Evaluation
from vintix_fast.rollout import Episode
from vintix_fast.rundir import Run
from vintix_fast.service.bundled import BUILTIN_CHECKPOINT
from vintix_fast.service.console import ConsoleProgress, evaluation_table, summary_table

GOLDEN = Path(__file__).parents[1] / "golden" / "vintix_tiny"
COMMANDS = (
    "adapt", "eval", "expert", "distil", "pretrain", "leave-one-out", "models", "report", "bench", "profile", "inspect",
    "doctor",
)  # fmt: skip


# -- help --------------------------------------------------------------------------------------------------------------

DEFAULTS = {
    "adapt": {
        "pretrained-path": "(the bundled checkpoint)",
        "robot-type": None,
        "reference-robot": "(go2 for its kin; auto for other robots)",
        "num-improvement-loops": "5",
        "episodes-per-loop": "50",
        "finetune-steps-per-loop": "1000",
        "output-dir": None,
        "max-steps-per-episode": "1000",
        "context-len": "2048",
        "batch-size": "16",
        "lr": "0.0005",
        "seed": "5",
    },
    "eval": {"vintix-path": "(the bundled checkpoint)", "robot-type": None, "num-envs": "100", "max-steps": "1000"},
}


@pytest.mark.parametrize(("command", "defaults"), DEFAULTS.items())
def test_help_documents_the_guides_parameters_and_defaults(command, defaults):
    text = spoken(invoke(command, "--help", columns=200).stdout)
    for option, default in defaults.items():
        note = r"\[required\]" if default is None else rf"\[default: {re.escape(default)}\]"
        # Between an option and its note no other option begins.
        assert re.search(rf"--{option} (-\w )?<\w+> ((?!--)[^\[])+{note}", text), option
    assert "unitreea1" in text


@pytest.mark.parametrize("words", [(), *[(command,) for command in COMMANDS]])
def test_help_works_and_fits_into_80_columns(words):
    result = invoke(*words, "--help")
    assert result.exit_code == 0 and result.stderr == ""
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert invoke(*words, "-h").stdout == result.stdout


def test_without_a_command_the_commands_are_listed():
    result = invoke()
    assert all(command in result.stdout + result.stderr for command in COMMANDS)


LIGHT = """
import sys
sys.argv = ["vintix-fast", *sys.argv[1:]]
{action}
heavy = {{"torch", "genesis", "h5py", "numpy", "matplotlib", "triton"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
HELP = """
from vintix_fast.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""


@pytest.mark.parametrize("words", [("-h",), ("--version",), *[(command, "--help") for command in COMMANDS]])
def test_help_imports_nothing_heavy(words):
    subprocess.run([sys.executable, "-c", LIGHT.format(action=HELP), *words], check=True, stdout=subprocess.DEVNULL)


def test_torchs_threads_wait_passively_unless_the_user_chose(monkeypatch):
    seen = []
    monkeypatch.setattr("vintix_fast.cli.app", lambda: seen.append(os.environ["GOMP_SPINCOUNT"]))
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    main()
    monkeypatch.delenv("GOMP_SPINCOUNT")
    main()
    assert seen[0] == "7" and 0 < int(seen[1]) < 100_000


def test_child_processes_import_nothing_from_the_current_folder(monkeypatch, tmp_path):
    """They are started as ``python -c`` and ``python -m``, which by themselves do."""
    (tmp_path / "random.py").write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vintix_fast.cli.app", lambda: None)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # for its removal at the end
    monkeypatch.delenv("PYTHONSAFEPATH")
    main()
    subprocess.run([sys.executable, "-c", "import random"], check=True)


def test_the_versions_are_said_on_one_line():
    result = invoke("--version")
    assert re.fullmatch(r"vintix-fast [\d.]+, torch 2\.\S+, genesis-world 1\.\S+\n", result.stdout)
    assert result.exit_code == 0


def test_importing_the_package_imports_nothing_heavy():
    action = "import vintix_fast; vintix_fast.AdaptConfig('go2', 'out')"
    subprocess.run([sys.executable, "-c", LIGHT.format(action=action)], check=True)


# -- options -> configuration ------------------------------------------------------------------------------------------

GUIDE_ADAPT = {
    "pretrained_path": "my_models/epoch_15", "robot_type": "minicheetah", "reference_robot": "go1",
    "num_improvement_loops": 3, "episodes_per_loop": 7, "finetune_steps_per_loop": 11, "output_dir": "my_data/run_1",
    "max_steps_per_episode": 13, "context_len": 17, "batch_size": 2, "lr": 0.5, "seed": 19,
}  # fmt: skip
GUIDE_EVAL = {"vintix_path": "my_models/loop_05", "robot_type": "a1", "num_envs": 100, "max_steps": 1000}


@pytest.fixture
def configs(monkeypatch):
    """The configurations that `adapt` and `evaluate` are called with; they do nothing."""
    seen = []

    def adapt(config, *, progress):
        seen.append(config)
        return AdaptResult([{"loop": 1, "loss": float("nan")}], Path("out/models/loop_01"), Path("out/models/best"))

    def evaluate(config, *, progress):
        seen.append(config)
        return evaluation_of(2)

    monkeypatch.setattr("vintix_fast.adaptation.adapt", adapt)
    monkeypatch.setattr("vintix_fast.evaluation.evaluate", evaluate)
    return seen


@pytest.mark.parametrize("spell", [str, lambda name: name.replace("_", "-")], ids=["snake", "kebab"])
@pytest.mark.parametrize("equals", [False, True])
def test_both_spellings_give_the_same_configuration(configs, spell, equals):
    for command, options, flags in (("adapt", GUIDE_ADAPT, []), ("eval", GUIDE_EVAL, ["--parallel"])):
        words = [[f"--{spell(k)}={v}"] if equals else [f"--{spell(k)}", v] for k, v in options.items()]
        result = invoke(command, *sum(words, flags))
        assert result.exit_code == 0, result.output
    adapted, evaluated = configs
    assert adapted == AdaptConfig.from_options(**GUIDE_ADAPT)
    assert evaluated == EvalConfig(**GUIDE_EVAL, output_dir=evaluated.output_dir)
    assert re.fullmatch(r"eval/a1-\d{8}-\d{6}-[0-9a-f]{6}", str(evaluated.output_dir))


def test_the_commands_defaults_are_those_of_the_configurations(configs):
    assert invoke("adapt", "--robot-type", "go2", "--output-dir", "out").exit_code == 0
    assert invoke("eval", "--robot-type", "go2", "--output-dir", "out").exit_code == 0
    assert configs == [AdaptConfig("go2", "out"), EvalConfig(BUILTIN_CHECKPOINT, "go2", output_dir="out")]
    for words in ([], ["--num-envs", 1], ["--fixed-starts"]):
        assert invoke("eval", "--robot-type", "go2", "--no-parallel", *words).exit_code == 0
        assert configs[-1].num_envs == 1


def test_eval_takes_the_owners_names_of_its_options(configs):
    words = "-r go2 --vintix_path m --num_envs 10 --max_episodes 9 --record out.mp4 --base_mass 6.9 --output folder"
    for line in (words, words.replace("_", "-")):
        result = invoke("eval", *line.split())
        assert result.exit_code == 0, result.output
    wanted = EvalConfig(
        "m", "go2", num_envs=10, episodes_per_env=9, record="out.mp4", base_mass=6.9, output_dir="folder"
    )
    assert configs == [wanted, wanted]


def test_eval_starts_at_random_unless_it_is_told_not_to(configs):
    for words in ([], ["--fixed-starts"]):
        assert invoke("eval", "--robot-type", "go2", "--output-dir", "out", *words).exit_code == 0
    moved, fixed = configs
    assert moved.random_starts and moved.num_envs == 100
    assert not fixed.random_starts and fixed.num_envs == 1
    gone = invoke("eval", "--robot-type", "go2", "--random-starts")
    assert gone.exit_code == 2 and "No such option" in spoken(gone.stderr)


def test_adapt_prints_one_json_object_and_its_models(configs):
    result = invoke("adapt", "--robot-type", "go2", "--output-dir", "out", "--json")
    assert last_json(result) == {
        "best_model": "out/models/best", "last_model": "out/models/loop_01", "loops": [{"loop": 1, "loss": None}],
    }  # fmt: skip
    assert "Adapted model: out/models/best\nCurve: out/curve.png" in result.stderr


# -- eval --------------------------------------------------------------------------------------------------------------


def evaluation_of(num_envs: int, robot: str = "go2") -> Evaluation:
    episodes = [Episode(e, n, 10.0 * n + e, 100, e == 1, False) for n in range(2) for e in range(num_envs)]
    return Evaluation(robot, episodes, env_steps=200 * num_envs, seconds=2.0)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """`evaluate` with a measurement that needs no simulator, in an empty folder that is empty when it happens."""
    from vintix_fast import evaluation as module

    def measure(task, policy, num_episodes, *args):
        assert num_episodes == 4 and list(tmp_path.iterdir()) == []
        return evaluation_of(task.num_envs)

    def simulator(robot, num_envs, device, *rest):
        return SimpleNamespace(num_envs=num_envs, device=device)

    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", simulator)
    monkeypatch.chdir(tmp_path)
    return ["eval", "--vintix-path", GOLDEN, "--robot-type", "go2", "--num-envs", 2, "--episodes-per-env", 2]


def test_eval_prints_one_json_object_and_writes_its_files(measured):
    result = invoke(*measured, "--json")
    assert result.exit_code == 0, result.output
    (folder,) = Path("eval").iterdir()
    assert folder.name.startswith("go2-")
    assert sorted(p.name for p in folder.iterdir()) == ["eval.csv", "eval.json"]

    summary = last_json(result)
    assert summary["mean_return"] == 5.5 and summary["std_return"] == pytest.approx(np.std([0, 1, 10, 11]))
    assert summary["mean_episode_length"] == 100 and summary["episodes"] == 4
    assert summary["returns_by_episode_number"] == [0.5, 10.5]
    written = json.loads((folder / "eval.json").read_text())
    assert summary.items() <= written.items()
    assert written["options"]["robot_type"] == "go2" and "torch" in written["versions"]
    rows = list(csv.DictReader((folder / "eval.csv").read_text().splitlines()))
    assert [(r["env"], r["episode_number"], r["return"]) for r in rows] == [
        ("0", "0", "0.0"), ("0", "1", "10.0"), ("1", "0", "1.0"), ("1", "1", "11.0"),
    ]  # fmt: skip


def test_eval_without_json_leaves_standard_output_empty(measured):
    result = invoke(*measured, "--output-dir", "a_folder/[b]")
    assert result.stdout == ""
    assert "go2: 4 episodes, 200 steps/s" in result.stderr
    assert "Written: a_folder/[b]/eval.json, a_folder/[b]/eval.csv" in result.stderr


# -- what a run shows and where it writes ------------------------------------------------------------------------------


@pytest.mark.parametrize("forced", ["", "1"])
def test_progress_in_a_log_is_whole_lines_and_nothing_else(capsys, monkeypatch, forced):
    monkeypatch.setenv("FORCE_COLOR", forced)  # colours, and not moving bars
    progress = ConsoleProgress(Console(stderr=True, width=40))
    text = "a line [of text] that is longer than the console is wide, /with/a/path"
    progress.say(text)
    with progress.training("fine-tuning", 10):
        progress.on_training_step(1, 0.5)
    assert capsys.readouterr().err == text + "\n"


def test_tables_are_readable_at_80_columns(capsys):
    collected = {"env_steps": 1050000, "mean_return": -12.34, "standard_error": 0.12, "mean_length": 1000.0}
    gate = {"eval_return": -21.09, "eval_standard_error": 1.01, "eval_length": 999.0, "accepted": False}
    seconds = {"collect_seconds": 12345.6, "train_seconds": 2345.6}
    row = {"loop": 12, "loss": 0.1234} | collected | gate | seconds
    console = Console(stderr=True, width=80)
    console.print(summary_table([{"loop": 0, "eval_return": 1.0, "eval_length": 30.0, "accepted": True}, row]))
    text = capsys.readouterr().err
    numbers = r"12 1050000 -12\.34 0\.12 1000 0\.1234 -21\.09 1\.01 999 (12345\.6 2345\.6|12346 2346) no"
    assert re.search(numbers, " ".join(text.split()))
    assert "eval eval collect train loop steps return" in " ".join(text.split())
    console.print(evaluation_table(evaluation_of(2)))
    assert "…" not in text + capsys.readouterr().err


def test_overwriting_deletes_what_runs_make_and_no_more(tmp_path):
    config = AdaptConfig("go2", tmp_path / "link", overwrite=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    with Run(config) as run:
        run.begin()
    for name in (
        "loop_01_mine/notes.txt",
        "models/loop_01/model.pth",
        "loop_00/trajectories.h5",
        "notes.txt",
        "loops.txt",
        "state.json",
    ):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("{}")
    with Run(config) as run:
        run.check()
        run.begin()
    left = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert left == ["config.json", "loop_01_mine", "loops.txt", "notes.txt"]


def test_the_public_names_work():
    assert callable(vintix_fast.adapt) and callable(vintix_fast.evaluate)
    assert vintix_fast.load_model(GOLDEN).groups == ("go2_locomotion", "a1_locomotion")
    assert (vintix_fast.AdaptConfig, vintix_fast.EvalConfig) == (AdaptConfig, EvalConfig)
    assert vintix_fast.read_trajectories.__module__ == "vintix_fast.data.trajectories"
    assert all(hasattr(vintix_fast, name) for name in vintix_fast.__all__)
