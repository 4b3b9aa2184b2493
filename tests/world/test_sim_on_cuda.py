"""The real simulator on a GPU, in a process of its own: the first scene of a process decides where all of them run."""

import pytest
import torch
from fakes import ACTIONS
from interpreter import run_python

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.genesis,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
NUM_ENVS = 4


def check_scene(out):
    from test_sim import a_loop_of_adapt_runs_beside_it

    from vintix_fast.world.robot import load_robot
    from vintix_fast.world.simulator import RobotState, Simulator
    from vintix_fast.world.task import WalkingTask
    from vintix_fast.world.views import read_publicly

    sim = Simulator(load_robot("minicheetah"), NUM_ENVS, "cuda")
    assert sim._views is not None, "Genesis' arrays are no longer where views.py looks for them: it runs, but slower"

    short, generator = WalkingTask(sim, sim.robot, 7), torch.Generator().manual_seed(0)
    rows, ended = [short.reset(2, random_starts=True)], 0
    for _ in range(20):
        result = short.step(torch.randn(NUM_ENVS, ACTIONS, generator=generator).cuda())
        ended += int(result.done.sum())
        state, public = sim.state(), RobotState(*read_publicly(sim._entity, sim._dofs))
        for name in state._fields:
            torch.testing.assert_close(getattr(state, name), getattr(public, name), atol=1e-3, rtol=1e-3)
        rows.append(result.observation)
    assert ended >= 2 * NUM_ENVS and torch.stack(rows).isfinite().all()
    a_loop_of_adapt_runs_beside_it(sim, out)


def test_a_robot_in_its_scene(tmp_path):
    run_python(f"import pathlib, test_sim_on_cuda as t; t.check_scene(pathlib.Path({str(tmp_path / 'run')!r}))")
