"""The same numbers on every device: float32 there against float64 on the CPU."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.registration import DEVICES, model

from endomatch_ros.geometry.fields import compose, integrate, jacobian_determinant, warp
from endomatch_ros.gvsl.losses import LossConfig, gvsl_loss
from endomatch_ros.gvsl.registration import Registrar, model_field
from endomatch_ros.gvsl.volumes import Volume, VolumeConfig

SPATIAL = {2: (24, 31), 3: (14, 17, 12)}


def images(dims: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    batch = {name: torch.rand(2, 1, *SPATIAL[dims], generator=generator) for name in ("clean", "fixed", "moving")}
    mask = torch.ones(2, 1, *SPATIAL[dims])
    mask[..., :2] = 0
    return {**batch, "clean_mask": mask, "fixed_mask": mask.flip(-1)}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dims", [2, 3])
def test_field_loss_and_gradients_are_those_of_float64(device: str, dims: int) -> None:
    exact, own = model(dims).double(), model(dims).to(device)
    results = []
    for network, dtype in ((exact, torch.float64), (own, torch.float32)):
        where = next(network.parameters()).device
        batch = {name: values.to(where, dtype) for name, values in images(dims).items()}
        output = network(batch["moving"], batch["fixed"], batch["clean"])
        loss = gvsl_loss(output, batch, LossConfig(window=5)).total
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        results.append((output.field.detach().cpu().double(), loss.item(), gradient.cpu().double()))
    (field0, loss0, gradient0), (field1, loss1, gradient1) = results
    assert field0.abs().max() > 0.5
    torch.testing.assert_close(field1, field0, atol=2e-3, rtol=0)
    assert loss1 == pytest.approx(loss0, abs=1e-4)
    assert (gradient1 - gradient0).norm() < 0.02 * gradient0.norm()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dims", [2, 3])
def test_fields_compute_the_same(device: str, dims: int) -> None:
    generator = torch.Generator().manual_seed(2)
    field = torch.randn(2, dims, *SPATIAL[dims], generator=generator)
    image = torch.rand(2, 1, *SPATIAL[dims], generator=generator)
    for function in (
        lambda u, x: warp(x, u),
        lambda u, x: compose(u, 0.5 * u),
        lambda u, x: integrate(u, 5),
        lambda u, x: jacobian_determinant(u),
    ):
        found = function(field.to(device), image.to(device)).cpu()
        torch.testing.assert_close(found, function(field.double(), image.double()).float(), atol=2e-4, rtol=1e-4)
    assert torch.equal(warp(image.to(device), torch.zeros_like(field).to(device)).cpu(), image)


@pytest.mark.parametrize("device", DEVICES)
def test_volumes_register_on_a_device_as_on_the_cpu(device: str) -> None:
    rng = np.random.default_rng(0)
    volumes = [Volume(rng.random((16, 18, 14), np.float32), np.eye(4)) for _ in range(2)]
    config, network = VolumeConfig(size=(16, 20, 16)), model(3)
    reference = Registrar(model_field(copy.deepcopy(network)), config).register(*volumes)
    found = Registrar(model_field(network, device), config).register(*volumes)
    assert found.field.device.type == "cpu"
    torch.testing.assert_close(found.field, reference.field, atol=2e-3, rtol=0)
