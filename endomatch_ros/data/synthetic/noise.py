"""Smooth periodic 3D noise: the solid texture that shapes and colours the tissue."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


class SolidNoise:
    """Band-limited Gaussian noise on the unit torus, zero mean, unit variance, with its exact spectral gradient.

    Args:
        seed: fixes the noise.
        channels: independent fields sampled together.
        size: voxels per side.
        band: lowest and highest spatial frequency in cycles per tile.
        gradient: store ∂/∂x, ∂/∂y, ∂/∂z beside each field. They are interpolated on their own: the derivative of a
            trilinear interpolant jumps at every voxel and would show as facets in the shading.
    """

    def __init__(
        self, seed: int, channels: int, size: int = 64, band: tuple[float, float] = (2.0, 8.0), gradient: bool = False
    ) -> None:
        rng = np.random.default_rng(seed)
        k = np.fft.fftfreq(size, 1.0 / size)
        kz, ky, kx = np.meshgrid(k, k, k, indexing="ij")
        norm = np.sqrt(kx**2 + ky**2 + kz**2)
        # 1/f amplitude inside the band: large forms dominate, as in tissue.
        gain = np.where((norm >= band[0]) & (norm <= band[1]), 1.0 / np.maximum(norm, 1.0) ** 1.5, 0.0)
        layers = []
        for _ in range(channels):
            spectrum = np.fft.fftn(rng.standard_normal((size, size, size))) * gain
            value = np.fft.ifftn(spectrum).real
            scale = 1.0 / value.std()
            layers.append(value * scale)
            if gradient:
                layers += [np.fft.ifftn(2j * np.pi * axis * spectrum).real * scale for axis in (kx, ky, kz)]
        wrapped = np.pad(np.stack(layers), ((0, 0), (0, 1), (0, 1), (0, 1)), mode="wrap")
        self._volume = torch.from_numpy(wrapped.astype(np.float32))[None]

    def channels(self, *wanted: int) -> SolidNoise:
        """Only these of the fields, for callers that need no more of them: the others cost as much."""
        fewer = copy.copy(self)
        fewer._volume = self._volume[:, list(wanted)]
        return fewer

    def split(self) -> tuple[SolidNoise, SolidNoise]:
        """The value fields and the gradient fields apart, for callers that need one of them at a time."""
        every = range(self._volume.shape[1])
        return self.channels(*every[::4]), self.channels(*(i for i in every if i % 4))

    def __call__(self, points: Tensor) -> Tensor:
        """Noise at ``points`` ``(N, 3)`` (period 1): ``(N, C)``, with ``gradient`` ``(N, 4·C)`` as value, x, y, z."""
        volume = self._volume.to(points)
        grid = points - torch.floor(points)
        grid.mul_(2.0).sub_(1.0)
        # align_corners=True: the padded plane makes coordinate 1 the same sample as coordinate 0. The points lie along
        # the last axis, which PyTorch walks with the least ado.
        out = functional.grid_sample(volume, grid[None, None, None], mode="bilinear", align_corners=True)
        return out[0, :, 0, 0].T
