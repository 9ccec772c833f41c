"""Training by registration (arXiv 2303.00874): the head lays one image of a pair over the other, without labels.

The losses are those of :mod:`endomatch_ros.gvsl.losses`, without restoration: a matcher network has no decoder that
could give an image back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from endomatch_ros.errors import ConfigError, check_ranges
from endomatch_ros.fitting.monitor import Monitor
from endomatch_ros.geometry.fields import folding_percent, resize_field, warp
from endomatch_ros.geometry.warping import sample
from endomatch_ros.gvsl.losses import LossConfig, correlation_loss, smoothness_loss
from endomatch_ros.models import Descriptors, MatcherNetwork
from endomatch_ros.models.network import dense_head
from endomatch_ros.training.objectives.interface import DESCRIPTORS, Objective, Processes
from endomatch_ros.training.objectives.losses import to_cells

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class DenseConfig:
    """The objective ``gvsl`` and its head.

    Attributes:
        levels: resolutions of the local stage of a head that the model does not have yet.
        head_only: train the head alone; the descriptors stay bit for bit as they are.
        smoothness: weight of the field's roughness against the local correlation.
        window: side of the correlation's window in pixels of the images that are compared, odd.
        detail: pixels per side of these images that a cell of the finest map stands for.
        scales: resolutions on which they are compared, each half of the one before: a displacement that is larger than
            the window is found on the coarser ones.
        endpoint: weight of the field's distance from the pairs' known correspondences, in cells; 0 learns without them.
    """

    levels: int = 4
    head_only: bool = False
    smoothness: float = 1.0
    window: int = 9
    detail: int = 2
    scales: int = 3
    endpoint: float = 0.0

    def __post_init__(self) -> None:
        ranges = {"levels": (1, 6), "smoothness": (0.0, 1e6), "window": (3, 31), "detail": (1, 16)}
        ranges |= {"scales": (1, 6), "endpoint": (0.0, 1e6)}
        check_ranges(self, ranges, whole=("levels", "window", "detail", "scales"), what="objective.dense.")
        if self.window % 2 == 0:
            raise ConfigError(f"objective.dense.window={self.window} is even: it needs a centre, use {self.window + 1}")


@dataclass(frozen=True)
class Registration(Objective):
    """The head registers the pair; alone, or with the descriptors that it reads.

    Attributes:
        dense: the head's levels, weights, window and resolutions.
    """

    name = "gvsl"
    monitor = Monitor("val_dense_error", "min")
    printed = ("val_dense_error", "val_folding")
    dense: DenseConfig

    @property
    def keeps_descriptors(self) -> bool:
        """Only the head moves if it is trained alone."""
        return self.dense.head_only

    def prepare(self, network: MatcherNetwork) -> None:
        """A network without a head gets one, which starts as the exact identity."""
        if network.dense is None:
            network.config = replace(network.config, dense_levels=self.dense.levels)
            network.dense = dense_head(network.config, network.backbone.embed_dim)

    def trains(self, network: MatcherNetwork) -> frozenset[str]:
        """The head, and if it is not alone the descriptors."""
        return frozenset({"dense"}) if self.keeps_descriptors else DESCRIPTORS | {"dense"}

    def losses(
        self,
        network: MatcherNetwork,
        first: Descriptors,
        second: Descriptors,
        batch: dict[str, Tensor],
        processes: Processes,
    ) -> dict[str, Tensor]:
        """Those of :func:`dense_losses`."""
        return dense_losses(network, first, second, batch, self.dense)

    def figures(
        self, network: MatcherNetwork, first: Descriptors, second: Descriptors, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Median distance in pixels of the field, and of no motion, from the truth; share of the field that folds."""
        field = network.register(first, second).field
        led = dense_targets(field, batch["points0"], batch["image0"].shape[-1])
        return {
            "val_dense_error": (led - batch["points1"]).norm(dim=2).median(),
            "val_dense_error_identity": (batch["points0"] - batch["points1"]).norm(dim=2).median(),
            "val_folding": folding_percent(field).mean(),
        }


def dense_losses(
    network: MatcherNetwork, first: Descriptors, second: Descriptors, batch: dict[str, Tensor], config: DenseConfig
) -> dict[str, Tensor]:
    """The weighted parts of the objective, scalars; each image of a pair is laid over the other.

    ``similarity`` is minus the squared local correlation of the registered images, −1 to 0, ``smoothness`` the
    roughness of the local deformation, ``endpoint``, if it is wanted, the distance from the correspondences.

    Args:
        network: with a head.
        first: descriptors of the first images of ``B`` pairs.
        second: of the second ones.
        batch: with ``image0``, ``image1`` ``(B, 3, H, W)`` uint8 and ``view0``, ``view1`` ``(B, 1, H, W)`` bool.
        config: weights, window and resolutions; with ``endpoint`` the batch also has ``points0``, ``points1``
            ``(B, K, 2)``.
    """
    matching = network.register(_joined(first, second), _joined(second, first))
    images, views = ([batch[f"{name}{k}"] for k in "01"] for name in ("image", "view"))
    similarity = matching.field.new_zeros(())
    for scale in range(config.scales):
        size = [max(config.detail * cells // 2**scale, 3) for cells in matching.field.shape[2:]]
        shown = [_shrunken(grey(image), size) for image in images]
        # A pixel counts if all that it was made of lies in the view.
        valid = [(_shrunken(view.float(), size) > 0.999).float() for view in views]
        field = resize_field(matching.field, size)
        warped = warp(torch.cat(shown[::-1]), field)
        mask = torch.cat(valid) * warp(torch.cat(valid[::-1]), field.detach(), "nearest", "zeros")
        loss = correlation_loss(warped, torch.cat(shown), LossConfig(window=config.window), mask)
        similarity = similarity + loss / config.scales
    parts = {"similarity": similarity, "smoothness": config.smoothness * smoothness_loss(matching.displacement)}
    if config.endpoint:
        parts["endpoint"] = config.endpoint * _endpoint(matching.field, batch)
    return parts


def _endpoint(field: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean distance in cells of the field's targets, both ways ``(2B, 2, h, w)``, from the true ones."""
    width = batch["image0"].shape[-1]
    ways = [torch.cat([batch[f"points{k}"] for k in order]) for order in ((0, 1), (1, 0))]
    distance = (dense_targets(field, ways[0], width) - ways[1]).norm(dim=2)
    return distance.mean() * (field.shape[-1] / width)


def dense_targets(field: Tensor, points: Tensor, width: int) -> Tensor:
    """Where a field leads pixels: ``(B, K, 2)`` pixels (x, y) of the other image.

    Args:
        field: ``(B, 2, h, w)`` in cells, (row, column), of :meth:`~endomatch_ros.models.MatcherNetwork.register`.
        points: ``(B, K, 2)`` pixels (x, y).
        width: of the images in pixels.
    """
    stride = width / field.shape[-1]
    return points + stride * sample(field, to_cells(points, stride)).flip(-1)


def grey(image: Tensor) -> Tensor:
    """Luminance ``(B, 1, H, W)`` in 0…1 of RGB bytes ``(B, 3, H, W)``."""
    weights = torch.tensor(_GREY, device=image.device)
    return (image.float() * weights[:, None, None]).sum(dim=1, keepdim=True) / 255


def _joined(a: Descriptors, b: Descriptors) -> Descriptors:
    fine = None if a.fine is None or b.fine is None else torch.cat([a.fine, b.fine])
    return Descriptors(torch.cat([a.coarse, b.coarse]), fine)


def _shrunken(values: Tensor, size: list[int]) -> Tensor:
    return functional.interpolate(values, size, mode="area")
