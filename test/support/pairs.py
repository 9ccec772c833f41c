"""A small network and pairs of images that are moved by known amounts, to train on."""

from __future__ import annotations

import torch

from endomatch_ros.models import Descriptors, MatcherNetwork, ModelConfig
from endomatch_ros.models.backbones.registry import build_backbone

CONFIG = ModelConfig(embed_dim=32, depth=1, heads=2, stem_channels=16, fine_dim=8, dense_levels=2)
STRIDE, SIZE = 4, (96, 128)  # pixels of a fine cell; height and width


def make(config: ModelConfig = CONFIG) -> MatcherNetwork:
    """With random weights, the same ones each time."""
    torch.manual_seed(0)
    return MatcherNetwork(config, build_backbone(config))


def texture(seed: int = 0, smooth: int = 5) -> torch.Tensor:
    """Smooth noise, ``(1, 3, *SIZE)`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, SIZE[0] + smooth - 1, SIZE[1] + smooth - 1, generator=generator)
    values = torch.nn.functional.avg_pool2d(noise, smooth, 1)
    return (255 * (values - values.min()) / (values.max() - values.min())).round().byte()


def pair(rows: int = 0, columns: int = 0, smooth: int = 5, seed: int = 0) -> dict[str, torch.Tensor]:
    """An image, the same moved by so many pixels, and points that show the same in both."""
    image, view = texture(seed, smooth), torch.ones(1, 1, *SIZE, dtype=torch.bool)
    y, x = torch.meshgrid(torch.arange(24, 72, 6.0), torch.arange(24, 104, 6.0), indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], 1)[None]
    return {
        "image0": image,
        "image1": torch.roll(image, (rows, columns), (2, 3)),
        "view0": view,
        "view1": view.clone(),
        "points0": points,
        "points1": points + torch.tensor([float(columns), float(rows)]),
    }


def descriptors(network: MatcherNetwork, batch: dict[str, torch.Tensor]) -> list[Descriptors]:
    """Of both images of the pairs."""
    return [network(batch[name].float() / 255) for name in ("image0", "image1")]
