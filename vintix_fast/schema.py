"""Names, shapes and types of what goes to disk in ``trajectories.h5``.

Owns the format; knows nothing about who writes or reads it.  Each HDF5 group ``<first>-<last>`` holds the fields
below for a contiguous run of transitions; the first four are what public readers of this format need, the rest are
extra datasets that they ignore.
"""

import numpy as np

OBSERVATION_DIM = 33
ACTION_DIM = 12
BLOCK_LEN = 1000
"""Most transitions in one HDF5 group."""

REQUIRED_FIELDS: dict[str, tuple[tuple[int, ...], np.dtype]] = {
    "proprio_observation": ((OBSERVATION_DIM,), np.dtype("float32")),  # what the policy saw
    "action": ((ACTION_DIM,), np.dtype("float32")),  # what it did
    "reward": ((), np.dtype("float32")),  # what it got for it
    "step_num": ((), np.dtype("int32")),  # step within the episode, from 0
}
EXTRA_FIELDS: dict[str, tuple[tuple[int, ...], np.dtype]] = {
    "mean_action": ((ACTION_DIM,), np.dtype("float32")),  # the policy's action before exploration noise
    "terminated": ((), np.dtype("uint8")),  # the robot fell: no value after this step
    "truncated": ((), np.dtype("uint8")),  # the episode's time ran out
    "failed": ((), np.dtype("uint8")),  # the simulation produced a state that is not finite
}
FIELDS = REQUIRED_FIELDS | EXTRA_FIELDS
RETIRED_FIELDS = ("noise",)
"""In older files: ``action - mean_action``, which readers leave out."""
DEMONSTRATOR = "demonstrator_action"
"""``mean_action`` in files of an expert's, as Vintix II calls it; readers know it as ``mean_action``."""
