"""Image messages to RGB arrays and back: one seam, ``cv_bridge`` where ROS brings it and OpenCV where it does not.

Conventions: arrays are RGB uint8 ``(H, W, 3)``. ``8UC1`` is read as ``mono8``, ``8UC3`` as ``bgr8`` (OpenCV's channel
order, as cv_bridge writes it), ``16UC1`` as ``mono16``. Sixteen bits become eight by their upper byte (``value >> 8``):
a camera that leaves 10 or 12 significant bits in the low end must be scaled by its driver. Alpha is dropped.
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

from endomatch_ros.errors import ImageError

try:  # The one from ROS (apt); PyPI's `cv-bridge` is an abandoned ROS 1 package that breaks on import or first use.
    from cv_bridge import CvBridge
except Exception:  # anything: a cv_bridge built for another numpy fails with more than ImportError
    CvBridge = None

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


def to_rgb(message: Image) -> RGB:
    """Convert a raw image message of any supported encoding, step and endianness.

    Args:
        message: see :data:`ENCODINGS` for the encodings.

    Returns:
        RGB uint8 ``(height, width, 3)``, contiguous; it may share the message's memory and then is read-only.

    Raises:
        ImageError: unknown encoding, zero size, ``step`` smaller than a row, data shorter than ``height * step``.
    """
    encoding = ALIASES.get(message.encoding, message.encoding)
    rows = _rows(message, encoding)
    if encoding == "mono16":
        upper = rows[:, 0::2] if message.is_bigendian else rows[:, 1::2]
        return cv2.cvtColor(np.ascontiguousarray(upper), cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)
    convert = _with_opencv if CvBridge is None else _with_cv_bridge
    return convert(rows, encoding)


def compressed_to_rgb(message: CompressedImage) -> RGB:
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


def byte_array(values: NDArray[Any]) -> array.array[int]:
    """The array's bytes as ``array.array('B')``: rclpy takes that as it is, a numpy array it checks value by value."""
    result = array.array("B")
    result.frombytes(np.ascontiguousarray(values).tobytes())
    return result


def _rows(message: Image, encoding: str) -> RGB:
    """Validate the layout and return the pixel bytes ``(H, W * bytes per pixel)`` without the rows' padding."""
    if encoding not in ENCODINGS:
        raise ImageError(f"encoding {message.encoding!r} is not supported; publish one of {', '.join(ENCODINGS)}")
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ImageError(f"the image is {width} x {height} pixels; nothing can be matched in it")
    used = width * _BYTES.get(encoding, 1)
    if step < used:
        raise ImageError(f"step {step} is smaller than a row of {width} pixels of {message.encoding!r} ({used} bytes)")
    if len(message.data) < height * step:
        raise ImageError(f"{len(message.data)} bytes of data, but height {height} x step {step} is {height * step}")
    if encoding.startswith("yuv422") and width % 2:
        raise ImageError(f"{message.encoding!r} stores pixels in pairs, but the width is {width}")
    if encoding.startswith("bayer") and min(width, height) < 2:
        raise ImageError(f"{message.encoding!r} needs 2 x 2 pixels or more, not {width} x {height}")
    data = np.frombuffer(message.data, np.uint8, count=height * step)
    return np.ascontiguousarray(data.reshape(height, step)[:, :used])


def _shaped(rows: RGB, encoding: str) -> RGB:
    channels = _BYTES.get(encoding, 1)
    return rows if channels == 1 else rows.reshape(len(rows), -1, channels)


def _with_opencv(rows: RGB, encoding: str) -> RGB:
    code = _CONVERSION[encoding]
    pixels = _shaped(rows, encoding)
    return pixels if code is None else cv2.cvtColor(pixels, code).astype(np.uint8, copy=False)


def _with_cv_bridge(rows: RGB, encoding: str) -> RGB:
    packed = Image(height=len(rows), step=rows.shape[1], encoding=encoding)
    packed.width = rows.shape[1] // _BYTES.get(encoding, 1)
    packed.data = byte_array(rows)
    return np.asarray(CvBridge().imgmsg_to_cv2(packed, "rgb8"), np.uint8)
