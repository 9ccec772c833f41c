"""Matches on a video without truth, held against corners that were tracked through every frame in between and back.

    python benchmarks/clips.py VIDEO [--gaps 3 6] [--max-pairs 6] [--methods endomatch endomatch:resolution=512 klt]

The pseudo-truth: corners that pyramidal Lucas-Kanade follows from the first frame of a pair through all frames to the
second and back to within 1 px. It knows only what moves little from frame to frame, so it compares methods, no more.
*seen* is the share of such corners with a match within 8 px; PCK@t the share of those whose match goes to within t px.
"""

from __future__ import annotations

import argparse
import itertools
import sys

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.evaluation.methods.registry import named_methods
from endomatch_ros.evaluation.metrics import end_point_errors, predict_at
from endomatch_ros.evaluation.predictions import Predictor, View
from endomatch_ros.evaluation.run import pairs_with_gap
from endomatch_ros.evaluation.score import LANDMARK_RADIUS_PX
from endomatch_ros.matching.view import view_mask

Points = NDArray[np.float64]
LIMITS = (1.0, 3.0, 5.0)
_CORNERS = {"maxCorners": 1500, "qualityLevel": 0.003, "minDistance": 6}
_SEARCH = {"winSize": (21, 21), "maxLevel": 4}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--gaps", nargs="+", type=int, default=[3, 6])
    parser.add_argument("--max-pairs", type=int, default=6)
    parser.add_argument("--methods", nargs="+", default=["endomatch", "klt"])
    args = parser.parse_args()
    images = read(args.video)
    methods, predictor = named_methods(args.methods), Predictor()
    print("| gap | method | matches | seen | " + " | ".join(f"PCK@{t:g}" for t in LIMITS) + " |")
    print("|---:|---|" + "---:|" * (2 + len(LIMITS)))
    for gap in args.gaps:
        pairs = pairs_with_gap(len(images), gap, args.max_pairs)
        truth = [tracked(images[start : end + 1]) for start, end in pairs]
        corners = sum(len(points) for points, _ in truth)
        if not corners:
            sys.exit(f"{args.video}: no corner could be tracked over {gap} frames")
        for method in methods:
            matches = [predictor(method, *(View(images[k], None) for k in pair))[0] for pair in pairs]
            errors = [
                end_point_errors(predict_at(points, m.keypoints0, m.keypoints1, LANDMARK_RADIUS_PX), targets)
                for m, (points, targets) in zip(matches, truth, strict=True)
            ]
            known = np.concatenate(errors)
            known = known[np.isfinite(known)]
            shares = " | ".join(f"{(known <= t).mean() if len(known) else 0.0:.3f}" for t in LIMITS)
            count = np.mean([len(m) for m in matches])
            print(f"| {gap} | {method.name} | {count:.0f} | {len(known) / corners:.2f} | {shares} |")


def read(path: str) -> list[NDArray[np.uint8]]:
    """All frames that OpenCV can decode, RGB uint8."""
    video, images = cv2.VideoCapture(path), []
    while (frame := video.read()[1]) is not None:
        images.append(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8))
    return images


def tracked(images: list[NDArray[np.uint8]]) -> tuple[Points, Points]:
    """Corners ``(N, 2)`` of the first image that come back to within 1 px, and where they are in the last."""
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    start = cv2.goodFeaturesToTrack(greys[0], mask=view_mask(images[0]).astype(np.uint8), **_CORNERS)
    if start is None:
        return np.zeros((0, 2)), np.zeros((0, 2))
    there, found = _follow(greys, start)
    back, returned = _follow(greys[::-1], there)
    good = found & returned & (np.linalg.norm(back - start, axis=2)[:, 0] < 1.0)
    return start[good, 0].astype(np.float64), there[good, 0].astype(np.float64)


def _follow(
    greys: list[NDArray[np.uint8]], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    good = np.ones(len(points), bool)
    for before, after in itertools.pairwise(greys):
        points, status, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, **_SEARCH)
        good &= status[:, 0] > 0
    return points, good


if __name__ == "__main__":
    main()
