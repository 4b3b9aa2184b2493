"""The benchmark of the policy's step on a GPU says where there is none, and ends with one JSON line where there is."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
cuda_step = importlib.import_module("cuda_step")


def test_without_cuda_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["cuda_step.py"])
    with pytest.raises(SystemExit, match="no CUDA device"):
        cuda_step.main()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_figures_of_a_small_run(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cuda_step.py", "--num-envs", "33", "--context-len", "100"])
    cuda_step.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures["cache"]) == {"float32", "bfloat16", "int8"}
    assert all(cache["host_waits_per_step"] == 0 for cache in figures["cache"].values())
