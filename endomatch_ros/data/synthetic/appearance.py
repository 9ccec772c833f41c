"""Colour, light and sensor: what makes the surface look like tissue through an endoscope."""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from endomatch_ros.data.synthetic.config import SceneConfig
from endomatch_ros.data.synthetic.noise import SolidNoise


class Appearance:
    """Albedo by solid texture, a light on the camera, wet highlights, and an imperfect sensor."""

    def __init__(self, config: SceneConfig) -> None:
        rng = np.random.default_rng([config.seed, 37])
        self._config = config
        texture = SolidNoise(int(rng.integers(2**31)), channels=4, size=64, band=(2.0, 10.0))
        self._texture, self._two_fields, *self._fields = (
            texture.channels(*wanted) for wanted in ((0, 1, 2, 3), (0, 1), (0,), (1,))
        )
        bump = SolidNoise(int(rng.integers(2**31)), channels=1, size=64, band=(3.0, 12.0), gradient=True)
        self._patches, self._bump = bump.split()
        hue = rng.uniform(-0.01, 0.05)
        self._pale = _colour(hue + 0.02, rng.uniform(0.25, 0.42), 0.92)
        self._flush = _colour(hue - 0.01, rng.uniform(0.5, 0.68), 0.78)
        self._vessel = _colour(hue - 0.02, rng.uniform(0.68, 0.82), rng.uniform(0.42, 0.6))
        self._shift = rng.random((6, 3))
        self._scale = float(rng.uniform(0.85, 1.3))
        self._vessel_strength = rng.uniform(0.45, 0.9, 2)
        self._mottle = rng.uniform(0.05, 0.11, 3)
        self._shine = (float(rng.uniform(60, 160)), config.specular * float(rng.uniform(0.5, 1.2)))
        self._light = rng.normal(0, 0.05, 3) * [1, 1, 0.2]
        self._warmth = np.array([1.0, rng.uniform(0.93, 1.0), rng.uniform(0.85, 1.0)])

    def albedo(self, material: Tensor) -> Tensor:
        """Reflectance ``(N, 3)`` in 0…1 at undeformed points ``(N, 3)``, so that texture moves with the tissue."""
        shift = torch.as_tensor(self._shift, dtype=material.dtype, device=material.device)

        def layer(noise: SolidNoise, frequency: float, k: int) -> Tensor:
            return noise(material * (frequency * self._scale) + shift[k])

        broad, middle = layer(self._texture, 0.07, 0), layer(self._texture, 0.22, 1)
        fine, grain = layer(self._two_fields, 0.7, 2), layer(self._fields[0], 1.9, 3)
        flush = torch.sigmoid(1.5 * broad[:, 0] + 0.9 * middle[:, 0])[:, None]
        colour = _mix(self._tensor(self._pale, material), self._tensor(self._flush, material), flush)
        for k, (frequency, width) in enumerate(((0.13, 0.11), (0.34, 0.13))):
            # A vessel runs where a noise field is zero; bending its domain makes it wind, gating makes it end.
            bent = material * (frequency * self._scale) + 0.012 * torch.stack(
                [middle[:, 1], middle[:, 2], fine[:, 1]], 1
            )
            field = self._fields[k](bent + shift[4 + k])
            line = torch.exp(-((field[:, 0] / (width * (1.0 + 0.4 * broad[:, 1].clamp(-1.5, 1.5)))) ** 2))
            gate = torch.sigmoid(2.0 * broad[:, 2 + k] + 0.6 * middle[:, 3])
            amount = (float(self._vessel_strength[k]) * line * gate)[:, None]
            colour = _mix(colour, self._tensor(self._vessel, material), amount)
        mottle = self._mottle[0] * middle[:, 2] + self._mottle[1] * fine[:, 0] + self._mottle[2] * grain[:, 0]
        return (colour * torch.exp(mottle)[:, None]).clamp(0.01, 1.0)

    def shade(self, material: Tensor, points: Tensor, normals: Tensor) -> Tensor:
        """Linear radiance ``(N, 3)`` of camera-frame ``points`` ``(N, 3)`` with unit ``normals`` facing the camera.

        The light sits beside the lens, so brightness falls with the inverse square of the distance.
        """
        to_light = self._tensor(self._light, points) - points
        distance2 = (to_light**2).sum(1)
        to_light = to_light / distance2.sqrt()[:, None]
        view = -functional.normalize(points, dim=1)
        lambert = (normals * to_light).sum(1).clamp_min(0.0)
        # Light scattered under the surface fills grazing angles a little.
        diffuse = (0.85 * lambert + 0.15 * torch.sqrt(lambert + 1e-4)) / distance2
        bumped = functional.normalize(normals + 0.006 * self._bump(material * 0.9), dim=1)
        half = functional.normalize(to_light + view, dim=1)
        power, strength = self._shine
        # Mucus lies in patches: dry tissue hardly shines.
        wet = torch.sigmoid(3.0 * self._patches(material * 0.11)[:, 0] - 1.5)
        shine = strength * wet * (bumped * half).sum(1).clamp_min(0.0) ** power / distance2
        return self.albedo(material) * self._tensor(self._warmth, points) * diffuse[:, None] + shine[:, None]

    def expose(self, radiance: Tensor, view: Tensor) -> Tensor:
        """Automatic exposure and tone curve: ``(H, W, 3)`` linear radiance to display values 0…1.

        Args:
            radiance: ``(H, W, 3)``.
            view: ``(H, W)`` bool, the pixels inside the view circle.
        """
        luminance = radiance.mean(2)[view]
        level = torch.quantile(luminance[:: max(1, len(luminance) // 20000)], 0.75).clamp_min(1e-6)
        linear = radiance * (0.36 / level)
        shoulder = torch.where(linear < 0.6, linear, 0.6 + 0.4 * (1.0 - torch.exp(-(linear - 0.6) / 0.4)))
        # Specular peaks must still clip to white, as on a real sensor.
        return torch.where(linear > 2.5, torch.ones_like(linear), shoulder).clamp(0, 1) ** (1 / 2.2)

    def sense(self, image: Tensor, vignette: Tensor, rng: np.random.Generator) -> np.ndarray:
        """Lens blur, vignette and sensor noise: display values ``(H, W, 3)`` to RGB uint8."""
        planes = functional.avg_pool2d(image.permute(2, 0, 1)[None], 3, 1, 1, count_include_pad=False)
        soft = (0.5 * image + 0.5 * planes[0].permute(1, 2, 0)) * vignette[:, :, None]
        levels = soft.cpu().numpy() * 255.0
        h, w = levels.shape[:2]
        # Shot noise grows with the signal; the luminance part is shared by the channels, as after demosaicing.
        sigma = self._config.noise * np.sqrt(0.35 + levels / 196.0)
        grain = 0.8 * rng.standard_normal((h, w, 1), dtype=np.float32) + 0.6 * rng.standard_normal(
            (h, w, 3), dtype=np.float32
        )
        return np.clip(levels + sigma * grain + 0.5, 0, 255).astype(np.uint8)

    @staticmethod
    def _tensor(values: np.ndarray, like: Tensor) -> Tensor:
        return torch.as_tensor(values, dtype=like.dtype, device=like.device)


def _mix(a: Tensor, b: Tensor, amount: Tensor) -> Tensor:
    return a + (b - a) * amount


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    # Squared: palette in display values, shading in linear light.
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value)) ** 2.2
