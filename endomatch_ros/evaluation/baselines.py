"""Matchers to compare with, made of OpenCV alone.

Each takes two RGB uint8 images ``(H, W, 3)`` and their views ``(H, W)`` bool (None: everything) and returns
:class:`~endomatch_ros.matching.types.Matches`. ``similarity`` is the descriptors' for ``sift`` and ``orb``, else 1.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import ImageError
from endomatch_ros.geometry.coverage import coverage
from endomatch_ros.matching.types import Matches

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_] | None
Method = Callable[[Image, Image, Mask, Mask], Matches]

MAX_CORNERS = 4000
ORB_FEATURES = 2000
SIFT_FEATURES = 8000
SIFT_CONTRAST = 0.01  # OpenCV's 0.04 finds some forty features in a full-HD frame of dim mucosa
RATIO = 0.8
FORWARD_BACKWARD_PX = 1.0


def identity(image0: Image, image1: Image, mask0: Mask = None, mask1: Mask = None) -> Matches:
    """Corners that do not move: what a figure is worth when nothing was measured."""
    _check_same_size(image0, image1)
    corners = _corners(_grey(image0), mask0)
    return _matches(corners, corners.copy(), image0, image1, mask0, mask1)


def klt(image0: Image, image1: Image, mask0: Mask = None, mask1: Mask = None) -> Matches:
    """Corners tracked by pyramidal Lucas-Kanade (21 px window, 5 levels), forward-backward error at most 1 px."""
    _check_same_size(image0, image1)
    grey0, grey1 = _grey(image0), _grey(image1)
    corners = _corners(grey0, mask0)
    if len(corners) == 0:
        return _matches(corners, corners.copy(), image0, image1, mask0, mask1)
    there, found = _track(grey0, grey1, corners)
    back, returned = _track(grey1, grey0, there)
    kept = found & returned & (np.linalg.norm(back - corners, axis=1) <= FORWARD_BACKWARD_PX)
    return _matches(corners[kept], there[kept], image0, image1, mask0, mask1)


def orb(image0: Image, image1: Image, mask0: Mask = None, mask1: Mask = None) -> Matches:
    """2000 ORB features an image, mutual nearest neighbours that pass the ratio test (0.8)."""
    detector = cv2.ORB.create(nfeatures=ORB_FEATURES)
    points0, points1, distance = _describe_and_match(detector, cv2.NORM_HAMMING, image0, image1, mask0, mask1)
    # 256 bits as a vector of ±1 have this cosine.
    return _matches(points0, points1, image0, image1, mask0, mask1, 1 - 2 * distance / 256)


def sift(image0: Image, image1: Image, mask0: Mask = None, mask1: Mask = None) -> Matches:
    """Up to 8000 SIFT features an image (contrast threshold 0.01), mutual, ratio test (0.8)."""
    detector = cv2.SIFT.create(nfeatures=SIFT_FEATURES, contrastThreshold=SIFT_CONTRAST)
    points0, points1, distance = _describe_and_match(detector, cv2.NORM_L2, image0, image1, mask0, mask1)
    # OpenCV's SIFT descriptors have length 512.
    return _matches(points0, points1, image0, image1, mask0, mask1, 1 - (distance / 512) ** 2 / 2)


BASELINES: dict[str, Method] = {"identity": identity, "klt": klt, "orb": orb, "sift": sift}
"""The baselines by name."""


def _describe_and_match(
    detector: cv2.Feature2D, norm: int, image0: Image, image1: Image, mask0: Mask, mask1: Mask
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Points ``(N, 2)`` of both images and descriptor distances ``(N,)`` of mutual matches that pass the ratio test."""
    found0 = detector.detectAndCompute(_grey(image0), _mask(mask0))
    found1 = detector.detectAndCompute(_grey(image1), _mask(mask1))
    (keypoints0, descriptors0), (keypoints1, descriptors1) = found0, found1
    pairs = []
    if len(keypoints0) > 1 and len(keypoints1) > 1:
        matcher = cv2.BFMatcher(norm)
        back = {m.queryIdx: m.trainIdx for m in matcher.match(descriptors1, descriptors0)}
        for best, second in matcher.knnMatch(descriptors0, descriptors1, k=2):
            if best.distance < RATIO * second.distance and back[best.trainIdx] == best.queryIdx:
                pairs.append(best)
    points0 = np.array([keypoints0[m.queryIdx].pt for m in pairs], np.float32).reshape(-1, 2)
    points1 = np.array([keypoints1[m.trainIdx].pt for m in pairs], np.float32).reshape(-1, 2)
    return points0, points1, np.array([m.distance for m in pairs], np.float32)


def _track(grey0: Image, grey1: Image, points: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where ``(N, 2)`` pixels went, and ``(N,)`` whether they were found."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(grey0, grey1, points, points.copy(), winSize=(21, 21), maxLevel=4)
    return np.asarray(there, np.float32), np.asarray(found).ravel() == 1


def _corners(grey: Image, mask: Mask) -> NDArray[np.float32]:
    """Up to 4000 corners ``(N, 2)``, at least 7 px apart."""
    corners = cv2.goodFeaturesToTrack(grey, MAX_CORNERS, 0.005, 7, mask=_mask(mask))
    return np.zeros((0, 2), np.float32) if corners is None else np.asarray(corners, np.float32).reshape(-1, 2)


def _matches(
    points0: NDArray[np.float32],
    points1: NDArray[np.float32],
    image0: Image,
    image1: Image,
    mask0: Mask,
    mask1: Mask,
    similarity: NDArray[np.floating] | None = None,
) -> Matches:
    """The result without targets outside the second view."""
    height, width = image1.shape[:2]
    columns, rows = np.rint(points1).astype(int).T
    kept = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
    if mask1 is not None:
        kept[kept] = mask1[rows[kept], columns[kept]]
    view = np.ones(image0.shape[:2], bool) if mask0 is None else mask0
    scores = np.ones(len(points0), np.float32) if similarity is None else np.clip(similarity, -1, 1)
    return Matches(
        keypoints0=points0[kept],
        keypoints1=points1[kept],
        similarity=scores[kept].astype(np.float32),
        track_ids=np.arange(kept.sum(), dtype=np.uint32),
        size0=(image0.shape[1], image0.shape[0]),
        size1=(width, height),
        coverage=coverage(points0[kept], view),
    )


def _grey(image: Image) -> Image:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _mask(mask: Mask) -> Image | None:
    return None if mask is None else mask.astype(np.uint8) * 255


def _check_same_size(image0: Image, image1: Image) -> None:
    if image0.shape != image1.shape:
        raise ImageError(f"images of {image0.shape} and {image1.shape}: this method needs two of one size")
