"""A run that is killed at one of its file events goes on as if nothing had happened, and nothing is left over.

As a program it tries more of them: `.venv/bin/python tests/test_kills.py --kills 60 --seed 1`.  With `--real --kills
10` it kills `vintix-fast adapt` in the real simulator, at file events and at moments, and takes minutes.
"""

import argparse
import functools
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from fakes import save_tiny
from killed import FileEvents, differences, forked
from runs import run_small

from vintix_fast.service.files import write_text
from vintix_fast.service.progress import Progress
from vintix_fast.world.robot import ROBOTS

EACH_LOOP_IS_KEPT = dict(
    seed=11, finetune_steps_per_loop=2, max_steps_per_episode=5, gate_episodes=2, num_envs=2, episodes_per_loop=2
)  # fmt: skip
REAL = (
    "--robot-type go2 --num-improvement-loops 2 --num-envs 2 --episodes-per-loop 2 --max-steps-per-episode 40 "
    "--finetune-steps-per-loop 5 --window-len 16 --context-len 64 --critic-updates 20 --gate-episodes 2"
)
EVENTS = "events.out.tfevents*."
CHOSEN = [  # right before the so manieth of them
    ("sync config.json.tmp", 1),
    ("rename config.json", 1),
    ("rename robot", 1),
    (f"open tensorboard/{EVENTS}loop_00", 3),
    ("step of a rollout", 8),
    ("rename loop_00/loop_00.json", 1),
    ("step of a training", 2),
    ("rename models/best", 2),  # the old one was moved aside
    ("remove models/.best.*/best/metadata.json", 1),
    ("rename models/loop_01", 1),
    ("rename state.json", 2),
    ("remove loop_00/training.pth", 1),
]


class Steps(Progress):
    """A step of a collection or a training is an event too: the compiled writer's files grow meanwhile."""

    def __init__(self, events):
        self.events = events

    def on_rollout_step(self, collection):
        self.events.happens("step of a rollout")

    def on_training_step(self, step, loss):
        self.events.happens("step of a training")


def run_given(out, given, **options):
    options = EACH_LOOP_IS_KEPT | options
    return run_small(out, given / "model", robot_type=str(given / "rex.toml"), **options)


def run_fake(out, given, at=0, resume=False, loops=2):
    """A small run in a process of its own, killed at an event; its exit code, and its events if it got to its end."""
    told = out.parent / "events"

    def run():
        torch.set_num_threads(1)  # those of the parent are not here
        events = FileEvents(out, at)
        run_given(out, given, progress=Steps(events), resume=resume, num_improvement_loops=loops)
        told.write_text("\n".join(events.seen))

    code = forked(run, out.parent / "stderr")
    return code, told.read_text().splitlines() if code == 0 else [(out.parent / "stderr").read_text()]


def run_real(out, given, at=0, resume=False, after_s=None):
    """The same of `vintix-fast adapt`, which may also be killed ``after_s`` seconds from when ``out`` is there."""
    words = ["adapt", *REAL.split(), "--output-dir", str(out), *["--resume"] * resume]
    with open(out.parent / "stderr", "w+") as said:
        started = [sys.executable, str(Path(__file__).with_name("killed.py")), str(out), str(at), *words]
        process = subprocess.Popen(started, stdout=said, stderr=said)
        while after_s is not None and process.poll() is None and not out.is_dir():
            time.sleep(0.02)
        try:
            code = process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        said.seek(0)
        text = said.read()
    if code == 0 and after_s is not None:  # it was faster than that
        shutil.rmtree(out)
        return run_real(out, given, after_s=after_s / 2)
    counted = re.findall(r"file events: (\d+)", text)
    return code, ["file event"] * int(counted[-1]) if code == 0 else [text]


run_one_loop = functools.partial(run_fake, loops=1)


def killed_and_resumed(run, out, given, whole, **killed):
    """What went wrong, if anything."""
    code, said = run(out, given, **killed)
    if code != -signal.SIGKILL:
        return [f"not killed, but ended with {code}", *said[-1:]]
    # Before its options are there it is no run yet, and the same command begins it.
    code, said = run(out, given, resume=(out / "config.json").is_file())
    return differences(out, whole) if code == 0 else said


def make_given(folder):
    """What a run reads: a model, and a robot of the user's own whose meshes lie elsewhere."""
    save_tiny(folder / "model")
    robot = (ROBOTS / "minicheetah.toml").read_text().replace('"minicheetah.urdf"', f'"{ROBOTS / "minicheetah.urdf"}"')
    (folder / "rex.toml").write_text(robot)
    return folder


@pytest.fixture(scope="module", autouse=True)
def quick_curves():
    with pytest.MonkeyPatch.context() as patch:
        told = ("loop", "env_steps", "mean_return", "eval_return")
        for module in ("adaptation", "mend"):
            patch.setattr(
                f"vintix_fast.{module}.write_curve",
                lambda path, rows: write_text(path, str([[row.get(key) for key in told] for row in rows])),
            )
        yield


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return make_given(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, given):
    """A run that nobody killed, and its events."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run_given(out.parent / "imports", given)  # what it needs, once and not in every process
    code, events = run_one_loop(out, given)
    assert code == 0, events
    return out, events


@pytest.mark.parametrize(("event", "count"), CHOSEN, ids=lambda value: str(value).replace(" ", "-"))
def test_a_killed_run_goes_on_as_if_nothing_had_happened(whole, tmp_path, given, event, count):
    out, events = whole
    at = [number for number, name in enumerate(events, start=1) if name == event][count - 1]
    assert killed_and_resumed(run_one_loop, tmp_path / "run", given, out, at=at) == []


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", action="store_true")
    options = parser.parse_args()
    run, draw, bad = run_real if options.real else run_fake, random.Random(options.seed), 0
    torch.set_num_threads(1)  # as the processes have
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "whole").mkdir()
        given, started = make_given(folder), time.monotonic()
        if not options.real:
            run_given(folder / "imports", given)
        code, events = run(folder / "whole/run", given)
        took_s = time.monotonic() - started
        if code != 0:
            sys.exit("\n".join(events))
        print(f"{len(events)} events in {took_s:.1f} s", flush=True)
        # Steps are many and much alike: each name is as likely as the others, but for half of the kills.
        by_name = {}
        for number, event in enumerate(events, start=1):
            by_name.setdefault(event, []).append(number)
        for kill in range(1, options.kills + 1):
            (folder / "killed").mkdir()
            numbers = draw.choice(list(by_name.values())) if kill % 2 else range(1, len(events) + 1)
            at = draw.choice(numbers)
            killed, what = {"at": at}, f"{at:4d} {events[at - 1]}"
            if options.real and kill % 2:
                after_s = draw.uniform(0.0, 0.3 * took_s)
                killed, what = {"after_s": after_s}, f"{after_s:.2f} s after the first"
            wrong = killed_and_resumed(run, folder / "killed/run", given, folder / "whole/run", **killed)
            bad += bool(wrong)
            print(f"{kill:3d}  {what:55s}  {'; '.join(wrong) or 'the same run'}", flush=True)
            shutil.rmtree(folder / "killed")
    sys.exit(f"{bad} of {options.kills} went wrong" if bad else 0)


if __name__ == "__main__":
    main()
