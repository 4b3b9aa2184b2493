"""Reads mutants of every kind of file that a user can hand over, and tells what is neither read soundly nor refused.

    python tests/fuzz/run.py --mutants 5000 --seed 1
    python tests/fuzz/run.py --seed 1 --only 1234        what the mutant gave, with its traceback; it is kept

A mutant is made from its number and the seed alone.  A child process reads it as a user's command would, with `MEMORY`
bytes beyond what is there already and `SECONDS` of time.  It must accept it, and then all numbers are finite, or refuse
it with an error that names the file; anything else is a defect.  Exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "data"), str(TESTS / "fuzz")]

import mutate  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from fakes import FakeSimulator, save_tiny  # noqa: E402
from runs import small_config  # noqa: E402
from stick_robot import stick_mjcf  # noqa: E402
from written_files import foreign_file, write_random  # noqa: E402

from vintix_fast.cli.inspect import _trajectories  # noqa: E402
from vintix_fast.config import AdaptConfig  # noqa: E402
from vintix_fast.data import read_trajectories  # noqa: E402
from vintix_fast.model import load_checkpoint, save_checkpoint  # noqa: E402
from vintix_fast.model.new_group import add_target  # noqa: E402
from vintix_fast.policy.expert import expert_network, load_expert  # noqa: E402
from vintix_fast.pretrain.config import read_pretrain_config  # noqa: E402
from vintix_fast.pretrain.histories import read_histories  # noqa: E402
from vintix_fast.report.record import read_run  # noqa: E402
from vintix_fast.rundir import Run  # noqa: E402
from vintix_fast.service.errors import InputFileError, VintixFastError  # noqa: E402
from vintix_fast.world.mjcf import simulated_mjcf  # noqa: E402
from vintix_fast.world.robot import load_robot  # noqa: E402
from vintix_fast.world.survey import survey  # noqa: E402
from vintix_fast.world.task import WalkingTask  # noqa: E402
from vintix_fast.world.task_file import read_task  # noqa: E402
from vintix_fast.world.variation import NO_VARIATION  # noqa: E402

SECONDS, MEMORY = 5, 2**30
TEXT, JSON, TOML = ((m, mutate.mutate_bytes) for m in (mutate.mutate_urdf, mutate.mutate_json, mutate.mutate_toml))


@dataclass(frozen=True)
class Subject:
    """A sound folder, the file in it that is changed, how, and how it is read."""

    folder: str
    file: str
    mutations: tuple[mutate.Mutation, ...]
    read: Callable[[Path], Any]


# ------------------------------------------------------------------------------------------------- what a user reads


def model(path: Path) -> Any:
    """A prediction of each task."""
    found, random = load_checkpoint(path), np.random.default_rng(0)
    numbers = []
    for name, info in found.tasks.items():
        observation, action = (
            random.standard_normal((4, n), np.float32) for n in (info.observation_dim, info.action_dim)
        )
        reward, step = random.standard_normal(4, np.float32), np.arange(4)
        numbers.append(found.predict_actions(observation, action, reward, step, task_name=name))
    return numbers


def trajectories(path: Path) -> Any:
    (file,) = path.iterdir()
    facts = _trajectories(file)
    if faults := [fault for fault in facts["faults"] if "cut short" not in fault]:  # as a partial file always is
        raise InputFileError(f"{file}: {faults}")
    histories = read_trajectories(file).histories
    return [
        facts["mean_return"],
        *(getattr(h, name) for h in histories for name in ("observation", "action", "reward")),
    ]


def robot(path: Path) -> Any:
    found = load_robot(path / "robot.toml")
    return [getattr(found, name) for name in ("joint_axes", "joint_range_rad", "default_pose_rad", "kp", "kd")]


def described(path: Path) -> Any:
    """As a URDF or MJCF in the place of a robot file, and as what one names."""
    if (path / "made.xml").exists():
        found = survey(path / "made.xml")
        (path / "robot.toml").write_text(found.robot_file())
        simulated_mjcf(path / "made.xml", found.joints)
        return *robot(path), found.kp, found.start_m
    found = survey(path / "robot.urdf")
    return found.kp, found.kd, found.armature, found.start_m, *found.pose_rad


def run(path: Path) -> Any:
    """As `report` and `adapt --resume`."""
    record = read_run(path)
    told = record.finished, record.best, record.zero_shot, record.final_model, record.total("env_steps")
    resumed = Run(config_of_run(path, resume=True))
    with resumed:
        resumed.check()
        resumed.begin()
        told += resumed.current_loop, resumed.best_return, resumed.total("env_steps"), resumed.collected(0)
    return told


def statistics(path: Path) -> Any:
    found = load_checkpoint(GOLDEN)
    name = add_target(found, load_robot("minicheetah"), load_robot("go2"), str, obs_stats=path / "stats.json")
    return [found.tasks[name].obs_mean, found.tasks[name].obs_std]


def options(path: Path) -> Any:
    found = read_pretrain_config(path / "options.toml", data=(path,), output_dir=path / "out")
    return [value for value in found.options().values() if isinstance(value, float)]


def task(path: Path) -> Any:
    """As a step of the default robot in it."""
    found = read_task(path / "task.toml")
    drawn = [(entry.low, entry.high) for entry in found.vary.entries]
    walking = WalkingTask(
        FakeSimulator(load_robot("go2"), 1),
        load_robot("go2"),
        task_config=dataclasses.replace(found, vary=NO_VARIATION),
    )
    return drawn, walking.reset(0, True), walking.step(torch.zeros(1, 12)).reward


# -------------------------------------------------------------------------------------------------- what is changed

GOLDEN = TESTS / "golden/vintix_tiny"
SUBJECTS = (
    Subject("checkpoint", "model.pth", (mutate.mutate_archive, mutate.mutate_state, mutate.mutate_bytes), model),
    Subject("safetensors", "model.safetensors", (mutate.mutate_safetensors, mutate.mutate_bytes), model),
    Subject("checkpoint", "config.json", JSON, model),
    Subject("checkpoint", "metadata.json", JSON, model),
    Subject("final", "t.h5", (mutate.mutate_hdf5, mutate.mutate_bytes), trajectories),
    Subject("partial", "t.h5.partial", (mutate.mutate_hdf5, mutate.mutate_bytes), trajectories),
    Subject("foreign", "t.h5", (mutate.mutate_hdf5,), trajectories),
    Subject("histories", "trajectories_env_0000.json", JSON, lambda path: len(read_histories((path,), 0.0, 0, str))),
    Subject("robot", "robot.toml", TOML, robot),
    Subject("robot", "robot.urdf", TEXT, robot),
    Subject("robot", "robot.urdf", TEXT, described),
    Subject("mjcf", "made.xml", TEXT, described),
    Subject("run", "config.json", JSON, run),
    Subject("run", "state.json", JSON, run),
    Subject("run", "metrics.jsonl", JSON, run),
    Subject("run", "loop_00/loop_00.json", JSON, run),
    Subject("expert", "expert.json", JSON, lambda path: list(load_expert(path)[0].parameters())),
    Subject(
        "expert",
        "expert.pth",
        (mutate.mutate_archive, mutate.mutate_state),
        lambda path: list(load_expert(path)[0].parameters()),
    ),
    Subject("statistics", "stats.json", JSON, statistics),
    Subject("options", "options.toml", TOML, options),
    Subject("task", "task.toml", TOML, task),
)


def config_of_run(out: Path, **given: Any) -> AdaptConfig:
    return small_config(out, GOLDEN, **given)


def make_corpus(corpus: Path) -> None:
    """One sound folder for each that `SUBJECTS` names."""
    save_tiny(corpus / "checkpoint")
    save_checkpoint(load_checkpoint(corpus / "checkpoint"), corpus / "safetensors", weights_format="safetensors")
    names = ("final", "partial", "foreign", "robot", "expert", "statistics", "options", "histories", "mjcf", "task")
    for name in names:
        (corpus / name).mkdir()
    write_random(corpus / "final/t.h5", 3, 40, block_len=16)
    write_random(corpus / "histories/trajectories_env_0000.h5", 1, 40)
    about = {"task_name": "go2_walking_ad", "group_name": "go2_locomotion", "episodes": [[1.0, 3, False]]}
    (corpus / "histories/trajectories_env_0000.json").write_text(json.dumps(about))
    foreign_file(corpus / "foreign/t.h5", [7, 20], surplus=1)
    shutil.copy(corpus / "foreign/t.h5", corpus / "partial/t.h5.partial")
    with mutate.h5py.File(corpus / "partial/t.h5.partial", "r+") as file:
        file.move("0-6", "env_0000_block_0000")
        file.move("7-26", "env_0001_block_0000")
        file.attrs["stream_length"] = np.array([7, 20])

    whole = load_robot("minicheetah-primitive")
    (corpus / "robot/robot.toml").write_text(whole.path.read_text().replace("minicheetah-primitive.urdf", "robot.urdf"))
    shutil.copy(whole.urdf_path, corpus / "robot/robot.urdf")

    stick_mjcf(corpus / "mjcf")

    with Run(config_of_run(corpus / "run")) as begun:
        begun.begin()
        for loop in range(3):
            row = {"loop": loop, "env_steps": 100, "mean_return": 1.5, "eval_return": 2.0 + loop, "accepted": True}
            begun.best = {"loop": loop, "return": 2.0 + loop}
            begun.finish_loop(row, {"step": 0.5})
    shutil.copytree(corpus / "checkpoint", begun.current_dir)
    begun.data_dir(0).mkdir()
    shutil.copy(corpus / "final/t.h5", begun.trajectories(0))
    episode = {"env": 0, "number": 0, "return_": 1.0, "length": 5, "terminated": True, "failed": False}
    begun.collection_file(0).write_text(json.dumps({"collection": {"mean_return": 1.0}, "episodes": [episode] * 3}))

    torch.save(expert_network([8, 4], told=1).state_dict(), corpus / "expert/expert.pth")
    told = {"robot": "go2", "hidden_dims": [8, 4], "told": "payload_kg=0:5"}
    (corpus / "expert/expert.json").write_text(json.dumps(told))
    (corpus / "statistics/stats.json").write_text(json.dumps({"obs_mean": [0.5] * 33, "obs_std": [1.5] * 33}))
    text = 'steps = 100\nlr = 1e-3\nseed = 3\ndevice = "cpu"\n\n[model]\ntransformer_depth = 2\nhidden_dim = 256\n'
    (corpus / "options/options.toml").write_text(text)
    page = (TESTS.parent / "docs/worlds.md").read_text()
    (corpus / "task/task.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])


# --------------------------------------------------------------------------------------------------------- one mutant


def numbers(found: Any) -> Iterator[Any]:
    """Every number below."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list | tuple):
        for part in found:
            yield from numbers(part)
    elif isinstance(found, int | float | np.ndarray | torch.Tensor | np.generic):
        yield found.detach().numpy() if isinstance(found, torch.Tensor) else found


def make(number: int, seed: int, corpus: Path, work: Path) -> Subject:
    """The mutant, in a folder of its subject's name in ``work``."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    chance = random.Random(f"{seed}-{number}")
    shutil.copytree(corpus / subject.folder, work / subject.folder)
    chance.choice(subject.mutations)(chance, work / subject.folder / subject.file)
    return subject


def judge(subject: Subject, folder: Path) -> str:
    """What reading it gives: "accepted", "refused", or the defect in a line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = subject.read(folder)
            if not all(np.isfinite(np.asarray(values, float)).all() for values in numbers(found)):
                return f"accepted with numbers that are not finite: {subject.file}"
    except VintixFastError as error:
        if os.environ.get("SHOW"):
            print(error)
        return (
            "refused" if str(folder) in str(error) else f"{subject.file} refused without its path: {str(error)[:200]}"
        )
    except BaseException as error:
        if os.environ.get("SHOW"):
            traceback.print_exc()
        frames = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if "/vintix_fast/" in f.filename or "cli/" in f.filename
        ]
        where = " ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[-2:])
        return f"{subject.file}: {type(error).__name__}: {str(error).splitlines()[:1]} at {where}"[:300]
    return "accepted"


def in_child(number: int, seed: int, corpus: Path, work: Path) -> tuple[str, str]:
    """Make and judge a mutant in a child process; returns its subject's file and the verdict."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        try:
            make(number, seed, corpus, work)
        except BaseException as error:
            os.write(send, f"the mutation failed: {error!r}"[:500].encode())
            os._exit(0)
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        os.write(send, judge(subject, work / subject.folder).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as said:
        verdict = said.read().decode()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        verdict = f"{subject.file}: " + (f"took longer than {SECONDS} s" if name == "SIGALRM" else f"killed by {name}")
    return subject.file, verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int)
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # a forked child has no others
    os.environ["SHOW"] = "1" if chosen.only is not None else ""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    defects = 0
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    make_corpus(root / "corpus")
    for subject in SUBJECTS:
        verdict = judge(subject, root / "corpus" / subject.folder)
        assert verdict == "accepted", f"{subject.file}, as it is: {verdict}"
    for number in range(chosen.mutants) if chosen.only is None else [chosen.only]:
        work = root / f"mutant-{number}"
        work.mkdir()
        file, verdict = in_child(number, chosen.seed, root / "corpus", work)
        counts[file][verdict if verdict in ("accepted", "refused") else "defect"] += 1
        if verdict not in ("accepted", "refused"):
            defects += 1
            print(f"--seed {chosen.seed} --only {number}: {verdict}", flush=True)
        if chosen.only is None:
            shutil.rmtree(work)
        else:
            print(f"{verdict}: {work}")
    for file, found in counts.items():
        print(f"{file:28} {dict(found)}")
    if chosen.only is None:
        shutil.rmtree(root)
    return int(defects > 0)


if __name__ == "__main__":
    sys.exit(main())
