"""A surgeon's hand: smooth camera motion inside the lumen."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from endomatch_ros.data.synthetic.config import SceneConfig
from endomatch_ros.data.synthetic.surface import Surface


class Trajectory:
    """Camera pose as a smooth function of time, for ever inside the lumen (it moves in and out again)."""

    def __init__(self, config: SceneConfig, surface: Surface) -> None:
        rng = np.random.default_rng([config.seed, 23])
        self._config, self._surface = config, surface
        self._reach = 3.0 if config.kind == "tunnel" else 0.35
        self._start = rng.uniform(0, 2 * np.pi)
        self._sway = _oscillation(rng, 2, 0.22 if config.kind == "tunnel" else 0.3, 0.6)
        self._turn = _oscillation(rng, 3, np.radians(6.0) * config.wobble, 1.1)
        self._gaze = np.cumsum(rng.uniform(0, 2 * np.pi, 2))
        self._roll = rng.uniform(-0.5, 0.5)

    def pose(self, time: float) -> np.ndarray:
        """``camera_from_world`` ``(4, 4)`` float64 at ``time`` seconds, translation in lumen radii."""
        centre, forward = self._centre(time), self._forward(time)
        right = np.cross([0.0, 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        base = np.stack([right, np.cross(forward, right), forward])
        roll = self._roll + 0.08 * self._config.wobble * np.sin(0.3 * time)
        jitter = cv2.Rodrigues(self._turn(time))[0] @ cv2.Rodrigues(np.array([0.0, 0.0, roll]))[0]
        rotation = jitter @ base
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ centre
        return pose

    def _along(self, time: float) -> float:
        # Mean speed of a sine of amplitude A and rate ω is 2Aω/π.
        return self._reach * np.sin(self._start + self._config.speed * np.pi / (2 * self._reach) * time)

    def _axis(self, z: float) -> np.ndarray:
        x, y = self._surface.axis(torch.tensor([z], dtype=torch.float64))
        return np.array([x.item(), y.item(), z])

    def _centre(self, time: float) -> np.ndarray:
        z = self._along(time)
        return self._axis(z) + np.append(self._sway(time * self._config.speed * 4.0), 0.0)

    def _forward(self, time: float) -> np.ndarray:
        if self._config.kind == "tunnel":
            target = self._axis(self._along(time) + 1.8)
        else:
            azimuth = self._gaze[0] + 0.25 * self._config.speed * time
            elevation = 0.5 * np.sin(self._gaze[1] + 0.2 * self._config.speed * time)
            target = self._centre(time) + np.array(
                [np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
            )
        forward = target - self._centre(time)
        return forward / np.linalg.norm(forward)


class _oscillation:  # noqa: N801 - reads as a function of time
    """Sum of three sines a component: smooth, aperiodic, bounded by about ``amplitude``."""

    def __init__(self, rng: np.random.Generator, components: int, amplitude: float, rate: float) -> None:
        self._rates = rate * rng.uniform(0.4, 1.6, (components, 3))
        self._phases = rng.uniform(0, 2 * np.pi, (components, 3))
        self._amplitude = amplitude / 2.0

    def __call__(self, time: float) -> np.ndarray:
        return self._amplitude * np.sin(self._rates * time + self._phases).sum(1)
