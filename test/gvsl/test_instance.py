"""Instance optimisation: it lowers the objective, keeps the model and the topology, and is off at no steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from support.registration import DEVICES, model

from endomatch_ros.errors import ConfigError
from endomatch_ros.geometry.fields import folding_percent, warp
from endomatch_ros.gvsl import cli, registration
from endomatch_ros.gvsl.config import GvslConfig
from endomatch_ros.gvsl.instance import instance_optimised
from endomatch_ros.gvsl.losses import LossConfig, correlation_loss
from endomatch_ros.gvsl.model import GvslModel

SPATIAL = {2: (40, 46), 3: (24, 20, 26)}


def pair(dims: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A textured image, the same bent by up to 1.5 voxels, and the field that leads from the second to the first."""
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.standard_normal(SPATIAL[dims]), 2.0)
    image = torch.from_numpy((image - image.min()) / np.ptp(image)).float()[None, None]
    bend = [ndimage.gaussian_filter(rng.standard_normal(SPATIAL[dims]), 6.0) for _ in range(dims)]
    field = torch.from_numpy(np.stack([1.5 * b / np.abs(b).max() for b in bend])).float()[None]
    return image, warp(image, field), field


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dims", [2, 3])
def test_an_untrained_model_s_identity_becomes_the_true_field(dims: int, device: str) -> None:
    moving, fixed, true = (x.to(device) for x in pair(dims))
    network = GvslModel(GvslConfig(spatial_dims=dims, channels=(8, 16), shrink=2)).to(device).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = instance_optimised(network, moving, fixed, 30)
    inside = (..., *[slice(5, -5)] * dims)
    error, still = ((x - true)[inside].norm(dim=1).mean() for x in (found, torch.zeros_like(true)))
    assert error < 0.5 * still
    assert folding_percent(found) == 0
    assert not found.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("dims", [2, 3])
def test_each_step_goes_on_from_the_model_s_own_field(dims: int) -> None:
    network = model(dims).eval()
    moving, fixed, _ = pair(dims)
    with torch.no_grad():
        own = network(moving, fixed).field
    assert torch.equal(instance_optimised(network, moving, fixed, 0), own)
    fields = [instance_optimised(network, moving, fixed, steps) for steps in (1, 12)]
    assert (fields[0] - own).abs().mean() < 0.5  # a step of Adam is as long as its rate, in cells of 2 voxels
    losses = [correlation_loss(warp(moving, field), fixed, LossConfig()) for field in (own, *fields)]
    assert losses[2] < losses[1] < losses[0]


def test_it_works_where_gradients_are_off() -> None:
    network, (moving, fixed, _) = model(2).eval(), pair(2)
    expected = instance_optimised(network, moving, fixed, 2)
    with torch.no_grad():
        assert torch.equal(instance_optimised(network, moving, fixed, 2), expected)


def test_a_negative_number_of_steps_is_refused_and_the_command_has_the_default() -> None:
    with pytest.raises(ConfigError, match="refine_steps=-1"):
        registration.model_field(model(3), refine_steps=-1)
    args = cli.parse(["evaluate", "--data", "d"])
    assert args.refine_steps == registration.REFINE_STEPS
