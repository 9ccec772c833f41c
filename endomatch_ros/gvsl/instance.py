"""Instance optimisation: gradient steps of the objective on a pair itself improve its field."""

from __future__ import annotations

import torch

from endomatch_ros.geometry.fields import compose, compose_affine, integrate, warp
from endomatch_ros.gvsl.losses import LossConfig, correlation_loss, smoothness_loss
from endomatch_ros.gvsl.model import GvslModel, enlarged_field

_SQUARINGS = 4  # what is added to the network's deformation is small
_LOSS = LossConfig()


def instance_optimised(
    model: GvslModel, moving: torch.Tensor, fixed: torch.Tensor, steps: int, rate: float = 0.2
) -> torch.Tensor:
    """The model's field of a pair after ``steps`` steps of Adam on the local deformation.

    The deformation is the network's after the flow of a velocity field, which is what is optimised, from zero on: so it
    hardly folds, as the network's own. Minimised is what pre-training minimises, local correlation and smoothness
    (Balakrishnan et al., IEEE TMI 38(8), 2019, do the same with theirs). The affine map stays.

    Args:
        model: in eval mode.
        moving: ``(B, C, *spatial)``, intensities in [0, 1].
        fixed: of the same shape.
        steps: 0 for the model's own field.
        rate: of Adam, voxels of the network's grid; chosen on the hippocampus data's validation subjects.

    Returns:
        ``(B, D, *spatial)`` float32, without a gradient.
    """
    with torch.no_grad():
        found = model(moving, fixed)
    if not steps:
        return torch.Tensor(found.field.float())
    matrix, start = found.matrix.float(), found.displacement.float()
    velocity = torch.zeros_like(start, requires_grad=True)
    optimiser = torch.optim.Adam([velocity], rate)

    def fields() -> tuple[torch.Tensor, torch.Tensor]:
        local = compose(start, integrate(velocity, _SQUARINGS))
        return local, enlarged_field(compose_affine(matrix, local), model.config.shrink, fixed.shape[2:])

    with torch.enable_grad():
        for _ in range(steps):
            local, field = fields()
            loss = correlation_loss(warp(moving, field), fixed, _LOSS) + smoothness_loss(local)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return fields()[1].detach()
