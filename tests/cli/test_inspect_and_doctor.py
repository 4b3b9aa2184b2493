"""`inspect`, `models` and `doctor`: what is in a file or checkpoint, and whether everything is installed."""

import ctypes
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
from commands import invoke, last_json

from vintix_fast.cli import doctor
from vintix_fast.config import AdaptConfig
from vintix_fast.data import open_writer
from vintix_fast.data.schema import FIELDS
from vintix_fast.service.bundled import BUILTIN_CHECKPOINT

GOLDEN = Path(__file__).parents[1] / "golden" / "vintix_tiny"


def collect(path: Path, close: bool = True, reward: float = 0.5) -> Path:
    """Two environments of three steps; returns the file that there is then."""
    writer = open_writer(path, 2, {"robot": "go2", "seed": 5})
    for step in range(3):
        rows = {name: np.zeros((2, *shape), dtype) for name, (shape, dtype) in FIELDS.items()}
        rows["reward"][:], rows["step_num"][:] = reward, step
        writer.append(rows, np.ones(2, bool))
    writer.close() if close else writer.abort()
    return path if close else path.with_name(path.name + ".partial")


def test_inspect_reports_the_bundled_checkpoint():
    result = invoke("inspect", BUILTIN_CHECKPOINT)
    assert result.exit_code == 0
    assert "sound: True\nparameters: 1711628\n" in result.stdout
    assert "  go1_locomotion: 239961\n" in result.stdout
    facts = last_json(invoke("inspect", f"builtin:{BUILTIN_CHECKPOINT.name}", "--json"))
    assert facts["sound"] is True and facts["config"]["token_order"] == "action-reward-observation"


def test_a_reader_that_has_enough_is_no_failure():
    """As `head`: of a table, of JSON, and of what Python writes at its end."""
    run = [sys.executable, "-c", "from vintix_fast.cli import main; main()"]
    closed, pipe = os.pipe()
    os.close(closed)
    started = [
        subprocess.Popen([*run, *words.split()], stdout=pipe, stderr=subprocess.PIPE, encoding="utf-8")
        for words in ("models", "models --json", "options")
    ]
    os.close(pipe)
    for process in started:
        said = process.communicate()[1]
        assert process.returncode == 0 and "roken" not in said and "Traceback" not in said


def test_models_lists_what_pretrained_path_takes():
    listed = last_json(invoke("models", "--json"))
    plain = [f"without-{robot}" for robot in ("a1", "go1", "go2", "minicheetah")]
    assert list(listed) == ["commands", *plain, "worlds"]
    for name, card in listed.items():
        assert AdaptConfig("go2", "out", pretrained_path=f"builtin:{name}").pretrained_path == Path(card["path"])
        assert card["bytes"] < 3e6
        unseen = [robot for robot, found in card["returns"].items() if not found["seen"]]
        assert unseen == [name.removeprefix("without-") if name in plain else "minicheetah"]
    assert "Default: builtin:without-minicheetah" in invoke("models").stdout


def test_models_shows_returns_with_their_standard_errors(monkeypatch):
    found = {"late_return": 20.25, "seen": True}
    returns = {"go1": found | {"late_standard_error": 0.125}, "go2": found | {"seen": False}}
    card = {"path": "/x", "bytes": 2_500_000, "returns": returns}
    monkeypatch.setattr(importlib.import_module("vintix_fast.cli.models"), "bundled_models", lambda: {"mine": card})
    text = " ".join(invoke("models").stdout.split())
    assert "builtin:mine 20.2 ±.12 20.2 * 2.5" in text and "± standard error" in text


def test_inspect_reports_trajectories(tmp_path):
    path = collect(tmp_path / "trajectories.h5")
    result = invoke("inspect", path)
    assert result.exit_code == 0
    assert "sound: True\nfaults: none\ntransitions: 6\nenvironments: 2\nepisodes: 2\nmean return: 1.5" in result.stdout
    facts = last_json(invoke("inspect", path, "--json"))
    assert facts["mean_episode_length"] == 3 and facts["attributes"]["robot"] == "go2"


def test_inspect_finds_older_files_sound(tmp_path):
    path = collect(tmp_path / "trajectories.h5")
    now = last_json(invoke("inspect", path, "--json"))
    with h5py.File(path, "r+") as file:
        for group in file.values():
            group["noise"] = np.zeros_like(group["action"])
    assert last_json(invoke("inspect", path, "--json")) == now and now["sound"]


def test_inspect_reports_what_is_unsound(tmp_path):
    partial = invoke("inspect", collect(tmp_path / "partial.h5", close=False), "--json")
    assert partial.exit_code == 4
    facts = last_json(partial, exit_code=4)
    assert facts["sound"] is False and "cut short" in facts["faults"][0] and facts["transitions"] == 6

    diverged = invoke("inspect", collect(tmp_path / "nan.h5", reward=float("nan")), "--json")
    assert diverged.exit_code == 4
    assert last_json(diverged, exit_code=4)["mean_return"] is None
    assert "reward: 6 values are NaN or infinite" in diverged.stderr

    path = collect(tmp_path / "short.h5")
    path.write_bytes(path.read_bytes()[:-2000])
    short = invoke("inspect", path, "--json")
    assert (short.exit_code, short.stdout) == (4, "") and "short.h5: not an HDF5 file, or a truncated" in short.stderr


def test_inspect_accepts_any_attributes(tmp_path):
    path = collect(tmp_path / "trajectories.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["command"] = np.array([0.5, np.nan], np.float32)
    assert last_json(invoke("inspect", path, "--json"))["attributes"]["command"] == [0.5, None]


def test_doctor_passes_here():
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    assert (
        "FAIL" not in result.stdout
        and "ok   bundled checkpoints: commands (3 robots), without-a1 (3 robots)" in result.stdout
    )
    assert all(check["ok"] for check in last_json(invoke("doctor", "--json")).values())


def test_doctor_names_what_fails(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: name != "genesis" and found(name, *rest) or None
    )
    monkeypatch.setattr(doctor, "_egl", lambda: 1 / 0)
    result = invoke("doctor", "--json")
    assert result.exit_code == 1
    checks = last_json(result, exit_code=1)
    assert not checks["Genesis"]["ok"] and "division" in checks["EGL"]["detail"]
    assert "FAIL Genesis: not installed: pip install" in result.stderr


def test_doctor_says_how_to_get_egl(monkeypatch, tmp_path):
    def egl(exit_code=0) -> dict:
        return last_json(invoke("doctor", "--json"), exit_code)["EGL"]

    monkeypatch.setattr(doctor, "sys", SimpleNamespace(platform="linux", version_info=sys.version_info))
    monkeypatch.setattr(doctor, "ctypes", SimpleNamespace(CDLL=lambda name: name))
    monkeypatch.setattr(doctor, "EGL_VENDORS", (tmp_path / "none", tmp_path))
    without_vendor = egl(exit_code=1)
    assert not without_vendor["ok"] and f"no driver in {tmp_path / 'none'} or {tmp_path}" in without_vendor["detail"]
    (tmp_path / "50_mesa.json").touch()
    assert egl() == {"ok": True, "detail": "50_mesa"}

    monkeypatch.setattr(doctor, "ctypes", ctypes)
    monkeypatch.setattr(doctor, "EGL", "libnowhere.so.1")
    without_library = egl(exit_code=1)
    assert not without_library["ok"] and without_library["detail"].startswith("libnowhere.so.1: ")
    assert all("apt-get install libegl1" in found["detail"] for found in (without_vendor, without_library))

    monkeypatch.setattr(doctor, "sys", SimpleNamespace(platform="darwin", version_info=sys.version_info))
    assert egl()["ok"]
