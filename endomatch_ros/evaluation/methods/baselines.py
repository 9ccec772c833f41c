"""Matchers to compare with, made of OpenCV alone.

Each is a :data:`~endomatch_ros.evaluation.methods.interface.Method`. ``similarity`` is the descriptors' for ``orb``,
``akaze`` and ``sift``, else 1. Descriptors are matched to their mutual nearest neighbours that pass the ratio test.

The detectors' thresholds are far below OpenCV's defaults: on a full-HD frame of dim mucosa those find some forty SIFT
and seventy AKAZE features, and ORB's lie on a few highlights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import ConfigError
from endomatch_ros.evaluation.methods.interface import (
    Entry,
    Image,
    Mask,
    Method,
    check_same_size,
    grey,
    matches_of,
    opencv_mask,
    plain_entry,
)
from endomatch_ros.evaluation.methods.lucas_kanade import corners, klt, klt_normalised
from endomatch_ros.matching.types import Matches

Points = NDArray[np.float32]

MAX_FEATURES = 8000
RATIO = 0.75
ORB_FAST = 3  # grey levels between a corner and its ring; OpenCV's default is 20
AKAZE_THRESHOLD = 3e-5  # OpenCV's is 1e-3; below this one, matches double in time and fall in precision
SIFT_CONTRAST = 0.01  # OpenCV's is 0.04
_AKAZE_BITS = 486


def identity(image0: Image, image1: Image, mask0: Mask = None, mask1: Mask = None) -> Matches:
    """Corners that do not move: what a figure is worth when nothing was measured."""
    check_same_size(image0, image1)
    points = corners(grey(image0), mask0)
    return matches_of(points, points.copy(), np.ones(len(points)), image0, image1, mask0, mask1)


def orb(image0: Image, image1: Image, mask0: Mask = None, mask1: Mask = None) -> Matches:
    """Up to 8000 ORB features per image (FAST threshold 3), mutual, ratio test (0.75)."""
    detector = cv2.ORB.create(nfeatures=MAX_FEATURES, fastThreshold=ORB_FAST)
    points0, points1, distance = _describe_and_match(detector, cv2.NORM_HAMMING, image0, image1, mask0, mask1)
    # 256 bits as a vector of ±1 have this cosine.
    return matches_of(points0, points1, 1 - 2 * distance / 256, image0, image1, mask0, mask1)


def akaze(image0: Image, image1: Image, mask0: Mask = None, mask1: Mask = None) -> Matches:
    """Up to 8000 AKAZE features per image (threshold 3e-5), mutual, ratio test (0.75).

    Raises:
        ConfigError: this OpenCV has no AKAZE.
    """
    detector = _akaze_maker()(threshold=AKAZE_THRESHOLD)
    points0, points1, distance = _describe_and_match(detector, cv2.NORM_HAMMING, image0, image1, mask0, mask1)
    return matches_of(points0, points1, 1 - 2 * distance / _AKAZE_BITS, image0, image1, mask0, mask1)


def sift(image0: Image, image1: Image, mask0: Mask = None, mask1: Mask = None) -> Matches:
    """Up to 8000 SIFT features per image (contrast threshold 0.01), mutual, ratio test (0.75)."""
    detector = cv2.SIFT.create(nfeatures=MAX_FEATURES, contrastThreshold=SIFT_CONTRAST)
    points0, points1, distance = _describe_and_match(detector, cv2.NORM_L2, image0, image1, mask0, mask1)
    # OpenCV's SIFT descriptors have length 512.
    return matches_of(points0, points1, 1 - (distance / 512) ** 2 / 2, image0, image1, mask0, mask1)


BASELINES: dict[str, Method] = {
    "identity": identity,
    "klt": klt,
    "klt-normalised": klt_normalised,
    "orb": orb,
    "akaze": akaze,
    "sift": sift,
}
"""The baselines by name."""
ENTRIES: tuple[Entry, ...] = tuple(plain_entry(name, method) for name, method in BASELINES.items())


def _akaze_maker() -> Callable[..., cv2.Feature2D]:
    """OpenCV's maker of AKAZE detectors, from its main or its contributed modules; :class:`ConfigError` without it."""
    contributed = getattr(cv2, "xfeatures2d", None)  # where it has been since OpenCV 5
    detector = getattr(cv2, "AKAZE", getattr(contributed, "AKAZE", None))
    if detector is None:
        raise ConfigError(
            f"method 'akaze': the OpenCV {cv2.__version__} installed here has no AKAZE, which is a contributed module "
            "since version 5: pip uninstall opencv-python-headless, then pip install opencv-contrib-python-headless"
        )
    create: Callable[..., cv2.Feature2D] = detector.create
    return create


def _describe_and_match(
    detector: cv2.Feature2D, norm: int, image0: Image, image1: Image, mask0: Mask, mask1: Mask
) -> tuple[Points, Points, NDArray[np.float32]]:
    """Points ``(N, 2)`` of both images and descriptor distances ``(N,)`` of mutual matches that pass the ratio test."""
    points0, descriptors0 = _features(detector, image0, mask0)
    points1, descriptors1 = _features(detector, image1, mask1)
    pairs: list[cv2.DMatch] = []
    if len(points0) > 0 and len(points1) > 1:  # the ratio test needs a second neighbour
        matcher = cv2.BFMatcher(norm)
        back = {m.queryIdx: m.trainIdx for m in matcher.match(descriptors1, descriptors0)}
        for best, second in matcher.knnMatch(descriptors0, descriptors1, k=2):
            if best.distance < RATIO * second.distance and back[best.trainIdx] == best.queryIdx:
                pairs.append(best)
    index0 = np.array([m.queryIdx for m in pairs], np.intp)
    index1 = np.array([m.trainIdx for m in pairs], np.intp)
    return points0[index0], points1[index1], np.array([m.distance for m in pairs], np.float32)


def _features(detector: cv2.Feature2D, image: Image, mask: Mask) -> tuple[Points, NDArray[Any]]:
    """Positions ``(N, 2)`` and descriptors ``(N, D)`` of the strongest features, at most :data:`MAX_FEATURES`."""
    keypoints, descriptors = detector.detectAndCompute(grey(image), opencv_mask(mask))
    if descriptors is None:  # OpenCV's way to say that there are none
        return np.zeros((0, 2), np.float32), np.zeros((0, 1), np.uint8)
    strongest = np.argsort([-k.response for k in keypoints], kind="stable")[:MAX_FEATURES]
    points = np.array([k.pt for k in keypoints], np.float32)
    return points[strongest], np.asarray(descriptors)[strongest]
