"""Image messages to RGB arrays, without ROS: anything with the fields of ``sensor_msgs/Image`` or ``CompressedImage``.

Conventions: arrays are RGB uint8 ``(H, W, 3)``. ``8UC1`` is read as ``mono8``, ``8UC3`` as ``bgr8`` (OpenCV's channel
order, as cv_bridge writes it), ``16UC1`` as ``mono16``. Sixteen bits become eight by their upper byte (``value >> 8``):
a camera that leaves 10 or 12 significant bits in the low end must be scaled by its driver. Alpha is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import ImageError

RGB = NDArray[np.uint8]

# Names that mean the same bytes.
ALIASES = {
    "8UC1": "mono8",
    "8UC3": "bgr8",
    "8UC4": "bgra8",
    "16UC1": "mono16",
    "uyvy": "yuv422",
    "yuyv": "yuv422_yuy2",
}
# ROS names a Bayer pattern by its first 2 x 2 pixels, OpenCV by the 2 x 2 that starts at (1, 1): hence the shift.
_CONVERSION: dict[str, int | None] = {
    "rgb8": None,
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
}
_BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono16": 2, "yuv422": 2, "yuv422_yuy2": 2}
ENCODINGS = (*_CONVERSION, "mono16", *ALIASES)
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


class ImageMessage(Protocol):
    """The fields of ``sensor_msgs/Image`` that are read; ``data`` is anything with the buffer interface."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedMessage(Protocol):
    """The fields of ``sensor_msgs/CompressedImage`` that are read."""

    format: str
    data: Any


def to_rgb(message: ImageMessage, convert: Callable[[RGB, str], RGB] | None = None) -> RGB:
    """Convert a raw image message of any supported encoding, step and endianness.

    Args:
        message: see :data:`ENCODINGS` for the encodings.
        convert: makes RGB of packed pixels ``(H, W)`` or ``(H, W, bytes per pixel)`` and the name of their encoding,
            which is never an alias nor ``mono16``; by default OpenCV.

    Returns:
        RGB uint8 ``(height, width, 3)``, contiguous; it may share the message's memory and then is read-only.

    Raises:
        ImageError: unknown encoding, zero size, ``step`` smaller than a row, data shorter than ``height * step``.
    """
    encoding = ALIASES.get(message.encoding, message.encoding)
    pixels = _pixels(message, encoding)
    if encoding == "mono16":
        upper = pixels[..., 0] if message.is_bigendian else pixels[..., 1]
        encoding, pixels, convert = "mono8", np.ascontiguousarray(upper), None
    return (convert or _with_opencv)(pixels, encoding)


def compressed_to_rgb(message: CompressedMessage) -> RGB:
    """Decode a compressed image message (JPEG, PNG, whatever OpenCV reads).

    Returns:
        RGB uint8 ``(H, W, 3)``.

    Raises:
        ImageError: empty, truncated or otherwise undecodable data.
    """
    data = np.frombuffer(message.data, np.uint8)
    problem = ""
    if data.size == 0:
        problem = "it is empty"
    elif data[:2].tobytes() == _JPEG_START and _JPEG_END not in data.tobytes():
        problem = "the JPEG has no end marker"  # OpenCV would fill the missing rows with grey and say nothing
    # A frame's EXIF orientation, if any, must not turn the picture against its camera_info.
    picture = None if problem else cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None:
        problem = problem or "OpenCV cannot decode it"
        raise ImageError(f"compressed image of format {message.format!r}, {data.size} bytes, is damaged: {problem}")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _pixels(message: ImageMessage, encoding: str) -> RGB:
    """Validate the layout; the pixels' bytes ``(H, W)`` or ``(H, W, bytes per pixel)`` without the rows' padding."""
    if encoding not in ENCODINGS:
        raise ImageError(f"encoding {message.encoding!r} is not supported; publish one of {', '.join(ENCODINGS)}")
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ImageError(f"the image is {width} x {height} pixels; nothing can be matched in it")
    channels = _BYTES.get(encoding, 1)
    used = width * channels
    if step < used:
        raise ImageError(f"step {step} is smaller than a row of {width} pixels of {message.encoding!r} ({used} bytes)")
    if len(message.data) < height * step:
        raise ImageError(f"{len(message.data)} bytes of data, but height {height} x step {step} is {height * step}")
    if encoding.startswith("yuv422") and width % 2:
        raise ImageError(f"{message.encoding!r} stores pixels in pairs, but the width is {width}")
    if encoding.startswith("bayer") and min(width, height) < 2:
        raise ImageError(f"{message.encoding!r} needs 2 x 2 pixels or more, not {width} x {height}")
    data = np.frombuffer(message.data, np.uint8, count=height * step)
    rows = np.ascontiguousarray(data.reshape(height, step)[:, :used])
    return rows if channels == 1 else rows.reshape(height, width, channels)


def _with_opencv(pixels: RGB, encoding: str) -> RGB:
    code = _CONVERSION[encoding]
    return pixels if code is None else cv2.cvtColor(pixels, code).astype(np.uint8, copy=False)
