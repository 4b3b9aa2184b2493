"""Names, shapes and types of what goes to disk in ``trajectories.h5``, and the C++ writer opened for them.

Owns the format; knows nothing about who writes or reads it.  Each HDF5 group ``<first>-<last>`` holds the fields
below for a contiguous run of transitions; the first four are what public readers of this format need, the rest are
extra datasets that they ignore.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vintix_fast._core import TrajectoryWriter
from vintix_fast.world.layout import QUADRUPED, ObservationLayout

Fields = dict[str, tuple[tuple[int, ...], np.dtype]]
BLOCK_LEN = 1000
"""Most transitions in one HDF5 group."""
VARIATION = "variation"
"""What differs from the nominal robot in the step's episode; the file's attribute of this name says what each is."""


def fields(layout: ObservationLayout, varied: int = 0) -> Fields:
    """Name -> shape of one transition and type, for robots of this layout of which ``varied`` values differ."""
    vector = (layout.num_joints,), np.dtype("float32")
    found: Fields = {
        "proprio_observation": ((layout.size,), np.dtype("float32")),  # what the policy saw
        "action": vector,  # what it did
        "reward": ((), np.dtype("float32")),  # what it got for it
        "step_num": ((), np.dtype("int32")),  # step within the episode, from 0
        "mean_action": vector,  # the policy's action before exploration noise
        "terminated": ((), np.dtype("uint8")),  # the robot fell: no value after this step
        "truncated": ((), np.dtype("uint8")),  # the episode's time ran out
        "failed": ((), np.dtype("uint8")),  # the simulation produced a state that is not finite
    }
    if varied:
        found[VARIATION] = ((varied,), np.dtype("float32"))
    return found


FIELDS = fields(QUADRUPED)
"""Those of the bundled robots."""
REQUIRED_FIELDS = ("proprio_observation", "action", "reward", "step_num")
"""The rest are extras."""
RETIRED_FIELDS = ("noise",)
"""In older files: ``action - mean_action``, which readers leave out."""
DEMONSTRATOR = "demonstrator_action"
"""``mean_action`` in files of an expert's, as Vintix II calls it; readers know it as ``mean_action``."""


def open_writer(
    path: Path,
    num_envs: int,
    attributes: dict[str, Any],
    demonstrated: bool = False,
    layout: ObservationLayout = QUADRUPED,
    varied: Sequence[str] = (),
) -> TrajectoryWriter:
    """A writer of `fields` to ``path``; use it in a ``with`` block, whose clean end puts the file in place.

    Args:
        path: the final name; until then the file is ``<path>.partial``.
        attributes: go to the file's attributes, as text (numbers as JSON).
        demonstrated: an expert acts; the field ``mean_action`` is called ``demonstrator_action``.
        layout: the robot's.
        varied: names of what differs between episodes.

    Raises:
        OSError: the file cannot be made; names file and cause.
    """
    names = {"mean_action": DEMONSTRATOR} if demonstrated else {}
    columns: list[Any] = [
        (names.get(name, name), shape, dtype.name) for name, (shape, dtype) in fields(layout, len(varied)).items()
    ]
    attributes = attributes | ({VARIATION: list(varied)} if varied else {})
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in attributes.items()}
    return TrajectoryWriter(str(path), num_envs, columns, texts, block_len=BLOCK_LEN)
