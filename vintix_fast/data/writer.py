"""Opening the C++ trajectory writer for this package's fields."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vintix_fast._core import TrajectoryWriter
from vintix_fast.data.schema import BLOCK_LEN, DEMONSTRATOR, VARIATION, fields
from vintix_fast.world.layout import QUADRUPED, ObservationLayout


def open_writer(
    path: Path,
    num_envs: int,
    attributes: dict[str, Any],
    demonstrated: bool = False,
    layout: ObservationLayout = QUADRUPED,
    varied: Sequence[str] = (),
) -> TrajectoryWriter:
    """A writer of ``schema.fields`` to ``path``; use it in a ``with`` block, whose clean end puts the file in place.

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
