"""Matches between the two rectified images of a stereo scope: rows must agree, to a fraction of a pixel.

    python benchmarks/rectified_pair.py LEFT RIGHT [LEFT RIGHT …] [--methods endomatch klt sift …] [--json FILE]

For sharp laparoscopic pictures, whose camera motion nobody knows, a stereo scope gives an epipolar geometry that does
not depend on any matcher: after rectification the epipolar distance of a match is the difference of its rows.
Rectification leaves an offset of some tenths of a pixel, common to all methods: it is measured as the median over all
methods' medians and taken away. Tissue moves sideways only, by the disparity, so `identity` has small errors, too: it
shows what the figures are worth.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.readers.images import read_image
from endomatch_ros.evaluation.methods.registry import named_methods
from endomatch_ros.evaluation.predictions import Predictor, View

LIMITS = (0.5, 1.0, 3.0)


def main() -> None:
    """Measure, print; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path, metavar="LEFT RIGHT")
    parser.add_argument("--methods", nargs="+", default=["endomatch", "klt", "klt-normalised", "orb", "sift"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if len(args.images) % 2:
        parser.error("give left and right images in turn")
    methods, predictor = named_methods(args.methods), Predictor()
    found: dict[str, list[tuple[NDArray[np.float64], float]]] = {method.name: [] for method in methods}
    for left, right in zip(args.images[::2], args.images[1::2], strict=True):
        pair = View(read_image(left), None), View(read_image(right), None)
        rows = {}
        for method in methods:
            matches, milliseconds = predictor(method, *pair)
            rows[method.name] = matches.keypoints1[:, 1].astype(float) - matches.keypoints0[:, 1], milliseconds
        offset = float(np.median([np.median(difference) for difference, _ in rows.values() if len(difference)]))
        for name, (difference, milliseconds) in rows.items():
            found[name].append((np.abs(difference - offset), milliseconds))
    table = [summary(name, measured) for name, measured in found.items()]
    print(markdown(table))
    if args.json:
        about = {"python": platform.python_version(), "machine": platform.platform(), "opencv": cv2.__version__}
        args.json.write_text(json.dumps({"rows": table, "machine": about}, indent=2) + "\n")


def summary(name: str, measured: list[tuple[NDArray[np.float64], float]]) -> dict[str, float | str]:
    """Means over the pairs; a pair without matches counts 0."""
    shares = {f"P@{t:g}": float(np.mean([(e <= t).mean() if len(e) else 0.0 for e, _ in measured])) for t in LIMITS}
    every = np.concatenate([e for e, _ in measured])
    return {
        "method": name,
        "matches": float(np.mean([len(e) for e, _ in measured])),
        **shares,
        "median px": float(np.median(every)) if len(every) else float("nan"),
        "ms": float(np.median([ms for _, ms in measured])),
    }


def markdown(table: list[dict[str, float | str]]) -> str:
    """The table."""
    columns = list(table[0])
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    for row in table:
        cells = [f"{row[c]:.0f}" if c in ("matches", "ms") else f"{row[c]:.3f}" for c in columns[1:]]
        lines.append(f"| {row['method']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
