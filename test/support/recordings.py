"""Recordings to train on."""

from __future__ import annotations

from pathlib import Path

import cv2

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope


def write_pictures(folder: Path, count: int = 10) -> Path:
    """Pictures of a moving scope in a folder; no calibration, no depth: what a lab has."""
    scene = SyntheticEndoscope(SceneConfig(seed=1001, width=192, height=160, view_radius=0.6))
    for k in range(count):
        cv2.imwrite(str(folder / f"{k:03d}.png"), cv2.cvtColor(scene.render(0.3 * k).image, cv2.COLOR_RGB2BGR))
    return folder
