"""Pretraining by two processes: the same curve as by one, whoever is killed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from histories_on_disk import NO_DROPOUT, TINY_MODEL, config
from runs import read_state

from vintix_fast.pretrain.pretrain import pretrain
from vintix_fast.pretrain.ranks import Ranks
from vintix_fast.service.errors import UsageError

pytestmark = pytest.mark.usefixtures("plots_are_empty")
SCRIPT = str(Path(__file__).with_name("one_rank.py"))
OPTIONS = {"bf16": False, "batch_size": 5, "model": TINY_MODEL | NO_DROPOUT, "reward_dropout": 0.5}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data):
    """The training by one process; not to be written to."""
    out = tmp_path_factory.mktemp("alone") / "run"
    return out, pretrain(config(out, data, **OPTIONS))


def assert_same_curve(card, out, alone):
    """Up to the order of float32 sums: losses to 1e-5; weights to 5e-5, where Adam moves each by up to 3e-3 a step."""
    folder, expected = alone
    for row, other in zip(card["rows"], expected["rows"], strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - {"tokens_per_s"}:
            np.testing.assert_allclose(row[key], other[key], rtol=1e-5, err_msg=key)
    weights, others = read_state(out / "model"), read_state(folder / "model")
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=1e-4, atol=5e-5)
    assert card["tokens"] == expected["tokens"]


def test_two_ranks_learn_what_one_does(tmp_path, data, alone):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, SCRIPT, out, "0", *data], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert_same_curve(json.loads((out / "pretrain.json").read_text()), out, alone)


def test_a_killed_rank_ends_the_others_and_one_process_goes_on(tmp_path, data, alone):
    out = tmp_path / "run"
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, SCRIPT, out, "3", *data], stderr=subprocess.PIPE, text=True,
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
        )
        for rank in "01"
    ]  # fmt: skip
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, -9]
    assert "another of the 2 ranks ended" in said[0] and "--resume" in said[0] and "Traceback" not in said[0]
    assert not (out / "pretrain.json").exists()
    card = pretrain(config(out, data, resume=True, **OPTIONS))
    assert len(card["rows"]) == 3
    assert_same_curve(card, out, alone)


def test_every_rank_needs_a_window_and_a_gpu(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="3 windows for 4 ranks; give a larger --batch-size"):
        Ranks("cpu").check_batches(3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="rank 3 of this machine has no GPU, torch finds 1"):
        Ranks("cuda")
