"""`push` and `pull` with the Hub's own library, against a server on the loopback; nothing else is ever asked."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from commands import tree
from local_hub import LocalHub
from runs import read_rows
from typer.main import get_command

from vintix_fast.cli import app
from vintix_fast.model import fingerprint, load_checkpoint

pytest.importorskip("huggingface_hub", reason="needs vintix-fast[hub]")
# The library reads its variables once, so a child process runs the commands.  Whatever asks another host fails.
CHILD = """
import json, sys
def only_loopback(event, arguments):
    host = arguments[0] if event == "socket.getaddrinfo" else arguments[1] if event == "socket.connect" else "127.0.0.1"
    if "127.0.0.1" not in (host, host[0]):
        print("asked for", host, file=sys.__stderr__, flush=True)
        sys.exit(99)
sys.addaudithook(only_loopback)
from commands import invoke
called = [invoke(*words, columns=400) for words in json.loads(sys.argv[1])]
print(json.dumps([(result.exit_code, result.stdout, result.stderr) for result in called]))
"""


@pytest.fixture
def hub():
    with LocalHub() as server:
        yield server


@pytest.fixture
def call(tmp_path):
    """Run commands with the Hub at ``endpoint`` and its library's folder in the test's own.

    Returns (exit code, standard output, standard error) of each.
    """

    def run(endpoint, *commands, **variables):
        own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_test"}
        own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        words = json.dumps([[str(word) for word in command] for command in commands])
        child = [sys.executable, "-W", "error", "-c", CHILD, words]
        ended = subprocess.run(
            child, env=os.environ | own | variables, capture_output=True, text=True, timeout=120
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout.splitlines()[-1])

    return run


def front(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---\n")[1])


def test_a_run_is_pushed_with_its_results_and_pulled_by_another(hub, call, run_dir, tmp_path):
    pushed, pulled = call(
        hub.endpoint, ("push", run_dir, "me/walker"), ("pull", "me/walker", tmp_path / "deep/model")
    )  # fmt: skip
    assert pushed[0] == pulled[0] == 0, pushed + pulled
    assert f"Pushed: {hub.endpoint}/me/walker" in pushed[1]
    assert hub.created[0]["visibility"] == "private"
    files = hub.repos["me/walker"]
    assert sorted(files) == ["README.md", "config.json", "metadata.json", "model.pth"]
    best = max((row for row in read_rows(run_dir)), key=lambda row: row["eval_return"])
    card = files["README.md"].decode()
    assert f"| after | {best['eval_return']:.2f} ± " in card and "vintix-fast pull me/walker MODEL" in card
    words = re.search(r"vintix-fast (adapt .*)", card)[1].split()
    assert "--robot-type minicheetah" in card and str(run_dir) not in card
    get_command(app).commands["adapt"].make_context("adapt", [*words[1:], "--output-dir", "out"])  # it can be typed
    (result,) = front(files["README.md"])["model-index"][0]["results"]
    assert result["dataset"]["name"] == "minicheetah" and result["metrics"][0]["type"] == "mean_reward"

    assert tree(tmp_path / "deep") == {"model": None} | {f"model/{name}": content for name, content in files.items()}
    models = [load_checkpoint(path) for path in (run_dir / "models/best", tmp_path / "deep/model")]
    assert fingerprint(models[0]) == fingerprint(models[1])
    assert {path for _, path in hub.asked if "walker" not in path} == {"/api/repos/create", "/api/validate-yaml"}


def test_a_bundled_model_s_card_tells_what_was_measured(hub, call, tmp_path):
    pushed, pulled = call(
        hub.endpoint, ("push", "builtin:without-go2", "me/go"), ("pull", "me/go", tmp_path / "go", "--json")
    )  # fmt: skip
    assert pushed[0] == 0 and json.loads(pulled[1]) == {"path": str(tmp_path / "go")}
    card = hub.repos["me/go"]["README.md"].decode()
    for row in ("| go1 | 21.90 ± 0.00 | 1000 | 0/100 |", "| go2, never seen | 0.89 ± 0.01 | 58 | 100/100 |"):
        assert row in card
    assert {r["dataset"]["name"] for r in front(card.encode())["model-index"][0]["results"]} >= {"go1", "go2"}
    assert "card.json" in hub.repos["me/go"]


@pytest.mark.parametrize("variables", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["no-such-host", "told-so"])
def test_offline_is_said_and_nothing_is_left(call, tiny_checkpoint, tmp_path, variables):
    nowhere = "http://127.0.0.1:9"
    commands = (("push", tiny_checkpoint, "me/x"), ("pull", "me/x", tmp_path / "model"))
    for (code, _, said), (word, *_) in zip(call(nowhere, *commands, **variables), commands, strict=True):
        assert code == 1 and f"error: offline: {nowhere} cannot be reached" in said, said
        assert f"so me/x was not {word}ed" in said and "HF_HUB_OFFLINE" in said
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}


def test_what_the_hub_or_the_files_refuse_is_explained(hub, call, tiny_checkpoint, tmp_path):
    sound = {file.name: file.read_bytes() for file in tiny_checkpoint.iterdir()}
    hub.repos["me/broken"] = sound | {"model.pth": sound["model.pth"][:-1000], "evil.py": b"import os"}
    model = tmp_path / "model"
    expected = {
        ("push", tiny_checkpoint, "forbidden/x"): (1, "HTTP 401", "hf auth login"),
        ("pull", "me/absent", model): (1, "HTTP 404", "check the name"),
        ("push", tiny_checkpoint, "a/b/c"): (2, "'a/b/c' is no repository's name"),
        ("push", tmp_path / "nothing", "me/x"): (4, "does not exist"),
        ("pull", "me/x", tiny_checkpoint): (2, "exists and is not an empty directory"),
        ("pull", "me/broken", model): (4, "me/broken on the Hub is no sound model: me/broken/model.pth is broken"),
    }
    for (code, _, said), (expect, *texts) in zip(call(hub.endpoint, *expected), expected.values(), strict=True):
        assert code == expect and all(text in said for text in texts), said
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}
    assert not any("evil" in path for _, path in hub.asked)
