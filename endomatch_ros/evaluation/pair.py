"""Two pictures matched and judged by a robust epipolar geometry: the work behind ``endomatch match``."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.drawing import draw_flow
from endomatch_ros.errors import ConfigError, ImageError
from endomatch_ros.geometry.robust import EpipolarEstimate, estimate_epipolar
from endomatch_ros.matching.interface import PairMatcher
from endomatch_ros.matching.types import Matches

MAX_PAIR_LINES = 150
"""Lines between two pictures beyond which they hide the tissue; the dots show every match."""

_GAP = 12  # pixels between the two pictures
_OUTLIER = (120, 120, 120)
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class PairResult:
    """Matches of two pictures and the fundamental matrix (MAGSAC, 1 px) that fits them best."""

    matches: Matches
    epipolar: EpipolarEstimate

    @property
    def inlier_ratio(self) -> float:
        """Share of the matches that agree with the fundamental matrix, 0 to 1; NaN without one."""
        return float(self.epipolar.inliers.mean()) if self.epipolar.matrix is not None else float("nan")

    def summary(self) -> dict[str, Any]:
        """Counts, errors in px and times in ms, ready for JSON (None where a value is unknown)."""
        known = self.epipolar.error[np.isfinite(self.epipolar.error)]
        has_model = self.epipolar.matrix is not None
        return {
            "matches": len(self.matches),
            "inliers": int(self.epipolar.inliers.sum()),
            "inlier_ratio": self.inlier_ratio if has_model else None,
            "median_epipolar_error_px": float(np.median(known)) if len(known) else None,
            "coverage": float(self.matches.coverage),
            "model": self.epipolar.model,
            "message": self.epipolar.message,
            "fundamental": self.epipolar.matrix.tolist() if self.epipolar.matrix is not None else None,
            "size0": list(self.matches.size0),
            "size1": list(self.matches.size1),
            "dropped": dict(self.matches.dropped),
            "timings_ms": {name: round(float(value), 3) for name, value in self.matches.timings.items()},
        }

    def describe(self) -> str:
        """The result in two or three lines of text."""
        s = self.summary()
        stages = ", ".join(f"{name} {value:.0f}" for name, value in s["timings_ms"].items() if name != "total")
        lines = [f"{s['matches']} matches, coverage {s['coverage']:.0%}"]
        if s["inlier_ratio"] is None:
            lines.append(f"no epipolar geometry: {s['message']}")
        else:
            lines.append(
                f"{s['inliers']} inliers of the fundamental matrix ({s['inlier_ratio']:.0%}), "
                f"median epipolar error {s['median_epipolar_error_px']:.2f} px"
            )
        total = s["timings_ms"].get("total", sum(s["timings_ms"].values()))
        return "\n".join([*lines, f"{total:.0f} ms ({stages})"])


def match_pair(matcher: PairMatcher, image0: Image, image1: Image) -> PairResult:
    """Match two RGB uint8 pictures ``(H, W, 3)``, whose sizes may differ, and fit a fundamental matrix."""
    matches = matcher.match(image0, image1)
    return PairResult(matches, estimate_epipolar(matches.keypoints0, matches.keypoints1))


def write_image(path: Path, image: Image) -> None:
    """Write RGB uint8 ``(H, W, 3)`` in the format of the file's suffix; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise ImageError(f"the picture {path} could not be encoded")
    path.write_bytes(data.tobytes())


def check_outputs(picture: Path | None, *others: Path | None) -> None:
    """Raise :class:`ConfigError` for outputs that could not be written, before any work is done."""
    if picture is not None and not cv2.haveImageWriter(f"x{picture.suffix}"):
        raise ConfigError(f"--output {picture}: no picture format has the suffix {picture.suffix!r}; use .png or .jpg")
    for path in filter(None, (picture, *others)):
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name a file")


def write_json(path: Path, result: PairResult) -> None:
    """Summary and matches as one JSON object; missing folders are made."""
    matches = [dict(zip(_COLUMNS, row, strict=True)) for row in _rows(result)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**result.summary(), "correspondences": matches}, indent=1) + "\n")


def write_csv(path: Path, result: PairResult) -> None:
    """Matches as CSV with a header; an unknown epipolar error is an empty cell. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(_rows(result))


_COLUMNS = ("x0", "y0", "x1", "y1", "similarity", "epipolar_error_px", "inlier")


def _rows(result: PairResult) -> list[tuple[float | int | None, ...]]:
    """One match a row, rounded to a thousandth; None for an unknown error."""
    m, e = result.matches, result.epipolar
    numbers = np.column_stack([m.keypoints0, m.keypoints1, m.similarity]).astype(np.float64).round(4).tolist()
    errors = [round(float(error), 4) if np.isfinite(error) else None for error in e.error]
    return [(*row, error, int(inlier)) for row, error, inlier in zip(numbers, errors, e.inliers, strict=True)]


def draw(result: PairResult, image0: Image, image1: Image, layout: Literal["pair", "flow"] = "pair") -> Image:
    """The overlay, RGB uint8: ``pair`` shows both pictures side by side, ``flow`` the motion on ``image1``."""
    lines = result.describe().splitlines()
    if layout == "flow":
        return draw_flow(image1, result.matches, result.epipolar.error, result.epipolar.inliers, lines)
    return _draw_pair(result, image0, image1)


def _draw_pair(result: PairResult, image0: Image, image1: Image) -> Image:
    """Both pictures at one height; equal colours are the same tissue, lines join some matches, outliers are grey."""
    height = max(image0.shape[0], image1.shape[0])
    left, scale0 = _to_height(image0, height)
    right, scale1 = _to_height(image1, height)
    canvas = np.full((height, left.shape[1] + _GAP + right.shape[1], 3), 255, np.uint8)
    canvas[:, : left.shape[1]] = cv2.convertScaleAbs(left, alpha=0.8)
    canvas[:, left.shape[1] + _GAP :] = cv2.convertScaleAbs(right, alpha=0.8)
    points0 = (result.matches.keypoints0 + 0.5) * scale0 - 0.5
    points1 = (result.matches.keypoints1 + 0.5) * scale1 - 0.5 + (left.shape[1] + _GAP, 0)
    colours = _position_colours(result.matches.keypoints0, result.matches.size0)
    good = result.epipolar.inliers if result.epipolar.matrix is not None else np.ones(len(points0), bool)
    unit = max(1, round(height / 500))
    order = np.flatnonzero(good)
    # Sorted by a hash of the position, so that the chosen lines lie all over the picture.
    order = order[np.argsort((result.matches.keypoints0[order] @ (12.9898, 78.233)) % 1.0)]
    for index in order[:MAX_PAIR_LINES]:
        ends = _pixel(points0[index]), _pixel(points1[index])
        cv2.line(canvas, *ends, colours[index], unit, cv2.LINE_AA)
    for index in [*np.flatnonzero(~good), *order]:
        for point in (points0[index], points1[index]):
            cv2.circle(canvas, _pixel(point), 2 * unit, colours[index] if good[index] else _OUTLIER, -1, cv2.LINE_AA)
    return canvas


def _to_height(image: Image, height: int) -> tuple[Image, float]:
    scale = height / image.shape[0]
    if scale == 1.0:
        return image, scale
    size = (max(1, round(image.shape[1] * scale)), height)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8), scale


def _position_colours(points: NDArray[np.float32], size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """A colour for each place in the picture: the hue is the direction from its centre, the saturation the distance."""
    offset = points / np.array(size) * 2 - 1
    hue = (np.degrees(np.arctan2(offset[:, 1], offset[:, 0])) % 360) / 2
    saturation = 110 + 145 * np.clip(np.linalg.norm(offset, axis=1), 0, 1)
    hsv = np.stack([hue, saturation, np.full(len(points), 255)], axis=1).astype(np.uint8)
    rgb = cv2.cvtColor(hsv[:, None], cv2.COLOR_HSV2RGB)[:, 0] if len(points) else np.zeros((0, 3), np.uint8)
    return [(int(r), int(g), int(b)) for r, g, b in rgb]


def _pixel(point: NDArray[Any]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
