"""The benchmarks for a GPU alone say where there is none, and end with one JSON line where there is."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
cuda_step, cuda_attention = (importlib.import_module(name) for name in ("cuda_step", "cuda_attention"))


@pytest.mark.parametrize("benchmark", [cuda_step, cuda_attention], ids=lambda module: module.__name__)
def test_without_cuda_it_says_so(monkeypatch, benchmark):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmark"])
    with pytest.raises(SystemExit, match="no CUDA device"):
        benchmark.main()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_figures_of_a_small_run(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cuda_step.py", "--num-envs", "33", "--context-len", "100"])
    cuda_step.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures["cache"]) == {"float32", "int8"}
    assert all(cache["host_waits_per_step"] == 0 for cache in figures["cache"].values())
