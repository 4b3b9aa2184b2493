"""The picture of before and after: which frames it shows, and videos that cannot be read."""

import numpy as np
import pytest
from PIL import Image

from vintix_fast.report.film import _encode
from vintix_fast.report.strip import CAPTION_HEIGHT, FRAME_SIZE, FRAMES, GAP, Row, write_strip


@pytest.fixture
def video(tmp_path):
    """Ten frames at 25 a second, each brighter by 20 than the one before."""
    path = tmp_path / "walk.mp4"
    _encode(path, [np.full((320, 480, 3), 20 * i, np.uint8) for i in range(10)])
    return path


@pytest.mark.parametrize(("seconds", "shown"), [(9.0, [0, 2, 4, 5, 7, 9]), (0.23, [0, 1, 2, 3, 4, 5])])
def test_frames_are_spread_up_to_the_rows_end(tmp_path, video, seconds, shown):
    assert write_strip(tmp_path / "strip.png", [Row(video, "Before", 0.0), Row(video, "After", seconds)]) is None
    width, height = FRAME_SIZE
    picture = np.asarray(Image.open(tmp_path / "strip.png").convert("L")).astype(int)
    assert picture.shape == (2 * (CAPTION_HEIGHT + height), FRAMES * (width + GAP) - GAP)
    middles = [column * (width + GAP) + width // 2 for column in range(FRAMES)]
    assert np.abs(picture[CAPTION_HEIGHT + height // 2, middles]).max() <= 12  # the first frame, in every place
    second = picture[2 * CAPTION_HEIGHT + height + height // 2, middles]
    np.testing.assert_allclose(second, np.multiply(shown, 20), atol=12)


def test_what_is_no_video_is_a_reason(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"film of")
    assert "broken.mp4" in write_strip(tmp_path / "strip.png", [Row(tmp_path / "broken.mp4", "Before", 1.0)])
    assert not (tmp_path / "strip.png").exists()
