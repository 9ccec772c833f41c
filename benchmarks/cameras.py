"""What a second camera costs: both cameras' frames in one pass of the network against one pass each.

    python benchmarks/cameras.py [--size 1280 1024] [--frames 20] [--device auto] [--json FILE]

A synthetic stereo scope. For each moment, in turn, so that a slow moment of the machine hits all alike: the network on
both images together, on one after the other, and the matching of one pair (the left camera's consecutive frames;
left with right). Ratios are medians of the moments' ratios.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from latency import percentiles
from machine import machine

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.matching import Matcher, StreamMatcher

BASELINE_M = 0.003
WARM_UP = 2


def main() -> None:
    """Measure and print; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=2, type=int, default=(1280, 1024), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    scene = SyntheticEndoscope(
        SceneConfig(seed=20_501, kind="cavity", width=args.size[0], height=args.size[1], stereo_baseline=BASELINE_M)
    )
    frames = [scene.render(k / 30) for k in range(args.frames)]
    matcher = Matcher.from_pretrained(device=args.device)
    times = measure(matcher, [(f.image, f.partner.image) for f in frames if f.partner is not None])
    report = {
        "size": list(args.size),
        "frames": args.frames,
        "milliseconds": {name: percentiles(values) for name, values in times.items()},
        "together_to_one_by_one": float(np.median(np.array(times["network, together"]) / times["network, one by one"])),
        "machine": machine(str(matcher.device), model=matcher.info.sha256[:12]),
    }
    for name, values in report["milliseconds"].items():
        print(f"{name:24} p50 {values['p50']:8.1f}   p95 {values['p95']:8.1f}   p99 {values['p99']:8.1f} ms")
    print(f"together to one by one: {report['together_to_one_by_one']:.3f}")
    print(json.dumps(report["machine"]))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(matcher: Matcher, pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[float]]:
    """Milliseconds a moment by what was done."""
    stream = StreamMatcher(matcher)
    times: dict[str, list[float]] = {}

    def clock(name: str, work: Callable[[], object]) -> object:
        start = time.perf_counter()
        result = work()
        if matcher.device.type == "cuda":
            torch.cuda.synchronize()
        times.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return result

    for images in pairs:
        prepared = [matcher.prepare(image) for image in images]
        clock("network, one by one", lambda p=prepared: [matcher.describe([each]) for each in p])
        left, right = clock("network, together", lambda p=prepared: matcher.describe(p))
        clock("left, consecutive", lambda f=left: stream.push_features(f))
        clock("left with right", lambda f=right: stream.match_newest(f))
    return {name: values[WARM_UP:] for name, values in times.items()}


if __name__ == "__main__":
    main()
