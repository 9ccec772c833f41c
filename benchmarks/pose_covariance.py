"""Are poses as far from the truth as their covariance says, and how much does the refinement bring?

    python benchmarks/pose_covariance.py [--seeds 20001 … 20006] [--recording FOLDER] [--json FILE]

Pairs of rigid synthetic scenes (odd seeds tunnels, even ones cavities) at three times and four gaps each, or of a
recording with poses from structure from motion; the embedded model on the CPU. Poses: `robust`, as MAGSAC and
cheirality give it, and `refined`. Their error is compared with the covariance of the refined pose by NEES, the squared
error in units of the predicted one: chi-squared with 5 degrees of freedom if the covariance is right, median 4.35, 95 %
below 11.07. `--cells` takes several sizes of the grid within whose cells errors count as the same.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.readers.sfm import SfmSequence
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.geometry.epipolar import relative_pose
from endomatch_ros.geometry.robust import estimate_epipolar, recover_relative_pose
from endomatch_ros.geometry.uncertainty import INDEPENDENT_CELLS, refine_relative_pose, relative_pose_covariance
from endomatch_ros.matching import Matcher

RATE = 30.0
TIMES = (0.0, 0.8, 1.6)  # seconds
GAPS = (2, 5, 10, 20)  # frames
BOUND = 11.07  # 95 % of chi-squared with 5 degrees of freedom

Array = NDArray[np.float64]
Pair = tuple[int, Frame, Frame]


def main() -> None:
    """Measure and print; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(20001, 20007)))
    parser.add_argument("--recording", type=Path, help="instead of scenes: a folder in the layout of data/sfm.py")
    parser.add_argument("--cells", nargs="+", type=int, default=[INDEPENDENT_CELLS])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    matcher = Matcher.from_pretrained(device="cpu")
    pairs = of_recording(args.recording) if args.recording else of_scenes(args.seeds)
    measured, undecided = [], 0
    for gap, frame0, frame1 in pairs:
        rows = measure(matcher, gap, frame0, frame1, args.cells)
        measured += rows
        undecided += not rows
    table = summary(measured, args.cells)
    print(markdown(table))
    print(f"without a pose: {undecided} pairs")
    if args.json:
        about = {"python": platform.python_version(), "machine": platform.platform(), "opencv": cv2.__version__}
        source = {"recording": args.recording.name} if args.recording else {"seeds": args.seeds, "times": TIMES}
        content = {**source, "gaps": GAPS, "rate": RATE, "without_pose": undecided, "rows": table, "machine": about}
        args.json.write_text(json.dumps(content, indent=2) + "\n")


def of_scenes(seeds: list[int]) -> Iterator[Pair]:
    """Pairs of every scene."""
    for seed in seeds:
        scene = SyntheticEndoscope(SceneConfig(seed=seed, kind="tunnel" if seed % 2 else "cavity"))
        for time in TIMES:
            frame0 = scene.render(time)
            for gap in GAPS:
                yield gap, frame0, scene.render(time + gap / RATE)


def of_recording(folder: Path) -> Iterator[Pair]:
    """Pairs that begin at every third frame."""
    recording = SfmSequence(folder)
    for gap in GAPS:
        for first in range(0, len(recording) - gap, 3):
            yield gap, recording[first], recording[first + gap]


def measure(matcher: Matcher, gap: int, frame0: Frame, frame1: Frame, cells: list[int]) -> list[dict[str, float | str]]:
    """A row for each pose; none where the pose is undecided."""
    matches = matcher.match(frame0.image, frame1.image, frame0.mask, frame1.mask)
    points, camera = (matches.keypoints0, matches.keypoints1), frame0.camera
    estimate = estimate_epipolar(*points, camera)
    robust = recover_relative_pose(estimate, *points, camera)
    if robust is None:
        return []
    refined = refine_relative_pose(robust, *points, camera, estimate.inliers)
    true = relative_pose(frame0.pose, frame1.pose)
    rows = []
    for name, pose in (("robust", robust), ("refined", refined)):
        error = published_error(pose, true)
        row = {"pose": name, "gap": gap, **lengths(error, "")}
        for size in cells:
            covariance = relative_pose_covariance(refined, *points, camera, estimate.inliers, cells=size)
            row[f"NEES {size}"] = np.nan if covariance is None else nees(error, covariance)
            if size == cells[-1]:
                deviations = np.full(6, np.nan) if covariance is None else np.sqrt(np.diag(covariance))
                row |= lengths(deviations, " predicted")
        rows.append(row)
    return rows


def published_error(pose: Array, true: Array) -> Array:
    """Error ``(6,)`` of the current camera's position (unit length) and rotation in the reference camera's frame."""
    found, wanted = np.linalg.inv(pose), np.linalg.inv(true)
    position = found[:3, 3] - wanted[:3, 3] / np.linalg.norm(wanted[:3, 3])
    return np.append(position, cv2.Rodrigues(found[:3, :3] @ wanted[:3, :3].T)[0])


def lengths(error: Array, what: str) -> dict[str, float]:
    """Degrees of direction and rotation."""
    degrees = [float(np.degrees(np.linalg.norm(part))) for part in (error[:3], error[3:])]
    return {f"direction deg{what}": degrees[0], f"rotation deg{what}": degrees[1]}


def nees(error: Array, covariance: Array) -> float:
    """Squared error in units of a covariance of rank 5; what the error has along the translation is of second order."""
    return float(error @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ error)


def summary(measured: list[dict[str, float | str]], cells: list[int]) -> list[dict[str, float | str]]:
    """Medians by pose and gap, and over all gaps; a pair without covariance does not count in the figures of NEES."""
    table = []
    for name in ("robust", "refined"):
        for gap in (*GAPS, "all"):
            rows = [row for row in measured if row["pose"] == name and gap in (row["gap"], "all")]
            if not rows:
                continue
            line: dict[str, float | str] = {"pose": name, "gap": str(gap), "pairs": len(rows)}
            for key in rows[0]:
                if key.endswith(("deg", "predicted")):
                    line[key] = float(np.nanmedian([row[key] for row in rows]))
            for size in cells:
                values = np.array([row[f"NEES {size}"] for row in rows])
                values = values[np.isfinite(values)]
                line[f"NEES {size}"] = float(np.median(values))
                line[f"in 95 % {size}"] = float((values < BOUND).mean())
            table.append(line)
    return table


def markdown(table: list[dict[str, float | str]]) -> str:
    """The table."""
    columns = list(table[0])
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    lines += [f"| {' | '.join(v if isinstance(v, str) else f'{v:.3g}' for v in row.values())} |" for row in table]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
