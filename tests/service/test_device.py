"""One GPU of several by its number."""

import os

import pytest
import torch
from commands import invoke, spoken

from vintix_fast import adaptation


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(("visible", "seen"), [(None, "1"), ("4,6", "6"), ("GPU-a,GPU-b", "GPU-b")])
def test_a_numbered_gpu_is_the_only_one_that_the_process_sees(two_gpus, monkeypatch, tmp_path, visible, seen):
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    given = []
    monkeypatch.setattr(adaptation, "adapt", lambda config, progress: given.append(config))
    invoke("adapt", "--robot-type", "go2", "--output-dir", tmp_path / "out", "--device", "cuda:1")
    assert given[0].engine.device == "cuda"  # a run may go on on another one
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_a_gpu_that_torch_does_not_see_is_refused(two_gpus, tmp_path):
    out = f"--output-dir {tmp_path / 'out'}"
    for command in (f"adapt --robot-type go2 {out}", "eval", f"pretrain --data x {out}", "bench", "profile", "demo"):
        result = invoke(*command.split(), "--device", "cuda:2")
        assert result.exit_code == 2, result.stderr
        said = spoken(result.stderr)
        assert "'cuda:2'; it must be one of cpu, cuda, cuda:0, cuda:1 (torch finds 2 CUDA devices here)" in said
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
