"""Videos of recordings, drawn in a process of their own: a driver that crashes takes only that process along.

The parent writes poses to a folder and starts this module as a program; the program leaves a video for each.  Knows
nothing about runs or models.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vintix_fast.report.recording import Recording
from vintix_fast.world.robot import Robot, load_robot
from vintix_fast.world.simulator import DRAWING_REMEDY, DT_S

if TYPE_CHECKING:
    import torch

SIZE = (480, 320)
STEPS_PER_FRAME = 2
FRAMES_PER_S = round(1.0 / (DT_S * STEPS_PER_FRAME))
PROGRAM = (sys.executable, "-P", "-m", "vintix_fast.report.film")
"""Without -P a random.py in the current folder would be taken for Python's, and executed."""
TIMEOUT_S = 600.0
CAMERA_FROM_ROBOT_M = (0.75, -1.5, 0.6)
LOOK_AT_HEIGHT_M = 0.24
FOLLOW = 0.2
"""How much of the way to the robot the camera goes in a frame: its sway shows, its walk does not."""
JUMP_M = 0.5
"""A robot that is farther off was put back to its start."""


@dataclass(frozen=True)
class Filmed:
    """Paths of the videos by their recordings' names; where any is missing, why."""

    videos: dict[str, Path]
    skipped: str | None = None


def film(robot: Robot, recordings: dict[str, Recording], folder: Path) -> Filmed:
    """Draw the first environment of each recording into ``folder``/<name>.mp4; never raises because drawing fails."""
    with tempfile.TemporaryDirectory(prefix=".film-", dir=folder) as job:
        for name, recording in recordings.items():
            poses = (recording.base_pos_m[:, 0], recording.base_quat[:, 0], recording.joint_pos_rad[:, 0])
            np.save(Path(job) / f"{name}.npy", np.concatenate(poses, axis=1)[::STEPS_PER_FRAME])  # [T, 3 + 4 + J]
        reason = _run([*PROGRAM, str(robot.path), job])
        drawn = {name: Path(job) / f"{name}.mp4" for name in recordings if (Path(job) / f"{name}.mp4").is_file()}
        videos = {name: path.replace(folder / path.name) for name, path in drawn.items()}
    return Filmed(videos, None if len(videos) == len(recordings) else reason or "the renderer left no video")


def film_to(path: Path, robot: Robot, recording: Recording) -> str:
    """Draw a recording's first environment into the file ``path``; what came of it, for a person."""
    with tempfile.TemporaryDirectory(prefix=".film-", dir=path.parent) as folder:
        filmed = film(robot, {path.stem: recording}, Path(folder))
        if path.stem not in filmed.videos:
            return f"No video: {filmed.skipped}"
        filmed.videos[path.stem].replace(path)
    return f"Video: {path}"


def _run(command: list[str]) -> str | None:
    """Run the drawing program; why it failed, or None."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"drawing took longer than {TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"the drawing process cannot be started ({error})"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"the drawing process was ended by {signal.Signals(-done.returncode).name}; {DRAWING_REMEDY}"
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return last.strip()


def _draw(robot_file: str, job: Path) -> None:
    """The program: a video for each file of poses."""
    import torch

    from vintix_fast.world.stage import Stage

    stage = Stage(load_robot(robot_file), SIZE)
    for path in sorted(job.glob("*.npy")):
        poses = torch.from_numpy(np.load(path))
        beside = path.with_suffix(".part")
        seen = zip(poses, _views(poses), strict=True)
        _encode(beside, (stage.photograph(p[:3], p[3:7], p[7:], *view) for p, view in seen))
        beside.rename(path.with_suffix(".mp4"))


def _views(poses: torch.Tensor) -> Iterator[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Where the camera is and looks in each frame of poses [T, 19]: it follows the robot, and keeps its direction."""
    x, y = poses[0, :2].tolist()
    for robot_x, robot_y in poses[:, :2].tolist():
        far = max(abs(robot_x - x), abs(robot_y - y)) > JUMP_M
        share = 1.0 if far else FOLLOW
        x, y = x + share * (robot_x - x), y + share * (robot_y - y)
        dx, dy, z = CAMERA_FROM_ROBOT_M
        yield (x + dx, y + dy, z), (x, y, LOOK_AT_HEIGHT_M)


def _encode(path: Path, frames: Iterable[np.ndarray]) -> None:
    """Write pictures, uint8 [height, width, 3], as an H.264 video that browsers play."""
    import av

    with av.open(str(path), mode="w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_S, options={"crf": "23", "preset": "medium"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    try:
        _draw(sys.argv[1], Path(sys.argv[2]))
    except Exception as error:  # whatever a driver or a codec raises: its text is the reason that the report shows
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
