"""Hashes of what the matcher answers, to hold one version of the code against another bit by bit.

    python benchmarks/match_hashes.py [--data ../shared/data/sinus] [--frames 6] [--json FILE]

A real recording (a folder of pictures, where there is one) and a synthetic stream go through ``StreamMatcher`` in each
way of matching; every line is the SHA-256 of all points, similarities and track ids of one stream. Two versions that
print the same lines on one machine match alike, bit for bit. Other processors and releases of torch give other bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.matching import Matcher, StreamMatcher

WAYS = {
    "embedded, previous": ("embedded", "previous", {}),
    "embedded, keyframe": ("embedded", "keyframe", {}),
    "embedded, resolution 320": ("embedded", "previous", {"resolution": 320}),
    "embedded, no refinement": ("embedded", "previous", {"refinement": "none"}),
    "embedded, no mask": ("embedded", "previous", {"mask": "none"}),
    "embedded-dense, refinement dense": ("embedded-dense", "previous", {"refinement": "dense"}),
    "embedded-dense, consistency check": ("embedded-dense", "previous", {"dense_consistency_cells": 2.0}),
}


def main() -> None:
    """Hash and print; with ``--json`` also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/sinus"))
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    scene = SyntheticEndoscope(SceneConfig(seed=20_500))
    streams = {"synthetic": [scene.render(k / 15).image for k in range(args.frames)]}
    if args.data.is_dir():
        files = sorted(args.data.glob("*.jpg"))[: args.frames]
        streams["real"] = [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]
    hashes = {
        f"{name}: {way}": hash_stream(images, *settings)
        for way, settings in WAYS.items()
        for name, images in streams.items()
    }
    for name, digest in hashes.items():
        print(f"{digest[:16]}  {name}")
    if args.json:
        args.json.write_text(json.dumps(hashes, indent=1) + "\n")


def hash_stream(images: list[np.ndarray], model: str, reference: str, settings: dict[str, object]) -> str:
    """The SHA-256 of what one stream answers."""
    stream = StreamMatcher(Matcher.from_pretrained(model, "cpu", **settings), reference)
    digest = hashlib.sha256()
    for number, image in enumerate(images):
        matches = stream.push(image, number)
        if matches is not None:
            for part in (matches.keypoints0, matches.keypoints1, matches.similarity, matches.track_ids):
                digest.update(np.ascontiguousarray(part).tobytes())
            digest.update(json.dumps([matches.coverage, matches.dropped]).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
