"""Recorded episodes as a data set of Minari's, written by its own library.

What a step's observation leads to is the next one's.  The last of an episode is not recorded, so it is repeated.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from minari import MinariDataset, __version__
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from vintix_fast.gym import env_spec, single_spaces
from vintix_fast.sharing.episodes import RecordedEpisode, Recordings

DESCRIPTION = (
    "Episodes of a quadruped that is to walk, collected by vintix-fast. infos: mean_action is the policy's action "
    "before exploration noise. The observation after an episode's last step is not recorded: the one before it is "
    "repeated. An episode that the collection's end cut counts as truncated."
)


def write_minari(recordings: Recordings, root: Path) -> str:
    """Write a data set below ``root``, which MINARI_DATASETS_PATH is to name, and say how it is opened."""
    name = f"vintix-fast/{recordings.robot}-walk-v0"
    path = root / name / "data"
    path.mkdir(parents=True)
    (root / "vintix-fast" / "namespace_metadata.json").write_text("{}\n")
    observation, action = single_spaces(recordings.layout, recordings.task)
    spec = env_spec(recordings.robot, recordings.task)
    storage = MinariStorage.new(path, observation, action, spec, data_format="hdf5")
    about = {"dataset_id": name, "minari_version": __version__, "description": DESCRIPTION}
    storage.update_metadata(about | {"algorithm_name": "vintix-fast", "author": {"vintix-fast"}})
    storage.update_episodes(_buffer(number, episode) for number, episode in enumerate(recordings))
    dataset = MinariDataset(storage)
    return (
        f"{dataset.total_episodes} episodes, {dataset.total_steps} steps. MINARI_DATASETS_PATH={{}} names it, "
        f"minari.load_dataset({name!r}) opens it"
    )


def _buffer(number: int, episode: RecordedEpisode) -> EpisodeBuffer:
    def and_last(column: np.ndarray) -> np.ndarray:
        return np.concatenate([column, column[-1:]])

    return EpisodeBuffer(
        id=number,
        observations=and_last(episode.observation),
        actions=episode.action,
        rewards=episode.reward,
        terminations=episode.terminated,
        truncations=episode.truncated,
        infos={"mean_action": and_last(episode.mean_action), "failed": and_last(episode.failed)},
    )
