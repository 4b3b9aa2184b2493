"""Names, shapes and types of what goes to disk in ``trajectories.h5``.

Owns the format; knows nothing about who writes or reads it.  Each HDF5 group ``<first>-<last>`` holds the fields
below for a contiguous run of transitions; the first four are what public readers of this format need, the rest are
extra datasets that they ignore.
"""

import numpy as np

from vintix_fast.world.layout import QUADRUPED, ObservationLayout

Fields = dict[str, tuple[tuple[int, ...], np.dtype]]
BLOCK_LEN = 1000
"""Most transitions in one HDF5 group."""
VARIATION = "variation"
"""What differs from the nominal robot in the step's episode; the file's attribute of this name says what each is."""


def fields(layout: ObservationLayout, varied: int = 0) -> Fields:
    """Name -> shape of one transition and type, for robots of this layout of which ``varied`` values differ."""
    vector = (layout.num_joints,), np.dtype("float32")
    values: Fields = {VARIATION: ((varied,), np.dtype("float32"))} if varied else {}
    return {
        "proprio_observation": ((layout.size,), np.dtype("float32")),  # what the policy saw
        "action": vector,  # what it did
        "reward": ((), np.dtype("float32")),  # what it got for it
        "step_num": ((), np.dtype("int32")),  # step within the episode, from 0
        "mean_action": vector,  # the policy's action before exploration noise
        "terminated": ((), np.dtype("uint8")),  # the robot fell: no value after this step
        "truncated": ((), np.dtype("uint8")),  # the episode's time ran out
        "failed": ((), np.dtype("uint8")),  # the simulation produced a state that is not finite
    } | values


FIELDS = fields(QUADRUPED)
"""Those of the bundled robots."""
REQUIRED_FIELDS = ("proprio_observation", "action", "reward", "step_num")
"""The rest are extras."""
RETIRED_FIELDS = ("noise",)
"""In older files: ``action - mean_action``, which readers leave out."""
DEMONSTRATOR = "demonstrator_action"
"""``mean_action`` in files of an expert's, as Vintix II calls it; readers know it as ``mean_action``."""
