"""How exact the correspondences of novel views are, against the synthetic endoscope's true second view.

    python benchmarks/novel_view.py [--seeds 20001 … 20006] [--times 0.25 0.5 1.0] [--json FILE]

From a rigid scene's first frame and its depth the view of the second frame's camera is rendered. Forward: random points
of the first frame; backward: pixels of the novel view. Both are compared with the scene's own correspondence, traced in
float64; *hidden* is the share of points called visible that the scene says are not.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from endomatch_ros.data.synthetic import SyntheticEndoscope
from endomatch_ros.geometry.epipolar import relative_pose
from endomatch_ros.training.novel_view.synthesis import nearest_value, novel_view, surface_from_depth
from endomatch_ros.training.pairs.render import scene_config

POINTS = 8000  # a scene, time and direction


def main() -> None:
    """Measure and print; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(20001, 20007)))
    parser.add_argument("--times", nargs="+", type=float, default=[0.25, 0.5, 1.0])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    errors: dict[str, list[np.ndarray]] = {"forward": [], "backward": []}
    hidden: dict[str, list[float]] = {"forward": [], "backward": []}
    for seed in args.seeds:
        scene = SyntheticEndoscope(replace(scene_config(seed), deformation=0.0))
        for time in args.times:
            for name, (error, wrong) in compare(scene, time).items():
                errors[name].append(error)
                hidden[name].append(wrong)
    report = {}
    for name, parts in errors.items():
        every = np.concatenate(parts)
        report[name] = {
            "points": len(every),
            "median_px": float(np.median(every)),
            "p99_px": float(np.percentile(every, 99)),
            "p99.9_px": float(np.percentile(every, 99.9)),
            "within_0.1_px": float((every < 0.1).mean()),
            "hidden": float(np.mean(hidden[name])),
        }
        print(name, ", ".join(f"{k} {v:.5g}" for k, v in report[name].items()))
    if args.json:
        args.json.write_text(json.dumps({"seeds": args.seeds, "times": args.times, **report}, indent=2) + "\n")


def compare(scene: SyntheticEndoscope, time: float) -> dict[str, tuple[np.ndarray, float]]:
    """Errors in px of visible points, and the share that is hidden in truth, by direction."""
    frame0, frame1 = scene.render(0.0), scene.render(time)
    assert frame0.depth is not None
    assert frame0.mask is not None
    assert frame1.mask is not None
    surface = surface_from_depth(frame0.depth, scene.camera.matrix, frame0.mask)
    assert frame0.pose is not None
    assert frame1.pose is not None
    view = novel_view(surface, relative_pose(frame0.pose, frame1.pose), frame0.size)
    rng = np.random.default_rng(0)
    points = pick(frame0.mask, rng) + rng.uniform(-0.5, 0.5, (POINTS, 2))
    target, visible = view.forward(points)
    visible &= nearest_value(frame1.mask.astype(np.float32), target) > 0
    truth, seen = scene.correspondence(0.0, time, points[visible])
    forward = np.linalg.norm(target[visible] - truth, axis=1)[seen], float((~seen).mean())
    pixels = pick(view.visible & frame1.mask, rng)
    source = view.source[pixels[:, 1].astype(int), pixels[:, 0].astype(int)]
    truth, seen = scene.correspondence(time, 0.0, pixels)
    return {"forward": forward, "backward": (np.linalg.norm(source - truth, axis=1)[seen], float((~seen).mean()))}


def pick(where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pixels ``(POINTS, 2)`` at random."""
    ys, xs = np.nonzero(where)
    some = rng.choice(len(xs), POINTS)
    return np.stack([xs[some], ys[some]], 1).astype(float)


if __name__ == "__main__":
    main()
