"""Image messages to RGB arrays and back: one seam, ``cv_bridge`` where ROS brings it and OpenCV where it does not.

Conventions and encodings are those of :mod:`endomatch_ros.data.encodings`.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from endomatch_ros.data import encodings
from endomatch_ros.data.encodings import ALIASES, ENCODINGS, RGB, compressed_to_rgb
from endomatch_ros.errors import ImageError

try:  # The one from ROS (apt); PyPI's `cv-bridge` is an abandoned ROS 1 package that breaks on import or first use.
    from cv_bridge import CvBridge
except Exception:  # anything: a cv_bridge built for another numpy fails with more than ImportError
    CvBridge = None

__all__ = [
    "ALIASES",
    "ENCODINGS",
    "RGB",
    "byte_array",
    "compressed_to_rgb",
    "to_compressed_message",
    "to_message",
    "to_rgb",
]


def to_rgb(message: Image) -> RGB:
    """:func:`endomatch_ros.data.encodings.to_rgb`, by way of cv_bridge where it is installed."""
    return encodings.to_rgb(message, None if CvBridge is None else _with_cv_bridge)


def to_message(image: RGB, stamp: Time, frame_id: str, encoding: str = "rgb8") -> Image:
    """Make an Image message from ``(H, W, 3)`` RGB uint8.

    Args:
        image: RGB uint8 ``(H, W, 3)``.
        stamp: capture time.
        frame_id: the camera's optical frame.
        encoding: ``rgb8``, ``bgr8`` or ``mono8``.

    Raises:
        ImageError: not an RGB uint8 array, or an encoding that is not written.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(f"an RGB uint8 (H, W, 3) array is needed, not {image.dtype} {image.shape}")
    writers: dict[str, Callable[[], Any]] = {
        "rgb8": lambda: image,
        "bgr8": lambda: image[..., ::-1],
        "mono8": lambda: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
    }
    if encoding not in writers:
        raise ImageError(f"cannot write encoding {encoding!r}; choose one of {', '.join(writers)}")
    pixels = np.ascontiguousarray(writers[encoding]())
    message = Image(height=image.shape[0], width=image.shape[1], encoding=encoding, is_bigendian=0)
    message.header.stamp, message.header.frame_id = stamp, frame_id
    message.step = pixels.nbytes // image.shape[0]
    message.data = byte_array(pixels)
    return message


def to_compressed_message(image: RGB, stamp: Time, frame_id: str, quality: int = 90) -> CompressedImage:
    """Make a JPEG CompressedImage message from ``(H, W, 3)`` RGB uint8; ``quality`` 1 to 100."""
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    message = CompressedImage(format="rgb8; jpeg compressed bgr8")
    message.header.stamp, message.header.frame_id = stamp, frame_id
    message.data = byte_array(jpeg)
    return message


def byte_array(values: NDArray[np.generic]) -> array.array[int]:
    """The array's bytes as ``array.array('B')``: rclpy takes that as it is, a numpy array it checks value by value."""
    result = array.array("B")
    result.frombytes(np.ascontiguousarray(values).tobytes())
    return result


def _with_cv_bridge(pixels: RGB, encoding: str) -> RGB:
    packed = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    packed.step = pixels.nbytes // pixels.shape[0]
    packed.data = byte_array(pixels)
    return np.asarray(CvBridge().imgmsg_to_cv2(packed, "rgb8"), np.uint8)
