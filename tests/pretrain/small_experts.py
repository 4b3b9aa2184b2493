"""Small trainings of experts, in the fake simulator."""

import torch
from fakes import ACTIONS, FakeSimulator

from vintix_fast.pretrain.config import ExpertConfig
from vintix_fast.pretrain.expert import train_expert
from vintix_fast.world.robot import load_robot

SMALL = dict(
    robot_type="go2", num_envs=4, iterations=3, steps_per_iteration=4, hidden_dims=(8,), eval_episodes=4,
    max_steps_per_episode=10, save_interval=1,
)  # fmt: skip


def train(out, *, progress=None, **options):
    config = ExpertConfig(output_dir=out, **(SMALL | options))
    simulator = FakeSimulator(load_robot(config.robot_type), config.num_envs)
    return train_expert(config, simulator=simulator, progress=progress)


def read(path):
    return torch.load(path, weights_only=True)


def assert_same_expert(left, right):
    a, b = read(left / "expert.pth"), read(right / "expert.pth")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Recorder(torch.nn.Module):
    """In an expert network's place: keeps what it is shown, and acts by a formula."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __getitem__(self, layer):
        """The last layer, which says how many actions there are."""
        return torch.nn.Linear(1, ACTIONS)

    def forward(self, observation):
        self.seen.append(observation.clone())
        return 0.1 * observation[:, :ACTIONS] + 0.5
