"""``--wandb``: each loop's numbers in W&B's own file, offline, and one run of W&B for a run that is resumed."""

import json
import struct
import subprocess
import sys

import pytest
from commands import invoke, spoken
from fakes import FakeSimulator, save_tiny
from runs import SMALL, read_rows

from vintix_fast.service.metrics import SCALARS

pytest.importorskip("wandb", reason="needs vintix-fast[wandb]")


def records(path):
    """The messages of a .wandb file, read with the library's own protocol buffers.

    The frame is LevelDB's log: blocks of 32 KiB, in each chunks of checksum, length and kind (whole, first, ..., last).
    """
    from wandb.proto import wandb_internal_pb2

    content, at, message = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        message += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            yield record
            message = b""


def logged(folder):
    """(id of the run, rows) of each W&B run below, oldest first."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime):
        rows = []
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
        found.append((path.stem.removeprefix("run-"), rows))
    return found


def words(tmp_path, **options):
    named = {"pretrained_path": tmp_path / "checkpoint", "output_dir": tmp_path / "out"} | SMALL | options
    named.pop("bf16")
    spelt = [word for name, value in named.items() for word in (f"--{name.replace('_', '-')}", value)]
    return ["adapt", *spelt, "--no-bf16", "--wandb", "quadrupeds"]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr("vintix_fast.world.simulators.Simulator", lambda robot, envs, *rest: FakeSimulator(robot, envs))
    for name, value in (("MODE", "offline"), ("DIR", tmp_path), ("CONFIG_DIR", tmp_path), ("CACHE_DIR", tmp_path)):
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    save_tiny(tmp_path / "checkpoint")


def test_each_loop_is_logged_and_a_resumed_run_goes_on_under_its_name(offline, tmp_path):
    result = invoke(*words(tmp_path, num_improvement_loops=1))
    assert result.exit_code == 0, result.output
    (first, rows), *others = logged(tmp_path)
    assert not others and len(rows) == 2
    result = invoke(*words(tmp_path, num_improvement_loops=2), "--resume")
    assert result.exit_code == 0, result.output
    again = logged(tmp_path)
    assert [name for name, _ in again] == [first, first]
    rows += again[1][1]
    kept = read_rows(tmp_path / "out")
    assert len(rows) == len(kept) == 3
    for row, shown in zip(kept, rows, strict=True):
        assert shown["_step"] == row["total_env_steps"]
        for key, tag in SCALARS.items():
            assert shown.get(tag) == row.get(key), tag


def test_a_run_that_cannot_be_begun_leaves_none_at_wandb(offline, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    result = invoke(*words(tmp_path))
    assert result.exit_code == 2 and "holds no run" in spoken(result.stderr)
    assert logged(tmp_path) == []


def test_without_the_option_it_is_not_imported():
    code = "import vintix_fast.adaptation, vintix_fast.cli, sys; assert 'wandb' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
