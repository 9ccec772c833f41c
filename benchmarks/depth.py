"""How good the depth providers are, against exact depth and against structure from motion.

    python benchmarks/depth.py [--split test|validation] [--sinus FOLDER] [--mono WEIGHTS] [--json FILE]

Synthetic: stereo rigs with a baseline of 4 mm in a lumen of 12 mm radius, two frames per scene. The test split's seeds
served no choice; every choice of the providers was made on the validation split's. Sinus: a real recording, nothing was
chosen on it; depth of the SfM points in the frames that see them, good to what the SfM is.

Each frame is aligned on its own: depth times the median of true / estimated. "log-affine" also allows an exponent, by
least squares in log depth; below 1 the estimate exaggerates the differences in depth. Spearman is the correlation of
ranks. "flat", the same depth everywhere, shows what a cue is worth; "given" is the truth itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from endomatch_ros import __version__
from endomatch_ros.data.depth import make_provider
from endomatch_ros.data.frames import Frame
from endomatch_ros.data.readers.sfm import SfmSequence
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope

Depth = NDArray[np.float32]
Case = tuple[str, Frame, NDArray[np.intp], NDArray[np.float64]]  # group, frame, pixels (N, 2) of known depths (N,)

SPLITS = {"test": range(20001, 20007), "validation": range(10000, 10010)}
TIMES = (0.0, 1.0)
BASELINE = 0.004
LEAST_POINTS = 8  # sparse points in a frame, for a correlation to mean anything
COLUMNS = {
    "abs_rel": "AbsRel",
    "rmse_log": "RMSE log",
    "delta_1_25": "δ<1.25",
    "spearman": "Spearman",
    "abs_rel_log_affine": "AbsRel log-affine",
    "exponent": "exponent",
    "abs_rel_unaligned": "AbsRel unaligned",
    "coverage": "with depth",
    "ms": "ms",
}


def main() -> None:
    """Measure and print a table; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=tuple(SPLITS), default="test")
    parser.add_argument("--sinus", type=Path, help="folder of the SfM recording; left out if not given")
    parser.add_argument("--mono", help="weights of the network: a folder or a hub name; not measured if not given")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    methods: dict[str, Callable[[Frame], Depth]] = {"flat": flat}
    methods |= {name: make_provider(name) for name in ("photometric", "stereo", "given")}
    if args.mono:
        methods["mono"] = make_provider("mono", args.mono, args.device)
    rows = measure(methods, synthetic(SPLITS[args.split]))
    if args.sinus:
        real = {name: method for name, method in methods.items() if name not in ("stereo", "given")}
        rows += measure(real, recording(args.sinus))
    print(table(rows))
    report = {
        "split": args.split,
        "seeds": list(SPLITS[args.split]),
        "baseline": BASELINE,
        "mono": args.mono or "not measured: no weights",
        "rows": rows,
        "endomatch_ros": __version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "date": time.strftime("%Y-%m-%d"),
    }
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def flat(frame: Frame) -> Depth:
    """The same depth everywhere."""
    return np.ones(frame.image.shape[:2], np.float32)


def synthetic(seeds: range) -> Iterator[Case]:
    """Frames of stereo scenes, tunnels and cavities in turn, with the depth of every pixel in view."""
    for k, seed in enumerate(seeds):
        kind = "cavity" if k % 2 else "tunnel"
        scene = SyntheticEndoscope(SceneConfig(seed=seed, kind=kind, stereo_baseline=BASELINE))
        for index, seconds in enumerate(TIMES):
            frame = scene.render(seconds, index)
            assert frame.depth is not None
            assert frame.mask is not None
            ys, xs = np.nonzero(frame.mask & np.isfinite(frame.depth))
            yield kind, frame, np.column_stack([xs, ys]), frame.depth[ys, xs].astype(np.float64)


def recording(folder: Path) -> Iterator[Case]:
    """Frames of an SfM recording with the depth of its points, at the nearest pixels."""
    sequence = SfmSequence(folder)
    for position in range(len(sequence)):
        frame, seen = sequence[position], sequence.visible(position)
        pose = sequence.pose(position)
        depth = (sequence.points[seen] @ pose[:3, :3].T + pose[:3, 3])[:, 2]
        pixels = np.round(np.nan_to_num(sequence.project(position, seen), nan=-1.0)).astype(np.intp)
        inside = (pixels >= 0).all(axis=1) & (pixels < frame.size).all(axis=1) & (depth > 0)
        assert frame.mask is not None
        inside[inside] = frame.mask[pixels[inside, 1], pixels[inside, 0]]
        if inside.sum() >= LEAST_POINTS:
            yield "sinus", frame, pixels[inside], depth[inside]


def measure(methods: dict[str, Callable[[Frame], Depth]], cases: Iterator[Case]) -> list[dict[str, object]]:
    """One row per method and group: means over frames, the median for the time."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for group, frame, pixels, truth in cases:
        for name, method in methods.items():
            start = time.perf_counter()
            depth = method(frame)
            took = 1e3 * (time.perf_counter() - start)
            estimate = depth[pixels[:, 1], pixels[:, 0]].astype(np.float64)
            values = errors(estimate, truth) | {"ms": took}
            if not getattr(method, "metric", False):
                values["abs_rel_unaligned"] = float("nan")
            found.setdefault((group, name), []).append(values)
    rows: list[dict[str, object]] = []
    for (group, name), frames in found.items():
        row: dict[str, object] = {"data": group, "method": name, "frames": len(frames)}
        for key in COLUMNS:
            column = np.array([frame[key] for frame in frames])
            known = column[np.isfinite(column)]
            value = (np.median if key == "ms" else np.mean)(known) if len(known) else None
            row[key] = None if value is None else round(float(value), 4)
        rows.append(row)
    return rows


def errors(estimate: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, float]:
    """Errors of depths ``(N,)``, NaN where unknown, against true ones ``(N,)``, after alignment."""
    known = np.isfinite(estimate)
    names = [key for key in COLUMNS if key not in ("coverage", "ms")]
    if not known.any():
        return dict.fromkeys(names, float("nan")) | {"coverage": 0.0}
    raw, true = estimate[known], truth[known]
    aligned = raw * np.median(true / raw)
    log = np.log(aligned / true)
    x, y = np.log(raw) - np.log(raw).mean(), np.log(true)
    slope = (x @ y) / (x @ x) if x.any() else 0.0
    affine = np.exp(y.mean() + slope * x)
    return {
        "abs_rel": float(np.mean(np.abs(aligned - true) / true)),
        "rmse_log": float(np.sqrt(np.mean(log**2))),
        "delta_1_25": float(np.mean(np.abs(log) < np.log(1.25))),
        "spearman": spearman(raw, true),
        "abs_rel_log_affine": float(np.mean(np.abs(affine - true) / true)),
        "exponent": float(slope) if x.any() else float("nan"),
        "abs_rel_unaligned": float(np.mean(np.abs(raw - true) / true)),
        "coverage": float(known.mean()),
    }


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Correlation of the ranks of two sets ``(N,)``, ties sharing theirs; NaN where all of one set are equal."""
    ranks = []
    for values in (a, b):
        _, group, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[group])
    if np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| data | method | frames | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|---:|" + "---:|" * len(COLUMNS),
    ]
    for row in rows:
        cells = ["–" if row[key] is None else f"{row[key]:.{0 if key == 'ms' else 3}f}" for key in COLUMNS]
        lines.append(f"| {row['data']} | {row['method']} | {row['frames']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
