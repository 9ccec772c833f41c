"""How long a pair takes, beside OpenCV's KLT and SIFT on the same images in the same run.

    python benchmarks/latency.py [--size 1280 1024] [--frames 30] [--resolution 512] [--refinement dense]
        [--device auto] [--json FILE]

Each method sees the same synthetic stream, in turn, pair by pair, so that a slow moment of the machine hits all alike.
The matcher runs as in the node: one network pass per frame, tracks kept. On a GPU each pair is synchronised at its end.
Ratios are medians of pairwise ratios; the absolute times say little about another machine.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from machine import machine

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.evaluation.methods.baselines import BASELINES
from endomatch_ros.matching import Matcher, StreamMatcher, refiners

PEERS = ("klt", "sift")


def main() -> None:
    """Measure and print; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=2, type=int, default=(1280, 1024), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--resolution", type=int, help="long side that the network sees; default: the model's own")
    parser.add_argument("--refinement", choices=refiners.names(), help="default: photometric")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    scene = SyntheticEndoscope(SceneConfig(seed=20_500, width=args.size[0], height=args.size[1]))
    images = [scene.render(k / 30).image for k in range(args.frames)]
    extra = {name: value for name in ("resolution", "refinement") if (value := getattr(args, name))}
    matcher = Matcher.from_pretrained(args.model, args.device, **extra)
    times, stages = measure(matcher, images)
    report = {
        "size": list(args.size),
        "resolution": matcher.config.resolution,
        "refinement": matcher.config.refinement,
        "frames": args.frames,
        "milliseconds": {name: percentiles(values) for name, values in times.items()},
        "stages": {name: percentiles(values) for name, values in stages.items()},
        "ratio_to": {p: float(np.median(np.array(times["endomatch"]) / times[p])) for p in PEERS},
        "machine": machine(str(matcher.device), opencv=cv2.__version__, model=matcher.info.sha256[:12]),
    }
    for name, values in {**report["milliseconds"], **{f"  {k}": v for k, v in report["stages"].items()}}.items():
        print(f"{name:16} p50 {values['p50']:8.1f}   p95 {values['p95']:8.1f}   p99 {values['p99']:8.1f} ms")
    print("ratio to " + ", ".join(f"{p}: {r:.2f}" for p, r in report["ratio_to"].items()))
    print(json.dumps(report["machine"]))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(matcher: Matcher, images: list[np.ndarray]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds per pair by method and, for the matcher, by stage."""
    stream = StreamMatcher(matcher)
    times: dict[str, list[float]] = {name: [] for name in ("endomatch", *PEERS)}
    stages: dict[str, list[float]] = {}
    for k, image in enumerate(images):
        start = time.perf_counter()
        matches = stream.push(image)
        if matcher.device.type == "cuda":
            torch.cuda.synchronize()
        took = 1e3 * (time.perf_counter() - start)
        peers = {}
        for name in PEERS if k else ():
            start = time.perf_counter()
            BASELINES[name](images[k - 1], image, None, None)
            peers[name] = 1e3 * (time.perf_counter() - start)
        if k < 3 or matches is None:
            continue  # warm-up
        times["endomatch"].append(took)
        for name, value in peers.items():
            times[name].append(value)
        for name, value in matches.timings.items():
            stages.setdefault(name, []).append(value)
    return times, stages


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p95 and p99."""
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)}


if __name__ == "__main__":
    main()
