"""Contrastive losses on descriptor maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from endomatch_ros.geometry.warping import sample
from endomatch_ros.training.objectives.mining import hardest_elsewhere, hardest_in_image


def sample_map(features: Tensor, cells: Tensor) -> Tensor:
    """Descriptors between the cells of ``(B, C, h, w)``: samples at ``(B, K, 2)``, L2-normalised again, ``(B, K, C)``.

    Convention: cell ``(0, 0)``'s centre is coordinate (0, 0).
    """
    return functional.normalize(sample(features, cells), dim=2)


def to_cells(points: Tensor, stride: float) -> Tensor:
    """Pixels as coordinates on a map with cells of ``stride`` pixels; the inverse is (cells + ½)·stride − ½."""
    return (points + 0.5) / stride - 0.5


def descriptor_distance(similarity: Tensor) -> Tensor:
    """Euclidean distance of unit vectors by their cosine: d = √(2 − 2·cos), 0 to 2."""
    # Below the floor the square root's slope would blow up rounding noise.
    return (2 - 2 * similarity).clamp_min(1e-6).sqrt()


def triplet_margin(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Mean of max(0, d⁺ − d⁻ + margin) over triplets given by their cosine similarities (arXiv 2512.10379)."""
    return (descriptor_distance(positive) - descriptor_distance(negative) + margin).clamp_min(0).mean()


def triplet_loss(
    anchors: Tensor,
    features: Tensor,
    targets: Tensor,
    margin: float,
    radius: float,
    valid: Tensor | None = None,
    others: Tensor | None = None,
) -> Tensor:
    """Triplet margin loss with the hardest negatives of the same image, and of other images beside them.

    Args:
        anchors: ``(B, K, C)`` L2-normalised.
        features: ``(B, C, h, w)`` L2-normalised, the other image of the pair.
        targets: ``(B, K, 2)`` cell coordinates of the true partners.
        margin: least difference of the distances.
        radius: in cells; see :func:`~endomatch_ros.training.objectives.mining.hardest_in_image`.
        valid: ``(B, h, w)`` bool, cells in view.
        others: ``(B, M, C)`` descriptors of other images; none if ``None``.

    Returns:
        The mean over all triplets of both kinds, scalar.
    """
    positive = (anchors * sample_map(features, targets)).sum(2)
    negative = hardest_in_image(anchors, features, targets, radius, valid).similarity
    loss = triplet_margin(positive, negative, margin)
    if others is None:
        return loss
    return 0.5 * (loss + triplet_margin(positive, hardest_elsewhere(anchors, others), margin))


def soft_target_cross_entropy(anchors: Tensor, features: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE of anchors against every cell of the other image, with a bilinear soft target.

    The target's mass is shared by the four cells around it in proportion to their bilinear weights, so that the
    maximum of the similarity can be learnt to sub-cell accuracy. With weights w that sum to 1,
    −Σ w·log softmax(s) = logsumexp(s) − Σ w·s, and Σ w·s is the anchor's product with the interpolated map.

    Args:
        anchors: ``(B, K, C)`` L2-normalised.
        features: ``(B, C, h, w)`` L2-normalised.
        targets: ``(B, K, 2)`` cell coordinates of the true partners.
        scale: inverse temperature, scalar.

    Returns:
        Mean cross-entropy in nats, scalar.
    """
    everywhere = torch.logsumexp(scale * anchors @ features.flatten(2), dim=2)  # (B, K)
    at_target = scale * (anchors * sample(features, targets)).sum(2)
    return (everywhere - at_target).mean()


def symmetric_infonce(map0: Tensor, map1: Tensor, cells0: Tensor, cells1: Tensor, scale: Tensor) -> Tensor:
    """:func:`soft_target_cross_entropy` from image 0 to 1 and back, averaged."""
    forward = soft_target_cross_entropy(sample_map(map0, cells0), map1, cells1, scale)
    backward = soft_target_cross_entropy(sample_map(map1, cells1), map0, cells0, scale)
    return 0.5 * (forward + backward)
