"""Small recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope


def write_pictures(folder: Path, count: int = 10) -> Path:
    """Pictures of a moving scope in a folder; no calibration, no depth: what a lab has."""
    scene = SyntheticEndoscope(SceneConfig(seed=1001, width=192, height=160, view_radius=0.6))
    for k in range(count):
        cv2.imwrite(str(folder / f"{k:03d}.png"), cv2.cvtColor(scene.render(0.3 * k).image, cv2.COLOR_RGB2BGR))
    return folder


def write_sfm(folder: Path, levels: Sequence[int] = (90,)) -> Path:
    """A structure-from-motion recording of 64 × 48 grey frames of these levels, with one point that all of them see."""
    folder.mkdir()
    numbers = range(1, len(levels) + 1)
    for number, level in zip(numbers, levels, strict=True):
        cv2.imwrite(str(folder / f"{number:08d}.jpg"), np.full((48, 64, 3), level, np.uint8))
    cv2.imwrite(str(folder / "undistorted_mask.bmp"), np.full((48, 64), 255, np.uint8))
    (folder / "camera_intrinsics_per_view").write_text("50\n51\n31\n24\n")
    pose = "{position: {x: 0, y: 0, z: 0}, orientation: {x: 0, y: 0, z: 0, w: 1}}"
    poses = "".join(f"  poses[{k}]: {pose}\n" for k in range(len(levels)))
    (folder / "motion.yaml").write_text(f"poses[]:\n{poses}")
    names = "".join(f"property float {axis}\n" for axis in "xyz")
    (folder / "structure.ply").write_text(f"ply\nformat ascii 1.0\nelement vertex 1\n{names}end_header\n0 0 5\n")
    (folder / "view_indexes_per_point").write_text("\n".join(map(str, (-1, *numbers))) + "\n")
    return folder


def write_scared(folder: Path) -> Path:
    """A keyframe of SCARED without video: one grey picture of level 77."""
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "Left_Image.png"), np.full((48, 64, 3), 77, np.uint8))
    storage = cv2.FileStorage(str(folder / "endoscope_calibration.yaml"), cv2.FILE_STORAGE_WRITE)
    for name, value in {"M1": np.diag([9.0, 9, 1]), "M2": np.diag([9.0, 9, 1]), "R": np.eye(3)}.items():
        storage.write(name, value)
    for name, value in {"D1": np.zeros((1, 5)), "D2": np.zeros((1, 5)), "T": np.ones((3, 1))}.items():
        storage.write(name, value)
    storage.release()
    return folder
