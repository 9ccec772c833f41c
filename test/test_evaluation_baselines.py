"""Baselines on images whose true motion is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from endomatch_ros.errors import ImageError
from endomatch_ros.evaluation.baselines import BASELINES, identity, klt

SHIFT = (9.0, -5.0)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two views of one texture, shifted, and a round mask."""
    texture = np.random.default_rng(0).uniform(0, 255, (400, 500, 3)).astype(np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(texture, None, 2.5), None, 0, 255, cv2.NORM_MINMAX)
    moved = cv2.warpAffine(texture, np.float32([[1, 0, SHIFT[0]], [0, 1, SHIFT[1]]]), (500, 400))
    ys, xs = np.mgrid[:400, :500]
    return texture, moved, (xs - 250) ** 2 + (ys - 200) ** 2 < 150**2


@pytest.mark.parametrize("name", ["klt", "orb", "sift"])
def test_motion_is_found_inside_the_masks(name: str, pair: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    image0, image1, mask = pair
    matches = BASELINES[name](image0, image1, mask, mask)
    assert len(matches) > 100
    error = np.linalg.norm(matches.keypoints1 - matches.keypoints0 - SHIFT, axis=1)
    assert np.median(error) < 1
    assert (error < 3).mean() > 0.95
    for points in (matches.keypoints0, matches.keypoints1):
        columns, rows = points.round().astype(int).T
        assert mask[rows, columns].all()
    assert matches.keypoints0.dtype == matches.keypoints1.dtype == matches.similarity.dtype == np.float32
    assert (np.abs(matches.similarity) <= 1).all()
    assert 0.3 < matches.coverage <= 1
    assert matches.size0 == matches.size1 == (500, 400)


def test_identity_does_not_move(pair: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    matches = identity(*pair[:2], pair[2], pair[2])
    assert len(matches) > 100
    np.testing.assert_array_equal(matches.keypoints0, matches.keypoints1)


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_to_see_gives_no_matches(name: str) -> None:
    black = np.zeros((120, 160, 3), np.uint8)
    assert len(BASELINES[name](black, black, None, None)) == 0
    noise = np.random.default_rng(0).integers(0, 255, black.shape, np.uint8)
    assert len(BASELINES[name](noise, noise, np.zeros((120, 160), bool), None)) == 0


@pytest.mark.parametrize("method", [identity, klt])
def test_motion_in_pixels_needs_equal_sizes(method: object) -> None:
    with pytest.raises(ImageError, match="size"):
        method(np.zeros((120, 160, 3), np.uint8), np.zeros((160, 120, 3), np.uint8))
