"""Videos: a drawing process that fails in any way leaves a reason, never an error, and what it had finished."""

import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import ACTIONS

from vintix_fast.report import film as module
from vintix_fast.report.film import film
from vintix_fast.report.recording import Recording
from vintix_fast.world.robot import Robot

STEPS, ENVS = 10, 2


def recording() -> Recording:
    marked = np.arange(STEPS * ENVS, dtype=np.float32).reshape(STEPS, ENVS)
    return Recording(
        base_pos_m=np.stack([marked] * 3, axis=2),
        base_quat=np.zeros((STEPS, ENVS, 4), np.float32),
        forward_speed_m_s=marked,
        joint_pos_rad=np.stack([marked] * ACTIONS, axis=2),
        contact=np.zeros((STEPS, ENVS, 4), bool),
        reward=marked,
        falls=(),
    )


@pytest.fixture
def draw(monkeypatch, tmp_path, go2: Robot):
    """Films two recordings with a program that stands in for the renderer; nothing of the job may stay."""

    def run(program: str):
        monkeypatch.setattr(module, "PROGRAM", (sys.executable, "-c", "import os, sys, pathlib\n" + program))
        filmed = film(go2, {"before": recording(), "after": recording()}, tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {p.name for p in filmed.videos.values()}
        return filmed

    return run


def test_every_recording_gets_a_video_of_its_own_poses(draw, tmp_path):
    program = """
import numpy as np
assert sys.argv[1].endswith("go2.toml")
for file in pathlib.Path(sys.argv[2]).glob("*.npy"):
    poses = np.load(file)
    file.with_suffix(".mp4").write_text(f"{file.stem} {poses.shape} {poses[1, 0]:.0f}")
"""
    filmed = draw(program)
    assert filmed.skipped is None and list(filmed.videos) == ["before", "after"]
    assert filmed.videos["after"].read_text() == "after (5, 19) 4"  # every second step of the first environment


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("os.kill(os.getpid(), 11)", "SIGSEGV; OpenGL without a display needs EGL"),
        ("sys.exit('some noise\\nno EGL context')", "no EGL context"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("os._exit(7)", "exit code 7"),
        ("pass", "the renderer left no video"),
        ("import time; time.sleep(60)", "drawing took longer than 2 s"),
    ],
)
def test_a_failing_renderer_is_a_reason(draw, monkeypatch, program, reason):
    monkeypatch.setattr(module, "TIMEOUT_S", 2.0)
    filmed = draw(program)
    assert filmed.videos == {} and reason in filmed.skipped


def test_a_file_of_the_current_folder_is_not_executed(monkeypatch, tmp_path):
    (tmp_path / "random.py").write_text("open('executed', 'w')")
    monkeypatch.chdir(tmp_path)
    assert "nowhere.toml" in (module._run([*module.PROGRAM, "nowhere.toml", "."]) or "")
    assert not (tmp_path / "executed").exists()


def test_a_program_that_cannot_start_is_a_reason(draw, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    assert "cannot be started" in draw("pass").skipped


def test_what_was_drawn_before_a_crash_is_kept(draw):
    finish = "folder = pathlib.Path(sys.argv[2]); (folder / 'before.mp4').write_text('x')\n"
    filmed = draw(finish + "os.kill(os.getpid(), 11)")
    assert list(filmed.videos) == ["before"] and "SIGSEGV" in filmed.skipped
    both = draw(finish + "(folder / 'after.mp4').write_text('x'); os.kill(os.getpid(), 11)")
    assert list(both.videos) == ["before", "after"] and both.skipped is None  # it crashed when all was done


def test_the_camera_follows_and_jumps_to_a_robot_that_was_put_back():
    import torch

    poses = torch.zeros(40, 19)
    poses[:30, 0] = 0.02 * torch.arange(30)
    poses[30:, 0] = -5.0
    looked_at = [look_at[0] for _, look_at in module._views(poses)]
    assert 0.45 < looked_at[29] < poses[29, 0] and looked_at[30] == -5.0


def test_frames_become_a_video_that_browsers_play(tmp_path: Path):
    av = pytest.importorskip("av")
    width, height = module.SIZE
    frames = [np.full((height, width, 3), 10 * i, np.uint8) for i in range(12)]
    module._encode(tmp_path / "clip.part", frames)
    with av.open(str(tmp_path / "clip.part")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", width, height)
        assert stream.average_rate == 25
        shades = [float(frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(stream)]
    np.testing.assert_allclose(shades, np.arange(12) * 10, atol=6)
