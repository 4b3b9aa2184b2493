"""Measuring a model: what is counted, and what is written."""

import csv
import importlib
import io
import json

import numpy as np
import pytest
from commands import spoken
from fakes import FakeSimulator, Listener, save_tiny
from rich.console import Console
from runs import ENGINE_OPTIONS, spy_on_policies

from vintix_fast import evaluation
from vintix_fast.eval_config import EvalConfig
from vintix_fast.evaluation import Evaluation
from vintix_fast.rollout import Episode, standard_error
from vintix_fast.service.console import evaluation_table
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.world.robot import load_robot


def run(checkpoint, robot="go2", fall_after=(6, 9, 40), progress=None, **options):
    options = {"num_envs": 3, "max_steps": 12, "episodes_per_env": 2} | options
    config = EvalConfig.from_options(vintix_path=checkpoint, robot_type=robot, **options)
    simulator = FakeSimulator(load_robot(robot), config.num_envs, fall_after=fall_after[: config.num_envs])
    return evaluation.evaluate(config, simulator=simulator, progress=progress)


def test_every_environment_runs_its_episodes(tiny_checkpoint):
    evaluation = run(tiny_checkpoint)
    summary = evaluation.summary()
    assert summary["episodes"] == 6 and summary["env_steps"] == 2 * (6 + 9 + 12)
    assert summary["terminated"] == 4 and summary["failed"] == 0 and summary["robot"] == "go2"
    lengths = [6, 9, 12] * 2
    assert summary["mean_episode_length"] == 9 and summary["std_episode_length"] == pytest.approx(np.std(lengths))
    returns = {(e.env, e.number): e.return_ for e in evaluation.episodes}
    assert summary["mean_return"] == pytest.approx(np.mean(list(returns.values())))
    by_number = [np.mean([returns[env, number] for env in range(3)]) for number in range(2)]
    assert summary["returns_by_episode_number"] == pytest.approx(by_number)


def test_an_evaluation_can_be_repeated(tiny_checkpoint):
    returns = [[e.return_ for e in run(tiny_checkpoint, seed=seed).episodes] for seed in (1, 1, 2)]
    assert returns[0] == returns[1] != returns[2]


def test_every_episode_starts_in_another_way_unless_starts_are_fixed(tiny_checkpoint):
    moved = run(tiny_checkpoint, fall_after=(40, 40, 40), context_len=1)
    assert len({e.return_ for e in moved.episodes}) == 6
    listener = Listener()
    fixed = run(tiny_checkpoint, num_envs=1, fall_after=(40,), context_len=1, random_starts=False, progress=listener)
    # Without a context to remember the first by, the second episode is the same.
    assert [(e.env, e.number) for e in fixed.episodes] == [(0, 0), (0, 1)]
    assert fixed.episodes[0].return_ == fixed.episodes[1].return_
    (said,) = listener.said
    assert "every environment would run the same episode, so one environment runs it" in said


# -- standard errors ---------------------------------------------------------------------------------------------------


def evaluation_of(*returns):
    """Of lists of returns: every environment's first episodes, the second ones, and so on."""
    episodes = [Episode(e, n, r, 100, False, False) for n, row in enumerate(returns) for e, r in enumerate(row)]
    return Evaluation("go2", episodes, env_steps=100 * len(episodes), seconds=1.0)


def test_a_standard_error_is_the_spread_over_the_root_of_one_less_than_the_number():
    # Deviations from 7 / 3 are -4 / 3, -1 / 3 and 5 / 3, so the variance is 42 / 27.
    assert standard_error([1.0, 2.0, 4.0]) == pytest.approx((42 / 27 / 2) ** 0.5)
    assert standard_error([3.0, 3.0]) == 0.0
    assert standard_error([5.0]) is None


def test_the_summary_has_the_standard_errors_of_all_episodes_and_of_each_number():
    summary = evaluation_of([1.0, 2.0, 4.0], [10.0, 10.0, 13.0]).summary()
    deviations = np.array([1, 2, 4, 10, 10, 13]) - 40 / 6
    assert summary["standard_error"] == pytest.approx((deviations @ deviations / 6 / 5) ** 0.5)
    assert summary["standard_errors_by_episode_number"] == pytest.approx([(42 / 27 / 2) ** 0.5, 1.0])


def test_the_table_shows_means_with_their_standard_errors():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(evaluation_table(evaluation_of([1.0, 2.0, 4.0], [10.0, 10.0, 13.0])))
    text = spoken(console.export_text())
    assert "6.67 ± 2.03" in text and "2.33 ± 0.88" in text and "11.00 ± 1.00" in text
    assert "mean ± standard error" in text and "nan" not in text


def test_a_single_episode_has_no_standard_error(tiny_checkpoint, tmp_path):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(evaluation_table(evaluation_of([5.25])))
    text = spoken(console.export_text())
    assert "5.25" in text and "±" not in text.replace("mean ± standard error", "") and "nan" not in text
    run(tiny_checkpoint, num_envs=1, random_starts=False, episodes_per_env=1, output_dir=tmp_path)
    written = json.loads((tmp_path / "eval.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert written["standard_error"] is None and written["standard_errors_by_episode_number"] == [None]


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_context_changes_what_the_model_does(tiny_checkpoint):
    long, short = (run(tiny_checkpoint, context_len=n).mean_return for n in (None, 1))
    assert long != short


def test_files(tiny_checkpoint, tmp_path):
    out = tmp_path / "new/eval"
    evaluation = run(tiny_checkpoint, output_dir=out)
    written = json.loads((out / "eval.json").read_text())
    assert written.items() >= evaluation.summary().items()
    assert written["options"]["num_envs"] == 3 and "torch" in written["versions"]
    with open(out / "eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["env"]), int(r["episode_number"])) for r in rows] == [(e, n) for e in range(3) for n in range(2)]
    assert [int(r["length"]) for r in rows] == [6, 6, 9, 9, 12, 12]
    assert [int(r["terminated"]) for r in rows] == [1, 1, 1, 1, 0, 0]
    assert np.mean([float(r["return"]) for r in rows]) == pytest.approx(evaluation.mean_return)


def test_the_policy_has_the_engine_that_was_asked_for(tiny_checkpoint, tmp_path, monkeypatch):
    seen = spy_on_policies(monkeypatch, "evaluation")
    run(tiny_checkpoint, **ENGINE_OPTIONS)
    run(tiny_checkpoint, engine="torch", output_dir=tmp_path)
    plain = {"engine": "torch", "cache_dtype": "float32", "dropped_mass": 0.0}
    assert seen == [ENGINE_OPTIONS, plain]
    assert json.loads((tmp_path / "eval.json").read_text())["options"].items() >= plain.items()


def test_an_earlier_evaluation_is_replaced_only_on_request(tiny_checkpoint, tmp_path):
    run(tiny_checkpoint, output_dir=tmp_path)
    before = (tmp_path / "eval.json").read_text()
    with pytest.raises(UsageError, match="--overwrite"):
        run(tiny_checkpoint, output_dir=tmp_path, episodes_per_env=1)
    assert (tmp_path / "eval.json").read_text() == before
    run(tiny_checkpoint, output_dir=tmp_path, episodes_per_env=1, overwrite=True)
    assert json.loads((tmp_path / "eval.json").read_text())["episodes"] == 3


def test_a_robot_without_a_group_is_an_error_that_says_how_to_make_one(tiny_checkpoint):
    with pytest.raises(InputFileError, match="a1.*go2_walking_ad, go1_walking_ad.*vintix-fast adapt"):
        run(tiny_checkpoint, robot="a1")


def test_the_only_shared_group_serves_any_robot(tmp_path):
    checkpoint = save_tiny(tmp_path / "single", {"anything": "quadruped_locomotion"})
    assert run(checkpoint, robot="a1").robot == "a1"


def test_a_context_longer_than_the_models_is_refused(tiny_checkpoint):
    with pytest.raises(UsageError, match="--context-len 65.*64"):
        run(tiny_checkpoint, context_len=65)


def test_without_a_simulator_one_is_built_of_the_mass_that_was_asked_for(tiny_checkpoint, monkeypatch):
    built = []

    def build(robot, num_envs, device, *rest):
        built.append((robot.name, num_envs, device, robot.base_mass_kg))
        return FakeSimulator(robot, num_envs)

    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", build)
    evaluation.evaluate(EvalConfig(tiny_checkpoint, "go1", num_envs=2, max_steps=3))
    evaluation.evaluate(EvalConfig(tiny_checkpoint, "go1", num_envs=2, max_steps=3, base_mass=6.9))
    assert built == [("go1", 2, "cpu", None), ("go1", 2, "cpu", 6.9)]


# -- videos ------------------------------------------------------------------------------------------------------------


def test_a_video_of_the_same_policy_is_left_where_it_was_asked_for(tiny_checkpoint, tmp_path, monkeypatch):
    film = importlib.import_module("vintix_fast.report.film")
    drawn = {}

    def draw(robot, recordings, folder, env=0):
        drawn.update(recordings)
        (name,) = recordings
        (folder / f"{name}.mp4").write_bytes(b"film")
        return film.Filmed({name: folder / f"{name}.mp4"})

    monkeypatch.setattr(film, "film", draw)
    listener = Listener()
    evaluation = run(tiny_checkpoint, record=tmp_path / "walk.mp4", progress=listener)
    assert (tmp_path / "walk.mp4").read_bytes() == b"film" and [p.name for p in tmp_path.iterdir()] == ["walk.mp4"]
    assert drawn["walk"].reward.shape == (300, 3) and evaluation.summary()["episodes"] == 6
    assert listener.said == [f"Video: {tmp_path / 'walk.mp4'}"]


def test_an_evaluation_survives_a_renderer_that_fails(tiny_checkpoint, tmp_path, monkeypatch):
    film = importlib.import_module("vintix_fast.report.film")
    monkeypatch.setattr(film, "film", lambda *args, **options: film.Filmed({}, "no EGL context"))
    listener = Listener()
    assert run(tiny_checkpoint, record=tmp_path / "walk.mp4", progress=listener).summary()["episodes"] == 6
    assert listener.said == ["No video: no EGL context"] and list(tmp_path.iterdir()) == []
