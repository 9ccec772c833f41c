"""The tissue's surface as an implicit function, its deformation, and exact ray intersection.

Lengths are in lumen radii, world axes as the camera's at rest (x right, y down, z along the lumen). Inside the lumen
the function is negative. The same code runs in float32 for images and float64 for exact correspondences.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from endomatch_ros.data.synthetic.config import SceneConfig
from endomatch_ros.data.synthetic.noise import SolidNoise

FAR = 14.0  # lumen radii; what lies deeper receives no light and counts as not hit
_STEEPNESS = 1.5  # |∇f| assumed by the marching step; the tests check that no surface is skipped
_WAVE_NUMBERS = (1.0, 2.5)  # radians per lumen radius of the tissue's motion


class Surface:
    """Implicit tissue surface ``f(X) = 0`` and its smooth motion ``X = X0 + u(X0, t)``."""

    def __init__(self, config: SceneConfig) -> None:
        rng = np.random.default_rng([config.seed, 11])
        self._kind = config.kind
        self._relief, self._slope = SolidNoise(int(rng.integers(2**31)), channels=1, gradient=True).split()
        self._offset = torch.from_numpy(rng.random(3))
        tunnel = config.kind == "tunnel"
        # Bulges (tile frequency, amplitude): one coarse, one fine octave of the same volume.
        self._octaves = (
            (0.11, rng.uniform(0.07, 0.12) if tunnel else rng.uniform(0.12, 0.2)),
            (0.31, rng.uniform(0.012, 0.025)),
        )
        self._bend = rng.uniform([0.25, 0.35, 0.0], [0.5, 0.55, 2 * np.pi], (2, 3))  # amplitude, frequency, phase
        self._axes = rng.uniform(1.1, 1.7, 3)  # the cavity's half axes
        self._fold = (
            rng.uniform(0.16, 0.3),
            rng.uniform(2.2, 3.6),
            rng.uniform(0, 2 * np.pi),
            rng.uniform(-0.5, 0.5, 2),
        )
        self._waves = _waves(rng, config.deformation)
        self._contraction = config.deformation * _WAVE_NUMBERS[1]

    def axis(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Centre line ``x, y`` of the tunnel at ``z``; zero for a cavity."""
        if self._kind == "cavity":
            return torch.zeros_like(z), torch.zeros_like(z)
        (a, k, p), (b, m, q) = self._bend
        return a * torch.sin(k * z + p), b * torch.sin(m * z + q)

    def _lean(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of the tunnel's centre line by ``z``."""
        (a, k, p), (b, m, q) = self._bend
        return a * k * torch.cos(k * z + p), b * m * torch.cos(m * z + q)

    def value(self, points: Tensor) -> Tensor:
        """``f`` at undeformed ``points`` ``(N, 3)``: ``(N,)``."""
        value = self._cavity(points)[0] if self._kind == "cavity" else self._tunnel(points, gradient=False)[0]
        for frequency, amplitude in self._octaves:
            value -= amplitude * self._relief((points * frequency).add_(self._offset.to(points)))[:, 0]
        return value

    def gradient(self, points: Tensor) -> Tensor:
        """``∇f`` at undeformed ``points`` ``(N, 3)``: ``(N, 3)``, pointing out of the lumen into the tissue."""
        gradient = self._cavity(points)[1] if self._kind == "cavity" else self._tunnel(points, gradient=True)[1]
        for frequency, amplitude in self._octaves:
            slope = self._slope(points * frequency + self._offset.to(points))
            gradient = gradient - amplitude * frequency * slope
        return gradient

    def _tunnel(self, points: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
        x, y, z = points.unbind(1)
        cx, cy = self.axis(z)
        dx, dy = x - cx, y - cy
        rho = torch.sqrt(dx * dx + dy * dy).clamp_min(1e-6)
        # Folds: narrow ring-like ridges, tilted so that they do not look machined.
        height, k, phase, tilt = self._fold
        inner = k * z + phase + tilt[0] * dx + tilt[1] * dy
        wave = 0.5 + 0.5 * torch.cos(inner)
        value = rho - 1.0 + height * wave**6
        if not gradient:
            return value, value
        sx, sy = self._lean(z)
        radial = torch.stack([dx / rho, dy / rho, -(dx * sx + dy * sy) / rho], 1)
        slope = -3.0 * torch.sin(inner) * wave**5 * height
        along = k - tilt[0] * sx - tilt[1] * sy
        direction = torch.stack([torch.full_like(z, tilt[0]), torch.full_like(z, tilt[1]), along], 1)
        return value, radial + slope[:, None] * direction

    def _cavity(self, points: Tensor) -> tuple[Tensor, Tensor]:
        axes = torch.as_tensor(self._axes, dtype=points.dtype, device=points.device)
        scaled = points / axes
        norm = scaled.norm(dim=1).clamp_min(1e-6)
        return norm - 1.0, scaled / axes / norm[:, None]

    def displacement(self, material: Tensor, time: float) -> Tensor:
        """Tissue motion ``u(X0, t)`` ``(N, 3)`` at material points ``(N, 3)``."""
        out = torch.zeros_like(material)
        for direction, wave, phase, rate in self._waves:
            vector = torch.as_tensor(wave, dtype=material.dtype, device=material.device)
            push = torch.as_tensor(direction, dtype=material.dtype, device=material.device)
            out = out + torch.sin(material @ vector + phase + rate * time)[:, None] * push
        return out

    def material(self, points: Tensor, time: float) -> Tensor:
        """Undeformed ``X0`` of deformed ``points``, by fixed-point iteration: a contraction, |∇u| ≤ 0.5."""
        if not self._waves:
            return points
        precision = 1e-6 if points.dtype == torch.float32 else 1e-14
        material = points
        for _ in range(math.ceil(math.log(precision) / math.log(self._contraction))):
            material = points - self.displacement(material, time)
        return material

    def intersect(self, origin: Tensor, directions: Tensor, time: float, start: Tensor | None = None) -> Tensor:
        """First hit along rays: depth ``τ`` ``(N,)`` with ``X = origin + τ·direction``; ``inf`` where nothing is hit.

        Args:
            origin: ``(3,)`` camera centre.
            directions: ``(N, 3)`` with unit component along the optical axis, so that ``τ`` is the z depth.
            time: seconds.
            start: ``(N,)`` depths known to lie before the surface.
        """
        stretch = 1.0 / (directions.norm(dim=1) * _STEEPNESS)
        begin = torch.full_like(stretch, 0.02) if start is None else start

        def inside(tau: Tensor, rays: Tensor) -> Tensor:
            return self.value(self.material(origin + tau[:, None] * rays, time))

        bracket = _march(inside, directions, stretch, begin)
        index = torch.nonzero(torch.isfinite(bracket).all(0))[:, 0]
        out = torch.full_like(begin, torch.inf)
        rays = directions.index_select(0, index)
        out[index] = _false_position(lambda tau: inside(tau, rays), *bracket.index_select(1, index))
        return out


def _march(inside: Callable[[Tensor, Tensor], Tensor], rays: Tensor, stretch: Tensor, begin: Tensor) -> Tensor:
    """The last depth inside and the first one outside along each ray, ``(2, N)``; ``inf`` where there is none."""
    bracket = torch.full((2, len(begin)), torch.inf, dtype=begin.dtype, device=begin.device)
    active, tau, before = torch.arange(len(begin), device=begin.device), begin, bracket[0]
    for _ in range(160):
        if len(active) == 0:
            break
        f = inside(tau, rays)
        crossed = torch.nonzero(f >= 0.0)[:, 0]
        there = active.index_select(0, crossed)
        bracket[0].index_copy_(0, there, before.index_select(0, crossed))
        bracket[1].index_copy_(0, there, tau.index_select(0, crossed))
        # The least step grows with the distance, like the size of a pixel on the surface.
        ahead = tau + torch.maximum(-f, 0.01 + 0.01 * tau) * stretch
        going = torch.nonzero((f < 0.0) & (ahead < FAR))[:, 0]
        # index_select is several times faster than indexing with a mask.
        active, rays, stretch, before, tau = (
            values.index_select(0, going) for values in (active, rays, stretch, tau, ahead)
        )
    return bracket


def _false_position(inside: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Root between ``low`` (inside) and ``high`` (outside) by the Illinois false-position method."""
    # Not the march's values: PyTorch may round the last elements of an array otherwise, and scenes keep every bit.
    f_low, f_high = inside(low), inside(high)
    side = torch.zeros_like(low)
    for _ in range(6 if low.dtype == torch.float32 else 40):
        span = f_high - f_low
        middle = torch.where(span > 0, (low * f_high - high * f_low) / span, low)
        f = inside(middle)
        outside = f >= 0.0
        f_low = torch.where(outside & (side > 0), 0.5 * f_low, f_low)
        f_high = torch.where(~outside & (side < 0), 0.5 * f_high, f_high)
        high, f_high = torch.where(outside, middle, high), torch.where(outside, f, f_high)
        low, f_low = torch.where(outside, low, middle), torch.where(outside, f_low, f)
        side = torch.where(outside, 1.0, -1.0).to(low.dtype)
    return torch.where(f_high < -f_low, high, low)


def _waves(rng: np.random.Generator, amplitude: float) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
    """Travelling waves (direction, wave vector, phase, angular rate): breathing and peristalsis."""
    if amplitude == 0.0:
        return []
    waves = []
    for _ in range(3):
        direction, wave = rng.standard_normal(3), rng.standard_normal(3)
        direction *= amplitude / 3.0 / np.linalg.norm(direction)
        wave *= rng.uniform(*_WAVE_NUMBERS) / np.linalg.norm(wave)
        waves.append((direction, wave, rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 3.0)))
    return waves
