"""Reading pictures and folders of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from endomatch_ros.data.frames import Frame, FrameSequence
from endomatch_ros.data.readers.images import ImageFolder, read_image, read_mask
from endomatch_ros.errors import DataError, ImageError
from endomatch_ros.geometry.camera import Camera

RED = np.zeros((40, 60, 3), np.uint8) + np.array([200, 10, 20], np.uint8)


def save(path: Path, rgb: np.ndarray) -> Path:
    cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return path


def test_colours_are_rgb(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", RED)), RED)


def test_grey_and_16_bit_pictures_become_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((40, 60), 77, np.uint8))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.full((40, 60, 3), 77))
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((40, 60), 77 * 256, np.uint16))
    np.testing.assert_allclose(read_image(tmp_path / "deep.png"), np.full((40, 60, 3), 77), atol=1)


@pytest.mark.parametrize("reader", [read_image, read_mask])
def test_bad_pictures_are_clear_errors(reader: object, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no picture"):
        reader(tmp_path / "missing.png")
    for content in (b"", b"not a picture"):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(ImageError, match=r"bad\.png"):
            reader(tmp_path / "bad.png")


def test_a_folder_is_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        save(tmp_path / f"frame{number}.png", RED // np.uint8(number))
    (tmp_path / "notes.txt").write_text("not a picture")
    folder = ImageFolder(tmp_path, rate=10)
    sequence: FrameSequence = folder
    assert len(sequence) == 3
    assert [int(frame.image[0, 0, 0]) for frame in sequence] == [200, 100, 20]
    assert [frame.stamp for frame in sequence] == [0.0, 0.1, 0.2]
    with pytest.raises(IndexError):
        folder[3]


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        ImageFolder(tmp_path / "missing")
    with pytest.raises(DataError, match="no pictures"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize(
    "parts",
    [
        {"image": np.zeros((40, 60), np.uint8)},
        {"image": np.zeros((40, 60, 3), np.float32)},
        {"mask": np.ones((60, 40), bool)},
        {"mask": np.ones((40, 60), np.uint8)},
        {"depth": np.ones((4, 6), np.float32)},
        {"camera": Camera(np.diag([50.0, 50.0, 1.0]), np.zeros(5), "plumb_bob", (61, 40))},
        {"pose": np.eye(3)},
        {"pose": np.diag([1.0, 1.0, -1.0, 1.0])},
        {"pose": np.diag([2.0, 2.0, 2.0, 1.0])},
        {"pose": np.full((4, 4), np.nan)},
    ],
)
def test_a_frame_refuses_what_does_not_fit(parts: dict[str, object]) -> None:
    with pytest.raises(DataError):
        Frame(**{"image": RED, "stamp": 0.0, "index": 0, **parts})
