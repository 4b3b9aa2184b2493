"""Reading an expert, and what one that was trained in worlds that differ is told of them."""

import json
import os
import shutil

import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, FakeSimulator
from small_experts import Recorder, train

from vintix_fast.policy.expert import ExpertPolicy, expert_network, load_expert, told_of, trained_in
from vintix_fast.pretrain.expert import ExpertTask
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.service.files import write_json
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task import WalkingTask
from vintix_fast.world.task_config import TaskConfig
from vintix_fast.world.variation import Variation

# -- worlds that differ ------------------------------------------------------------------------------------------------

WORLDS = "payload_kg=0:5, motor=0.8:1, motor.any_leg=0.5:1, friction=0.5, locked.any_calf=0.5"
"""Fourteen values: of friction there is nothing to be told."""


@pytest.fixture(scope="module")
def told_expert(tmp_path_factory):
    out = tmp_path_factory.mktemp("told") / "expert"
    train(out, vary=WORLDS)
    return out


def test_an_expert_of_worlds_that_differ_knows_them_and_its_card_says_so(told_expert):
    network, card = load_expert(told_expert)
    assert network[0].in_features == OBSERVATIONS + ACTIONS + 1 + 12 + 12
    assert trained_in(card) == Variation.parse(WORLDS)


def test_ppo_and_the_expert_see_the_values_of_the_running_episodes(go2):
    """Scaled to their ranges, after what a plain expert sees."""
    vary = Variation.parse(WORLDS)
    task = WalkingTask(
        FakeSimulator(go2, 3, fall_after=(2, 50, 50)), go2, max_steps=9, task_config=TaskConfig(vary=vary)
    )
    env, network = ExpertTask(task, seed=1), Recorder()
    policy = ExpertPolicy(network, 3, told=told_of(vary, task))
    seen = []
    for _ in range(3):
        seen.append(env.get_observations()["policy"][:, OBSERVATIONS + ACTIONS :])
        policy.act(torch.zeros(3, OBSERVATIONS), task.step_num)
        assert torch.equal(network.seen[-1][:, OBSERVATIONS + ACTIONS :], seen[-1])
        payload, motor, locked = seen[-1].split([1, 12, 12], dim=1)
        physics = task.drawn.physics()
        torch.testing.assert_close(2.5 * (payload[:, 0] + 1.0), physics.payload[:, 0])
        torch.testing.assert_close(0.4 + 0.3 * (motor + 1.0), physics.torque)  # 0.8 x 0.5 at least
        assert torch.equal(locked > 0, physics.locked) and locked.abs().eq(1.0).all()
        env.step(torch.zeros(3, ACTIONS))
    fell, others = (seen[1][0] != seen[2][0]).any(), seen[1][1:] == seen[2][1:]
    assert fell and others.all()  # another episode, another world


def test_what_a_world_does_not_vary_is_as_the_robot_has_it(go2):
    trained = Variation.parse("payload_kg=1:3, motor=0.5:1, latency_steps=0:2, limp.any_joint=0.1")
    told = told_of(trained, WalkingTask(FakeSimulator(go2, 2), go2))
    assert told().shape == (2, 1 + 12 + 1 + 12)
    assert told()[0].tolist() == [-2.0] + [1.0] * 12 + [-1.0] + [-1.0] * 12
    with pytest.raises(UsageError, match="trained with base_mass_kg varied"):
        told_of(Variation.parse("base_mass_kg=5:6"), WalkingTask(FakeSimulator(go2, 2), go2))


@pytest.mark.parametrize("told", [7, "payload=3", "payload_kg=0:5, motor=0.5:1"])
def test_a_card_that_does_not_fit_its_weights_is_refused(told_expert, tmp_path, told):
    out = shutil.copytree(told_expert, tmp_path / "expert")
    card = json.loads((out / "expert.json").read_text())
    write_json(out / "expert.json", card | {"told": told})
    with pytest.raises(InputFileError, match="expert .* is broken"):
        load_expert(out)


# -- loading an expert -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "named"),
    [(["expert.pth"], "lacks expert.pth;"), (["expert.json"], "lacks expert.json;"),
     (["expert.pth", "expert.json"], "lacks expert.pth, expert.json;")],
)  # fmt: skip
def test_an_incomplete_expert_is_refused(tiny_expert, lost, named):
    for name in lost:
        (tiny_expert / name).unlink()
    with pytest.raises(InputFileError, match=f"{named}.*vintix-fast expert"):
        load_expert(tiny_expert)


def test_an_expert_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputFileError, match="expert .*nowhere lacks expert.pth, expert.json"):
        load_expert(tmp_path / "nowhere")


class Bomb:
    """Pickled, a call that writes a file where it is unpickled."""

    def __reduce__(self):
        return open, ("exploded", "w")


BROKEN = {
    "truncated-weights": ("expert.pth", lambda path: os.truncate(path, 200)),
    "no-weights": ("expert.pth", lambda path: os.truncate(path, 0)),
    "a-pickled-call": ("expert.pth", lambda path: torch.save({"0.weight": Bomb()}, path)),
    "weights-of-another-size": ("expert.pth", lambda path: torch.save(expert_network([9]).state_dict(), path)),
    "no-json": ("expert.json", lambda path: path.write_text('{"robot": "go2"')),
    "no-object": ("expert.json", lambda path: path.write_text("[]")),
    "no-robot": ("expert.json", lambda path: path.write_text('{"hidden_dims": [8]}')),
    "no-widths": ("expert.json", lambda path: path.write_text('{"robot": "go2"}')),
    "no-numbers": ("expert.json", lambda path: path.write_text('{"robot": "go2", "hidden_dims": ["8"]}')),
}


@pytest.mark.parametrize(("file", "damage"), BROKEN.values(), ids=BROKEN)
def test_a_broken_expert_is_refused(tiny_expert, tmp_path, monkeypatch, file, damage):
    monkeypatch.chdir(tmp_path)
    damage(tiny_expert / file)
    with pytest.raises(InputFileError, match="expert.* is broken .*train it again"):
        load_expert(tiny_expert)
    assert not (tmp_path / "exploded").exists()


def test_an_expert_of_another_robot_is_refused(tiny_expert):
    with pytest.raises(UsageError, match="is an expert of go2, not of go1; give --robot-type go2"):
        load_expert(tiny_expert, load_robot("go1"))
    load_expert(tiny_expert, load_robot("go2"))
