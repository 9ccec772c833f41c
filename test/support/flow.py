"""Flow fields and coarse matches from and to numpy arrays."""

import numpy as np
import torch

from endomatch_ros.matching.coarse import CoarseMatches
from endomatch_ros.matching.refiners.field import Field, fit_field


def fit(points, flow, size, spacing, **options):
    """:func:`fit_field` of arrays: the field, and the residuals as an array."""
    if options.get("weights") is not None:
        options["weights"] = torch.from_numpy(np.asarray(options["weights"], np.float32))
    field, residual = fit_field(tensor(points), tensor(flow), size, spacing, **options)
    return field, residual.numpy()


def at(field: Field, points):
    """The field's flow at points ``(N, 2)``."""
    return field.at(tensor(points)).cpu().numpy()


def coarse_matches(points0, points1, device="cpu"):
    """Coarse matches of similarity 1."""
    return CoarseMatches(*(part.to(device) for part in (tensor(points0), tensor(points1), torch.ones(len(points0)))))


def tensor(values):
    """As float32."""
    return torch.from_numpy(np.asarray(values, np.float32))
