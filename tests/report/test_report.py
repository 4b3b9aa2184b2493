"""Reports on small runs in the fake simulator: what they say, what they leave, and what they survive."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import ACTIONS, FakeSimulator
from matplotlib.figure import Figure
from runs import read_rows, run_small, script_evaluations, tree

from vintix_fast.report import build, film
from vintix_fast.report.film import Filmed
from vintix_fast.report.plots import returns_by_number
from vintix_fast.report.record import expert_return, read_run
from vintix_fast.report.recording import NUM_ENVS, STEPS
from vintix_fast.service.bundled import bundled_models
from vintix_fast.service.errors import InputFileError
from vintix_fast.world import simulators
from vintix_fast.world.robot import load_robot

NUMBERS = {"returns.png", "lengths.png", "by_episode.png"}
DRAWN = {"traces.png", "before_after.png"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_checkpoint) -> Path:
    """A run of two loops; the first is kept, the second rejected.  Not to be written to."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        script_evaluations(patch, [1.25, 3.75, 2.5, 2.5, 2.5])
        run_small(out, tiny_checkpoint, episodes_per_loop=6)
    return out


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def report(monkeypatch):
    """Builds a report with the fake simulator; its recordings and its axes' contents are kept to look at."""
    report_of = type("Made", (), {})()
    monkeypatch.setattr(simulators, "Simulator", FakeSimulator)

    def draw(robot, recordings, folder):
        report_of.robot, report_of.recordings = robot, recordings
        for name in recordings:
            film._encode(folder / f"{name}.mp4", [np.full((320, 480, 3), 40 * shade, np.uint8) for shade in range(6)])
        return Filmed({name: folder / f"{name}.mp4" for name in recordings})

    def make(out: Path, **options):
        report_of.recordings = {}
        report_of.made = build.build_report(out, **({"draw": draw} | options))
        report_of.page = report_of.made.html.read_text()
        return report_of

    return make


@pytest.fixture
def figures(monkeypatch) -> dict[str, Figure]:
    """The figures that are saved, by their files' names."""
    seen = {}
    save = Figure.savefig

    def keep(figure, path, **options):
        seen[Path(path).name.removesuffix(".tmp")] = figure
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return seen


def said(page: str) -> str:
    """The page's text, without what is inside it as data."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)))


def labels(figure: Figure) -> set[str]:
    return {text for axes in figure.axes for text in axes.get_legend_handles_labels()[1]}


# -- the page ----------------------------------------------------------------------------------------------------------


def test_a_report_holds_everything_and_fetches_nothing(report, out):
    before = tree(out)
    made = report(out)
    assert tree(out) - before == {f"report/{n}" for n in (*NUMBERS, *DRAWN, *made_names(made), "report.html")}
    assert made.made.skipped == {}

    sources = re.findall(r'(?:src|href|srcset|poster|data)\s*=\s*["\']?([^"\'\s>]{0,40})', made.page)
    assert len(sources) == 7 and all(source.startswith("data:") for source in sources)
    without_data = re.sub(r"base64,[A-Za-z0-9+/=]*", "", made.page)
    for forbidden in ("://", "url(", "@import", "<script", "<link", "<iframe", "<object"):
        assert forbidden not in without_data, forbidden
    inside = [base64.b64decode(code) for code in re.findall(r"base64,([A-Za-z0-9+/=]*)", made.page)]
    assert set(inside) == {p.read_bytes() for p in (*made.made.pngs.values(), *made.made.videos.values())}
    assert sum(code.startswith(b"\x89PNG") for code in inside) == 5


def made_names(made) -> list[str]:
    return [path.name for path in made.made.videos.values()]


def test_the_page_tells_the_runs_numbers(report, out):
    text = said(report(out, rollout=False).page)
    rows = read_rows(out)
    assert "Adaptation to minicheetah" in text and "finished, 2 of 2 loops" in text
    assert "1.25 return, zero-shot" in text and "3.75 return, best (loop 1)" in text
    first = rows[1]
    error = first["std_return"] / (first["episodes"] - 1) ** 0.5
    collected = f"{first['env_steps']} {first['mean_return']:.2f} {error:.2f} {first['mean_length']:.0f}"
    assert re.search(rf" 1 6 {collected} 3\.75 0\.50 (3\.75 )?7 {first['loss']:.4f} yes ", text)
    assert re.search(r" 2 6 \d+ -?[\d.]+ [\d.]+ \d+ 2\.50 0\.50 (2\.50 )?7 [\d.]+ no ", text)
    collected = rows[1]["env_steps"] + rows[2]["env_steps"]
    assert f"{collected:,} environment steps. The evaluations took 70 more" in text
    options = json.loads((out / "config.json").read_text())
    for name, value in (options["options"] | options["versions"]).items():
        assert f" {name} {'' if value is None else f'{value} '}" in text


def test_what_a_user_wrote_is_escaped(report, out):
    config = json.loads((out / "config.json").read_text())
    config["options"]["pretrained_path"] = "<img src=http://x>"
    (out / "config.json").write_text(json.dumps(config))
    assert "&lt;img src=http://x&gt;" in report(out, rollout=False).page


def test_large_videos_stay_beside_the_page(report, out, monkeypatch):
    from vintix_fast.report import page

    monkeypatch.setattr(page, "INLINE_VIDEO_BYTES", 3)
    made = report(out)
    assert "data:video" not in made.page and '<a href="before.mp4">' in made.page


# -- plots -------------------------------------------------------------------------------------------------------------


def test_returns_are_plotted_with_what_they_are_measured_by(report, out, figures):
    report(out, rollout=False)
    assert {"zero-shot: 1.25", "best so far: 3.75", "rejected by the gate"} <= labels(figures["returns.png"])
    assert not any("expert" in label for label in labels(figures["returns.png"]))  # its episodes are longer
    lines = {line.get_label(): line.get_xydata().tolist() for line in figures["returns.png"].axes[0].lines}
    rows = read_rows(out)
    steps = [row["total_env_steps"] for row in rows]
    assert lines["evaluation, no noise"] == [[s, v] for s, v in zip(steps, [1.25, 3.75, 2.5], strict=True)]
    assert lines["rejected by the gate"] == [[steps[2], 2.5]]
    assert lines["best so far: 3.75"] == [[steps[0], 1.25], [steps[1], 3.75], [steps[2], 3.75]]
    assert lines["collection, with noise"] == [
        [steps[0], rows[1]["mean_return"]], [steps[1], rows[2]["mean_return"]],
    ]  # fmt: skip
    lengths = {line.get_label(): line.get_ydata() for line in figures["lengths.png"].axes[0].lines}
    assert list(lengths["evaluation, no noise"]) == [7, 7, 7] and "time limit: 14" in lengths


def test_a_bundled_robots_expert_is_known_for_episodes_of_its_length():
    returns = [card["returns"]["minicheetah"] for card in bundled_models().values()]
    seen = [found["mean_return"] for found in returns if found["seen"]]
    assert len(seen) == 3 and expert_return("minicheetah", 1000) == pytest.approx(np.mean(seen))
    assert expert_return("unitreea1", 1000) == expert_return("a1", 1000) != expert_return("go1", 1000)
    assert expert_return("minicheetah", 500) is None
    assert expert_return("my/minicheetah.toml", 1000) is None


def test_the_experts_line_and_the_share_of_the_gap(report, out, figures):
    config = json.loads((out / "config.json").read_text())
    config["options"]["max_steps_per_episode"] = 1000
    (out / "config.json").write_text(json.dumps(config))
    made, expert = report(out, rollout=False), expert_return("minicheetah", 1000)
    assert f"own expert: {expert:.2f}" in labels(figures["returns.png"])
    assert f"{(3.75 - 1.25) / (expert - 1.25):.0%} of the gap" in said(made.page)


def test_returns_by_number_compare_the_same_environments(out):
    run = read_run(out)
    run.options["episodes_per_loop"] = 5
    # Environments 1 and 2 run two episodes, 0 runs one; then all again, with a cold context.
    order = [(1, 0, 1.0), (2, 0, 2.0), (0, 0, 3.0), (1, 1, 5.0), (2, 1, 7.0)]
    again = [(1, 2, 3.0), (2, 2, 4.0), (0, 1, 5.0), (1, 3, 9.0), (2, 3, 11.0)]
    run.collections[0] = [{"env": e, "number": n, "return_": r} for e, n, r in order + again]
    both = [(2.5, pytest.approx(np.std([1, 2, 3, 4])), 4), (8.0, pytest.approx(np.std([5, 7, 9, 11])), 4)]
    assert returns_by_number(run, 0) == both
    run.options["episodes_per_loop"] = 3
    run.collections[0] = [{"env": e, "number": n, "return_": r} for e, n, r in order if n == 0]
    assert [(mean, count) for mean, _, count in returns_by_number(run, 0)] == [(2.0, 3)]


def test_single_episodes_cannot_be_compared(report, tmp_path, tiny_checkpoint):
    run_small(tmp_path / "run", tiny_checkpoint, episodes_per_loop=3, num_improvement_loops=1)
    made = report(tmp_path / "run", rollout=False).made
    assert "by_episode" not in made.pngs and "fewer --num-envs" in made.skipped["by_episode"]


# -- traces ------------------------------------------------------------------------------------------------------------


def test_before_and_after_start_alike_and_differ(report, out, figures):
    made = report(out)
    before, after = made.recordings["before"], made.recordings["after"]
    assert made.robot.name == "minicheetah"
    assert before.joint_pos_rad.shape == (STEPS, NUM_ENVS, ACTIONS) and before.contact.shape == (STEPS, NUM_ENVS, 4)
    np.testing.assert_array_equal(before.joint_pos_rad[0], after.joint_pos_rad[0])  # the first action is not yet done
    assert np.abs(before.joint_pos_rad - after.joint_pos_rad)[50:].max() > 1e-3
    titles = [axes.get_title() for axes in figures["traces.png"].axes if axes.get_title()]
    assert titles == ["before", "after"]
    shown = [axes.lines[0].get_ydata() for axes in figures["traces.png"].axes[:2]]
    np.testing.assert_array_equal(shown[0], before.joint_pos_rad[-100:, 0, 0])
    np.testing.assert_array_equal(shown[1], after.joint_pos_rad[-100:, 0, 0])


def test_recordings_are_reproducible_and_of_the_model(report, out):
    once = report(out).recordings
    again = report(out).recordings
    np.testing.assert_array_equal(once["after"].joint_pos_rad, again["after"].joint_pos_rad)
    shutil.copy(out / "models/initial/model.pth", out / "models/best/model.pth")
    same = report(out).recordings
    np.testing.assert_array_equal(same["after"].joint_pos_rad, same["before"].joint_pos_rad)


def test_bars_lie_where_a_leg_stands(figures, tmp_path):
    from vintix_fast.report.plots import plot_traces
    from vintix_fast.report.recording import Recording

    contact = np.zeros((120, 1, 4), bool)
    contact[30:40, 0, 1], contact[110:, 0, 3] = True, True
    zeros = np.zeros((120, 1))
    made = Recording(
        np.zeros((120, 1, 3)), np.zeros((120, 1, 4)), zeros, np.zeros((120, 1, ACTIONS)), contact, zeros, ()
    )
    plot_traces(tmp_path / "traces.png", {"x": made})
    bars = [
        [path.get_extents().extents.round(6).tolist() for path in rows.get_paths()]
        for rows in figures["traces.png"].axes[3].collections
    ]
    assert bars == [[], [[0.6, 0.64, 0.8, 1.36]], [], [[2.2, 2.64, 2.4, 3.36]]]
    assert made.gait()["duty factor (share of time on the ground)"] == pytest.approx(20 / 400)
    assert made.gait()["touch-downs per leg and second"] == pytest.approx(2 / 4 / (99 * 0.02))


def test_falls_are_counted_and_marked(report, out, figures):
    robot = load_robot("minicheetah")
    simulator = FakeSimulator(robot, 3, fall_after=[290, 0, 140])
    made = report(out, simulator=simulator)
    falls = [fall for fall in made.recordings["before"].falls if fall[1] != 1]
    assert falls == [(139, 2), (279, 2), (289, 0)]
    marks = [line.get_xdata() for line in figures["traces.png"].axes[0].lines if line.get_linestyle() == "--"]
    assert marks == [[5.8, 5.8]]
    assert re.search(r"falls (\d+) ", said(made.page))[1] == str(len(made.recordings["before"].falls))


# -- parts that cannot be made -----------------------------------------------------------------------------------------


def test_parts_that_are_left_out_say_so_and_old_ones_go(report, out):
    report(out)
    made = report(out, video=False)
    assert made.made.videos == {} and made.made.skipped == {"video": "--no-video was given"}
    assert "No video: --no-video was given." in said(made.page) and made.recordings == {}
    assert {p.name for p in (out / "report").iterdir()} == NUMBERS | {"traces.png", "report.html"}
    made = report(out, rollout=False)
    assert "No traces.png: --no-rollout was given." in said(made.page)
    assert {p.name for p in (out / "report").iterdir()} == NUMBERS | {"report.html"}


def test_a_renderer_that_fails_leaves_the_rest(report, out):
    made = report(out, draw=lambda robot, recordings, folder: Filmed({}, "no <EGL> here"))
    assert made.made.skipped == {"video": "no <EGL> here"}
    assert "No video: no &lt;EGL&gt; here." in made.page and "traces" in made.made.pngs


def test_a_simulator_that_fails_leaves_the_numbers(report, out, monkeypatch):
    from vintix_fast.service.errors import VintixFastError

    def refuse(*args):
        raise VintixFastError("Genesis cannot build x.urdf")

    monkeypatch.setattr(simulators, "Simulator", refuse)
    made = report(out)
    assert made.made.skipped["traces"] == made.made.skipped["video"] == "Genesis cannot build x.urdf"
    assert {path.name for path in made.made.pngs.values()} == NUMBERS


def test_a_broken_model_or_robot_file_leaves_the_numbers(report, out):
    (out / "models/best/model.pth").write_bytes(b"")
    assert "model.pth" in report(out).made.skipped["traces"]
    config = json.loads((out / "config.json").read_text())
    config["options"]["robot_type"] = "gone.toml"
    (out / "config.json").write_text(json.dumps(config))
    made = report(out)
    assert "cannot read robot file gone.toml" in made.made.skipped["traces"]
    assert {path.name for path in made.made.pngs.values()} == NUMBERS


# -- unfinished and other runs -----------------------------------------------------------------------------------------


def test_a_run_that_was_just_begun(report, out):
    for name in ("models", "loop_00", "loop_01"):
        shutil.rmtree(out / name)
    for name in ("metrics.jsonl", "state.json"):
        (out / name).unlink()
    made = report(out)
    assert made.made.pngs == {} == made.made.videos
    text = said(made.page)
    assert "unfinished, 0 of 2 loops; the same `adapt` with --resume goes on" in text
    assert "No returns.png: no loop is finished yet." in text and "No traces.png: no model is in " in text


def test_a_run_in_its_first_loop(report, out):
    state = json.loads((out / "state.json").read_text())
    state.update(loops_done=0, rows=state["rows"][:1], best={"loop": 0, "return": 1.25})
    (out / "state.json").write_text(json.dumps(state))
    (out / "metrics.jsonl").write_text(json.dumps(state["rows"][0]) + "\n")
    shutil.rmtree(out / "loop_01")
    (out / "loop_00/loop_00.json").write_text("{")  # being written
    made = report(out)
    assert set(made.made.pngs) == {"returns", "lengths", "traces"} and list(made.made.videos) == ["before"]
    assert made.made.skipped["by_episode"] == "no collection is finished yet"
    assert "unfinished, 0 of 2 loops" in said(made.page)
    assert "Only the initial policy is shown: no loop was better" in said(made.page)


def test_without_a_gate_the_last_loop_is_after(report, tmp_path, tiny_checkpoint, figures):
    run_small(tmp_path / "run", tiny_checkpoint, gate=False, episodes_per_loop=6)
    made = report(tmp_path / "run")
    assert made.made.skipped == {} and "zero-shot" not in said(made.page)
    assert labels(figures["returns.png"]) == {"collection, with noise"}
    assert read_run(tmp_path / "run").final_model == tmp_path / "run/models/loop_02"
    assert np.abs(made.recordings["before"].joint_pos_rad - made.recordings["after"].joint_pos_rad).max() > 0


@pytest.mark.parametrize(("target", "state"), [(3.0, "finished, 2 of 9"), (4.0, "unfinished, 2 of 9")])
def test_a_run_ends_at_its_target(report, out, target, state):
    config = json.loads((out / "config.json").read_text())
    config["options"].update(num_improvement_loops=9, target_return=target)
    (out / "config.json").write_text(json.dumps(config))
    assert f": {state} loops" in said(report(out, rollout=False).page)


def test_cold_and_warm_evaluations_have_columns_where_they_were_measured(report, out):
    rows = read_rows(out)
    for row in rows:
        row.update(eval_cold_return=1.01, eval_warm_return=2.02)
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = said(report(out, rollout=False).page)
    assert " eval return ± s.e. cold warm eval length " in text and " 3.75 0.50 1.01 2.02 7 " in text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "holds no run"),
        ("{", "holds no run"),
        ('{"hidden_dim": 256}', "holds no run"),
        ('{"command": "pretrain", "options": {}}', "a run of `vintix-fast pretrain`, not of adapt"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, content, text):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputFileError, match=re.escape(str(tmp_path))) as caught:
        build.build_report(tmp_path)
    assert text in str(caught.value) and "--output-dir" in str(caught.value)
    assert not (tmp_path / "report").exists()


def test_what_a_killed_report_left_is_removed(report, out):
    (out / "report/.film-abcd_fgh").mkdir(parents=True)
    for name in (".film-abcd_fgh/after.part", "returns.png.tmp", "mine.txt"):
        (out / "report" / name).touch()
    report(out, rollout=False)
    left = {path.name for path in (out / "report").iterdir()}
    assert left == {*NUMBERS, "report.html", "mine.txt"}


def test_broken_numbers_are_refused(out):
    (out / "metrics.jsonl").write_text('{"loop": 0}\n{"loop"')
    with pytest.raises(InputFileError, match="metrics.jsonl, line 2 is broken"):
        build.build_report(out)
    assert not (out / "report").exists()
