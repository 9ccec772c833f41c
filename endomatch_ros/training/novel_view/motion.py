"""How the virtual camera and the tissue move between a frame and its novel view."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import ConfigError

Array = NDArray[np.float64]

_WAVES = 3  # plane waves that make up a deformation


@dataclass(frozen=True)
class MotionConfig:
    """Ranges of the motion; lengths are shares of the scene's median depth, so that no unit is needed.

    Attributes:
        translation: least and largest camera translation, drawn log-uniformly, any direction.
        rotation: deviation of the camera's rotation about each axis, radians.
        deformation: deviation of the tissue's own motion, 0 for rigid tissue.
        deformation_share: share of the pairs whose tissue deforms, 0 to 1.
        wavelength: least and largest wavelength of the deformation.
    """

    translation: tuple[float, float] = (0.02, 0.3)
    rotation: float = 0.12
    deformation: float = 0.015
    deformation_share: float = 0.5
    wavelength: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        for name in ("translation", "wavelength"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 10:
                raise ConfigError(f"motion.{name} is [{low}, {high}]: give 0 < least <= largest <= 10")
        if not 0 <= self.rotation <= 1 or not 0 <= self.deformation <= 0.2 or not 0 <= self.deformation_share <= 1:
            raise ConfigError(
                f"motion: rotation {self.rotation}, deformation {self.deformation}, deformation_share "
                f"{self.deformation_share} must lie in 0 to 1, 0.2 and 1"
            )


def random_pose(config: MotionConfig, depth: float, rng: np.random.Generator) -> Array:
    """``novel_from_source`` ``(4, 4)`` for a scene of median depth ``depth``."""
    direction = rng.normal(size=3)
    length = depth * np.exp(rng.uniform(*np.log(config.translation)))
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(rng.normal(0, config.rotation, 3))[0]
    pose[:3, 3] = length * direction / np.linalg.norm(direction)
    return pose


def random_displacement(points: Array, config: MotionConfig, depth: float, rng: np.random.Generator) -> Array | None:
    """Smooth motion ``(N, 3)`` of tissue at ``points`` ``(N, 3)``, a sum of plane waves; ``None`` for rigid tissue."""
    if config.deformation == 0 or rng.random() >= config.deformation_share:
        return None
    total = np.zeros_like(points)
    for _ in range(_WAVES):
        direction = rng.normal(size=3)
        length = depth * rng.uniform(*config.wavelength)
        phase = points @ (2 * np.pi / length * direction / np.linalg.norm(direction)) + rng.uniform(0, 2 * np.pi)
        total += np.sin(phase)[:, None] * rng.normal(0, depth * config.deformation / np.sqrt(_WAVES), 3)
    return total
