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


def required_fields(layout: ObservationLayout) -> Fields:
    """Name -> shape of one transition and type, for robots of this layout."""
    return {
        "proprio_observation": ((layout.size,), np.dtype("float32")),  # what the policy saw
        "action": ((layout.num_joints,), np.dtype("float32")),  # what it did
        "reward": ((), np.dtype("float32")),  # what it got for it
        "step_num": ((), np.dtype("int32")),  # step within the episode, from 0
    }


def extra_fields(layout: ObservationLayout) -> Fields:
    return {
        "mean_action": ((layout.num_joints,), np.dtype("float32")),  # the policy's action before exploration noise
        "terminated": ((), np.dtype("uint8")),  # the robot fell: no value after this step
        "truncated": ((), np.dtype("uint8")),  # the episode's time ran out
        "failed": ((), np.dtype("uint8")),  # the simulation produced a state that is not finite
    }


def fields(layout: ObservationLayout, varied: int = 0) -> Fields:
    """All of them; where ``varied`` values differ between episodes, these too."""
    values: Fields = {VARIATION: ((varied,), np.dtype("float32"))} if varied else {}
    return required_fields(layout) | extra_fields(layout) | values


VARIATION = "variation"
"""What differs from the nominal robot in the step's episode; the file's attribute of this name says what each is."""
REQUIRED_FIELDS, EXTRA_FIELDS, FIELDS = (kind(QUADRUPED) for kind in (required_fields, extra_fields, fields))
"""Those of the bundled robots."""
RETIRED_FIELDS = ("noise",)
"""In older files: ``action - mean_action``, which readers leave out."""
DEMONSTRATOR = "demonstrator_action"
"""``mean_action`` in files of an expert's, as Vintix II calls it; readers know it as ``mean_action``."""
