"""Image messages of every encoding, step and endianness against OpenCV's own conversions, and what is refused."""

import array
import sys
import types

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image

from endomatch_ros.errors import ImageError
from endomatch_ros.ros.messages import images
from endomatch_ros.ros.messages.images import ENCODINGS, compressed_to_rgb, to_compressed_message, to_message, to_rgb

WIDTH, HEIGHT = 8, 6
BYTES = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4, "8UC4": 4, "mono16": 2, "16UC1": 2, "yuv422": 2,
         "uyvy": 2, "yuv422_yuy2": 2, "yuyv": 2}  # fmt: skip


def message_of(rows, encoding, padding=0, big_endian=False):
    """An Image of ``rows`` (H, bytes a row) with ``padding`` bytes of rubbish after each row."""
    rows = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    padded = np.hstack([rows, np.full((len(rows), padding), 201, np.uint8)])
    message = Image(height=len(rows), width=rows.shape[1] // BYTES.get(encoding, 1), encoding=encoding)
    message.step, message.is_bigendian = padded.shape[1], int(big_endian)
    message.data = array.array("B", padded.tobytes())
    return message


def noise(channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH * channels), dtype=np.uint8)


def reference(rows, encoding):
    """By OpenCV's conversions to BGR, turned to RGB at the end: not the constants of the code under test."""
    if encoding in ("rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "8UC4"):
        pixels = rows.reshape(HEIGHT, WIDTH, -1)[..., :3]
        return pixels if encoding.startswith("rgb") else pixels[..., ::-1]
    if encoding in ("mono8", "8UC1"):
        return np.repeat(rows[..., None], 3, axis=2)
    packed = rows.reshape(HEIGHT, WIDTH, 2)
    code = cv2.COLOR_YUV2BGR_UYVY if encoding in ("yuv422", "uyvy") else cv2.COLOR_YUV2BGR_YUYV
    return cv2.cvtColor(packed, code)[..., ::-1]


COLOUR = ["rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "8UC4", "mono8", "8UC1", "yuv422", "uyvy", "yuv422_yuy2", "yuyv"]
BAYER = ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"]


def test_the_tests_cover_every_encoding():
    assert {*COLOUR, *BAYER, "mono16", "16UC1"} == set(ENCODINGS)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", COLOUR)
def test_colour_and_grey(encoding, padding):
    rows = noise(BYTES.get(encoding, 1))
    result = to_rgb(message_of(rows, encoding, padding))
    assert result.dtype == np.uint8
    assert result.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(result, reference(rows, encoding))


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", BAYER)
def test_bayer_pattern_names_the_first_two_by_two_pixels(encoding, padding):
    """A sensor that sees one flat colour: every pixel must come back as that colour."""
    colour = {"r": 200, "g": 120, "b": 30}
    pattern = encoding[len("bayer_") : -1]
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
    for index, letter in enumerate(pattern):
        mosaic[index // 2 :: 2, index % 2 :: 2] = colour[letter]
    result = to_rgb(message_of(mosaic, encoding, padding))
    assert (result == [200, 120, 30]).all()


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
def test_sixteen_bits_keep_their_upper_byte(encoding, big_endian, padding):
    values = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    rows = values.astype(">u2" if big_endian else "<u2")
    result = to_rgb(message_of(rows, encoding, padding, big_endian))
    np.testing.assert_array_equal(result, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoding": "32FC1"}, "'32FC1' is not supported"),
        ({"width": 0}, "0 x 6"),
        ({"height": 0}, "8 x 0"),
        ({"step": 23}, "step 23 is smaller"),
        ({"data": array.array("B", bytes(24 * 6 - 1))}, "143 bytes of data"),
        ({"encoding": "yuv422", "width": 7}, "width is 7"),
        ({"encoding": "bayer_rggb8", "height": 1}, "2 x 2"),
    ],
)
def test_what_cannot_be_read_is_named(changes, text):
    message = message_of(noise(3), "rgb8")
    for key, value in changes.items():
        setattr(message, key, value)
    with pytest.raises(ImageError, match=text):
        to_rgb(message)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_round_trip(encoding):
    image = noise(3).reshape(HEIGHT, WIDTH, 3)
    message = to_message(image, Time(sec=3, nanosec=4), "optical", encoding)
    assert (message.header.stamp.sec, message.header.frame_id, message.step) == (3, "optical", WIDTH * 3)
    np.testing.assert_array_equal(to_rgb(message), image)


def test_writing_a_sliced_array_and_grey():
    image = noise(6).reshape(HEIGHT, 2 * WIDTH, 3)[:, ::2]
    np.testing.assert_array_equal(to_rgb(to_message(image, Time(), "f")), image)
    grey = to_rgb(to_message(image, Time(), "f", "mono8"))
    np.testing.assert_array_equal(grey[..., 0], cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY))
    with pytest.raises(ImageError, match="float64"):
        to_message(np.zeros((2, 2, 3)), Time(), "f")
    with pytest.raises(ImageError, match="yuv422"):
        to_message(image, Time(), "f", "yuv422")


def test_jpeg_round_trip_keeps_channel_order():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:] = (200, 100, 20)
    decoded = compressed_to_rgb(to_compressed_message(image, Time(), "f"))
    assert np.abs(decoded.astype(int) - image).max() < 8


@pytest.mark.parametrize("data", [b"", b"\x00" * 50, b"\xff\xd8\xff\xe0 nonsense \xff\xd9"])
def test_damaged_compressed_data(data):
    message = to_compressed_message(noise(3).reshape(HEIGHT, WIDTH, 3), Time(), "f")
    message.data = array.array("B", data)
    with pytest.raises(ImageError, match="damaged"):
        compressed_to_rgb(message)


def test_truncated_jpeg_is_refused():
    message = to_compressed_message(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), Time(), "f")
    message.data = message.data[: len(message.data) // 2]
    with pytest.raises(ImageError, match="no end marker"):
        compressed_to_rgb(message)


class StandInBridge:
    """cv_bridge's contract, by its documentation: takes a packed message, gives an array in the order asked for."""

    def imgmsg_to_cv2(self, message, desired):
        assert desired == "rgb8"
        assert message.step == message.width * BYTES.get(message.encoding, 1)  # it gets padded rows wrong
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        return reference(rows, message.encoding)


@pytest.mark.parametrize("encoding", COLOUR)
def test_cv_bridge_gets_packed_rows_and_names_that_it_knows(monkeypatch, encoding):
    seen = []

    class Bridge(StandInBridge):
        def imgmsg_to_cv2(self, message, desired):
            seen.append(message.encoding)
            return super().imgmsg_to_cv2(message, desired)

    monkeypatch.setattr(images, "CvBridge", Bridge)
    rows = noise(BYTES.get(encoding, 1))
    np.testing.assert_array_equal(to_rgb(message_of(rows, encoding, padding=7)), reference(rows, encoding))
    assert seen[0] not in images.ALIASES  # old releases do not know the aliases


def test_a_broken_cv_bridge_is_passed_over(monkeypatch):
    import importlib

    broken = types.ModuleType("cv_bridge")  # has no CvBridge
    monkeypatch.setitem(sys.modules, "cv_bridge", broken)
    try:
        assert importlib.reload(images).CvBridge is None
    finally:
        monkeypatch.undo()
        importlib.reload(images)
