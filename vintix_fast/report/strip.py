"""One picture of a run: frames of the robot before and after, one row a video.

Reads videos and writes a PNG that pages and papers can show where nothing plays.  Knows nothing about runs or models.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FRAMES = 6
FRAME_SIZE = (256, 171)
GAP, CAPTION_HEIGHT = 4, 34
"""Pixels between two frames, and above a row."""
COLORS = 192
"""Of the PNG's palette: a quarter of the size in full colour."""


@dataclass(frozen=True)
class Row:
    """A row of the picture: ``FRAMES`` frames of a video, evenly spread from its beginning to ``seconds``."""

    video: Path
    caption: str
    seconds: float


def write_strip(path: Path, rows: list[Row]) -> str | None:
    """Write the picture of ``rows`` to the file ``path``; why there is none, or None."""
    width, height = FRAME_SIZE
    size = (FRAMES * (width + GAP) - GAP, len(rows) * (CAPTION_HEIGHT + height))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    try:
        for index, row in enumerate(rows):
            top = index * (CAPTION_HEIGHT + height)
            draw.text((6, top + 6), row.caption, fill="black", font=ImageFont.load_default(19))
            for column, (second, frame) in enumerate(_frames(row)):
                left = column * (width + GAP)
                picture.paste(Image.fromarray(frame).resize(FRAME_SIZE), (left, top + CAPTION_HEIGHT))
                draw.text((left + 7, top + CAPTION_HEIGHT + 5), f"{second:.1f} s", "black", ImageFont.load_default(15))
    except (OSError, ValueError) as error:  # `av` raises both for what is no video
        return str(error)
    beside = path.with_name(path.name + ".tmp")
    picture.quantize(COLORS).save(beside, format="png", optimize=True)
    os.replace(beside, path)
    return None


def _frames(row: Row) -> list[tuple[float, np.ndarray]]:
    """Seconds and pictures, uint8 [height, width, 3], of the frames that a row shows."""
    import av

    with av.open(str(row.video)) as video:
        rate = float(video.streams.video[0].average_rate or 0)
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    if not (frames and rate):
        raise ValueError(f"{row.video.name} holds no picture")
    last = min(int(row.seconds * rate + 1e-6), len(frames) - 1)
    return [(index / rate, frames[index]) for index in np.linspace(0, last, FRAMES).round().astype(int)]
