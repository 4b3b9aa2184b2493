"""`vintix-fast bench` in the fake simulator: what it prints, draws and refuses."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
from fakes import TINY, FakeSimulator
from typer.testing import CliRunner

from vintix_fast.benchmarks import collection, machine
from vintix_fast.cli import app
from vintix_fast.service import memory

NUMBERS = (
    "collection_steps_per_s", "bare_simulator_steps_per_s", "plain_steps_per_s", "task_fraction",
    "writer_wait_fraction", "decode_bandwidth_fraction", "cache_bytes_per_env",
)  # fmt: skip
SMALL = ("--steps", 12, "--repeats", 1, "--plain-steps", 2, "--writer-steps", 20)


@pytest.fixture
def bench(monkeypatch, tmp_path, tiny_checkpoint):
    """Runs the command with these words in an empty folder, contexts of 8 and 64."""
    built = []

    def simulator(robot, num_envs, device, say):
        built.append(num_envs)
        return FakeSimulator(robot, num_envs)

    monkeypatch.setattr(collection, "Simulator", simulator)
    monkeypatch.setattr(collection, "SHORT_CONTEXT", 8)
    monkeypatch.setattr(machine, "BYTES", 2**20)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        of_collection = () if "--training" in words else ("--pretrained-path", tiny_checkpoint, *SMALL)
        words = ("bench", *of_collection, *words)
        return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "80"})

    run.built = built
    return run


def test_json_has_every_settings_numbers_and_the_main_ones_on_top(bench):
    result = bench("--num-envs", "2,64", "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    content = json.loads(result.stdout, parse_constant=pytest.fail)
    settings = content["settings"]
    assert [(s["num_envs"], s["context_len"]) for s in settings] == [(2, 8), (2, 64), (64, 8), (64, 64)]
    for numbers in (content, *settings):
        assert all(numbers[name] is not None and numbers[name] >= 0 for name in NUMBERS)
        assert numbers["collection_times_plain"] == pytest.approx(
            numbers["collection_steps_per_s"] / numbers["plain_steps_per_s"]
        )
        assert numbers["decode_bandwidth_fraction"] == pytest.approx(
            numbers["read_bytes_per_step"] / numbers["decode_seconds"] / numbers["bandwidth_bytes_per_s"]
        )
    assert {name: content[name] for name in settings[3]} == settings[3]
    assert content["device"] == "cpu" and content["threads"] >= 1 and "torch" in content["versions"]
    assert content["writer"]["core_mb_per_s"] > 0
    assert bench.built == [1, 2, 64]  # the plain way has one environment


def test_tables_and_picture(bench, tmp_path):
    result = bench("--num-envs", "1 2", "--png", "speed.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["speed.png"]
    for words in ("bare simulator", r"\+ task", r"\+ policy", r"\+ writer", "h5py, synchronous", "times the plain way"):
        assert re.search(words, result.stdout)
    assert bench.built == [1, 2]


def test_parts_can_be_left_out(bench):
    result = bench("--num-envs", 2, "--plain-steps", 0, "--writer-steps", 0, "--context-len", 8, "--json")
    content = json.loads(result.stdout)
    assert bench.built == [2] and len(content["settings"]) == 1
    assert "plain_steps_per_s" not in content and "writer" not in content


def test_the_plain_engine_is_measured_when_asked_for(bench):
    words = ("--num-envs", 2, "--plain-steps", 0, "--writer-steps", 0, "--context-len", 8, "--engine", "torch")
    content = json.loads(bench(*words, "--json").stdout)
    # Float32 keys and values of 8 steps in each layer, of which it reads all.
    assert content["cache_bytes_per_env"] == 2 * TINY.transformer_depth * 8 * TINY.hidden_dim * 4
    assert content["read_bytes_per_step"] == 2 * content["cache_bytes_per_env"]
    assert content["decode_bandwidth_fraction"] > 0


def test_too_many_environments_for_the_memory_are_refused(bench, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10_000_000)
    result = bench("--num-envs", "2,64")
    assert result.exit_code == 2 and "--num-envs 64 needs" in result.stderr and bench.built == []


def test_training_is_measured_when_asked_for(bench, monkeypatch):
    asked = {}
    row = {"name": "plain", "tokens_per_s": 7.0, "ratio": 1.0, "step_s": 2.0, "matmul_peak_fraction": 0.5}
    numbers = {"rows": [row], "batch_size": 4, "window_len": 64, "seconds_1000_steps": 9.0, "peak_memory_bytes": None}
    training = SimpleNamespace(measure=lambda **options: asked.update(options) or numbers)
    monkeypatch.setitem(sys.modules, "vintix_fast.benchmarks.training", training)
    content = json.loads(bench("--context-len", 64, "--training", "--json").stdout)
    assert content.items() >= numbers.items() and asked["window_len"] == 64
    assert bench.built == []  # needs no simulator


def test_every_row_of_training_is_measured():
    from vintix_fast.benchmarks.training import measure

    found = measure(batch_size=1, window_len=64, steps=1, plain_steps=1)
    rows = found["rows"]
    assert len(rows) >= 5 and rows[0]["ratio"] == 1.0 and rows[-1]["name"] == "decoder only"
    assert all(row["tokens_per_s"] == pytest.approx(64 / row["step_s"]) for row in rows)
    assert found["plain_tokens_per_s"] == rows[0]["tokens_per_s"]
    assert found["decoder_only_tokens_per_s"] == rows[-1]["tokens_per_s"]
    assert found["peak_memory_bytes"] > 0


@pytest.mark.parametrize(
    "words", [("--engine", "torch"), ("--num-envs", 64), ("--plain-steps", 0), ("--png", "speed.png")], ids=str
)
def test_options_of_collection_mean_nothing_to_training(bench, words):
    result = bench("--training", *words)
    assert result.exit_code == 2 and f"{words[0]} {words[1]} means nothing to --training" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--num-envs", "1,two"), ("--num-envs", "0"), ("--num-envs", ""), ("--num-envs", "9000"), ("--steps", 9),
        ("--steps", 1001), ("--device", "tpu"), ("--context-len", 65), ("--context-len", 0), ("--repeats", 0),
        ("--png", "no/such/folder.png"),
    ],
)  # fmt: skip
def test_bad_options_name_themselves(bench, words):
    result = bench(*words)
    assert result.exit_code == 2 and words[0] in result.stderr
    assert bench.built == []


@pytest.mark.parametrize(
    "words",
    [
        ("--engine", "jax"), ("--cache-dtype", "float16"), ("--dropped-mass", 0.6),
        ("--cache-dtype", "int8", "--engine", "torch"), ("--dropped-mass", 0.1, "--engine", "torch"),
    ],
)  # fmt: skip
def test_bad_engine_options_are_refused_before_the_checkpoint_is_read(bench, words):
    result = bench(*words, "--pretrained-path", "no/such/folder")  # exit code 4
    assert result.exit_code == 2 and words[0] in result.stderr
