"""The affine parametrisation and the Z-matching head."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from endomatch_ros.errors import ConfigError
from endomatch_ros.geometry.affine import AffineLimits, bounded_matrix, parameter_count
from endomatch_ros.geometry.fields import affine_field, jacobian_determinant
from endomatch_ros.models import z_matching as head_module
from endomatch_ros.models.z_matching import Matching, ZMatchingHead

SPATIAL = {2: (14, 18), 3: (10, 12, 9)}
COARSE = {2: (3, 5), 3: (3, 3, 2)}


def features(dims: int, batch: int = 2, seed: int = 0, size: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, 16, *COARSE[dims])] * 2 + [(batch, 8, *SPATIAL[dims])] * 2
    return tuple(size * torch.randn(shape, generator=generator) for shape in shapes)


def last_layers(head: ZMatchingHead, stage: str) -> list[torch.nn.Module]:
    """The layers that the stage's numbers come from, one for each resolution."""
    if getattr(head, stage) is None:
        return []
    return [head.global_stage.last] if stage == "global_stage" else [level[-1] for level in head.local_stage.levels]


def make_head(dims: int, trained: bool = False, **options: Any) -> ZMatchingHead:
    torch.manual_seed(0)
    head = ZMatchingHead(dims, coarse_channels=16, fine_channels=8, **options)
    if trained:
        for stage, size in (("global_stage", 1.0), ("local_stage", 0.2)):
            for layer in last_layers(head, stage):
                for parameter in layer.parameters():
                    torch.nn.init.normal_(parameter, std=size)
    return head


def atanh(value: float) -> float:
    return math.atanh(value)


@pytest.mark.parametrize("dims", [2, 3])
def test_zero_numbers_are_exactly_the_identity(dims: int) -> None:
    matrix = bounded_matrix(torch.zeros(2, parameter_count(dims)), SPATIAL[dims], AffineLimits())
    assert torch.equal(matrix, torch.eye(dims, dims + 1).expand(2, -1, -1))


def test_the_2d_matrix_is_rotation_times_shear_times_scale() -> None:
    limits = AffineLimits(rotation=0.4, shear=0.2, scale=0.3, translation=0.1)
    raw = torch.tensor([[atanh(0.5), atanh(0.8), atanh(-0.4), atanh(0.6), atanh(0.25), atanh(-0.75)]])
    cos, sin = math.cos(0.2), math.sin(0.2)
    expected = np.array([[cos, -sin], [sin, cos]]) @ [[1, math.tan(0.12)], [0, 1]] @ np.diag([1.24, 0.88])
    expected = np.column_stack([expected, [0.025 * 20, -0.075 * 40]])
    matrix = bounded_matrix(raw, (20, 40), limits)[0]
    np.testing.assert_allclose(matrix.numpy(), expected, atol=1e-6)


def test_the_3d_matrix_is_rotation_times_shear_times_scale() -> None:
    limits = AffineLimits()
    shares = np.array([0.3, -0.6, 0.9, 0.5, -0.5, 0.2, 0.4, -0.7, 0.8, 0.1, 0.2, -0.3])
    angles, scale = shares[:3] * limits.rotation, 1 + shares[3:6] * limits.scale
    shear = np.eye(3)
    shear[[0, 0, 1], [1, 2, 2]] = np.tan(shares[6:9] * limits.shear)
    # Upper case: turned about the axes as they have been turned, first about axis 0.
    expected = Rotation.from_euler("XYZ", angles).as_matrix() @ shear @ np.diag(scale)
    shift = shares[9:] * limits.translation * [30, 40, 50]
    raw = torch.from_numpy(np.arctanh(shares)).float().unsqueeze(0)
    matrix = bounded_matrix(raw, (30, 40, 50), limits)[0].numpy()
    np.testing.assert_allclose(matrix, np.column_stack([expected, shift]), atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_every_number_of_the_map_has_a_gradient(dims: int) -> None:
    raw = (0.1 * torch.ones(1, parameter_count(dims), dtype=torch.float32)).requires_grad_()
    weights = torch.randn(1, dims, dims + 1, generator=torch.Generator().manual_seed(0))
    (bounded_matrix(raw, SPATIAL[dims], AffineLimits()) * weights).sum().backward()
    assert raw.grad is not None
    assert (raw.grad.abs() > 1e-4).all()


@pytest.mark.parametrize("wrong", [{"rotation": 4.0}, {"shear": -0.1}, {"scale": 1.0}, {"translation": math.nan}])
def test_limits_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AffineLimits(**wrong)


@pytest.mark.parametrize("dims", [1, 4])
def test_other_dimensions_are_refused(dims: int) -> None:
    with pytest.raises(ConfigError, match="only 2 and 3"):
        parameter_count(dims)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("steps", [0, 7])
def test_an_untrained_head_is_exactly_the_identity(dims: int, steps: int) -> None:
    matching = make_head(dims, integration_steps=steps)(*features(dims))
    assert torch.equal(matching.matrix, torch.eye(dims, dims + 1).expand(2, -1, -1))
    for field in (matching.field, matching.affine, matching.displacement):
        assert field.shape == (2, dims, *SPATIAL[dims])
        assert not field.any()


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_reach_every_parameter(dims: int) -> None:
    """Behind a last layer of zeros the others have none until it has moved, which it does in the first step."""
    head = make_head(dims)
    inputs = features(dims)
    target = torch.randn(2, dims, *SPATIAL[dims], generator=torch.Generator().manual_seed(3))
    optimiser = torch.optim.SGD(head.parameters(), lr=1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        ((head(*inputs).field - target) ** 2).mean().backward()
        optimiser.step()
    for name, parameter in head.named_parameters():
        # A convolution's bias in front of group normalisation with few channels may cancel but for rounding.
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("stage", ["global_stage", "local_stage"])
def test_the_first_step_already_moves_every_last_layer(stage: str) -> None:
    head = make_head(2, levels=3)
    target = torch.randn(2, 2, *SPATIAL[2], generator=torch.Generator().manual_seed(3))
    ((head(*features(2)).field - target) ** 2).mean().backward()
    for layer in last_layers(head, stage):
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None
            assert (parameter.grad.abs().amax(dim=tuple(range(1, parameter.dim()))) > 0).all(), name


@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_gives_what_each_pair_gives_alone(dims: int) -> None:
    head = make_head(dims, trained=True, integration_steps=3)
    inputs = features(dims, batch=3)
    together = head(*inputs)
    assert together.matrix[0].sub(together.matrix[1]).abs().max() > 0.01
    for i in range(3):
        alone = head(*(x[i : i + 1] for x in inputs))
        torch.testing.assert_close(alone.field[0], together.field[i], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.matrix[0], together.matrix[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_bounds_hold_for_huge_numbers(dims: int) -> None:
    limits = AffineLimits()
    head = make_head(dims, trained=True, deformable=False, limits=limits)
    assert head.global_stage is not None
    with torch.no_grad():
        head.global_stage.last.weight.mul_(1e6)
    matrix = head(*features(dims, batch=8, size=1e3)).matrix.detach()
    sizes = torch.tensor(SPATIAL[dims])
    assert (matrix[:, :, dims].abs() <= limits.translation * sizes * 1.0001).all()
    assert (matrix[:, :, dims].abs() >= limits.translation * sizes * 0.99).all()
    # The determinant is the product of the scales; QR takes the rotation out.
    determinant = torch.linalg.det(matrix[:, :, :dims])
    assert (determinant >= 0.75**dims * 0.999).all()
    assert (determinant <= 1.25**dims * 1.001).all()
    angle, _ = torch.linalg.qr(matrix[:, :, :dims].double())
    angle = angle * torch.sign(torch.diagonal(angle, dim1=1, dim2=2)).unsqueeze(1)
    euler = [Rotation.from_matrix(_as_3d(rotation.numpy())).as_euler("XYZ") for rotation in angle]
    assert np.abs(euler).max() <= math.pi / 9 * 1.001
    assert np.abs(euler).max() >= math.pi / 9 * 0.99


def _as_3d(rotation: np.ndarray) -> np.ndarray:
    result = np.eye(3)
    result[: len(rotation), : len(rotation)] = rotation
    return result


@pytest.mark.parametrize("dims", [2, 3])
def test_the_field_is_the_affine_map_after_the_displacement(dims: int) -> None:
    matching = make_head(dims, trained=True)(*features(dims))
    position = [2] * dims
    for sample in range(2):
        matrix, local = matching.matrix[sample], matching.displacement[(sample, slice(None), *position)]
        centre = (torch.tensor(SPATIAL[dims]) - 1) / 2
        start = torch.tensor(position).float()
        target = matrix[:, :dims] @ (start + local - centre) + centre + matrix[:, dims]
        torch.testing.assert_close(start + matching.field[(sample, slice(None), *position)], target)


def test_one_stage_alone() -> None:
    inputs = features(2)
    affine_only = make_head(2, trained=True, deformable=False)(*inputs)
    assert torch.equal(affine_only.field, affine_field(affine_only.matrix, SPATIAL[2]))
    assert affine_only.field.abs().max() > 0.1
    assert not affine_only.displacement.any()
    local_only = make_head(2, trained=True, affine=False)(*inputs)
    assert torch.equal(local_only.field, local_only.displacement)
    assert local_only.field.abs().max() > 0.1
    with pytest.raises(ConfigError, match="both off"):
        make_head(2, affine=False, deformable=False)


def test_the_local_stage_sees_affinely_moved_features(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Tensor] = []
    original = head_module.warp

    def counted(image: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
        calls.append(field)
        return original(image, field)

    monkeypatch.setattr(head_module, "warp", counted)
    matching = make_head(2, trained=True)(*features(2))
    assert len(calls) == 1
    assert torch.equal(calls[0], matching.affine)


def test_integration_takes_the_folds_out() -> None:
    inputs = features(2, batch=4)
    folded = make_head(2, trained=True, affine=False)(*inputs)
    integrated = make_head(2, trained=True, affine=False, integration_steps=7)(*inputs)
    assert _folded(folded) > 5 * max(_folded(integrated), 0.001)


def _folded(matching: Matching) -> float:
    return float((jacobian_determinant(matching.field) <= 0).float().mean())


def test_fields_are_float32_under_autocast() -> None:
    head = make_head(2, trained=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        matching = head(*features(2))
    assert matching.field.dtype == matching.matrix.dtype == torch.float32
    exact = affine_field(matching.matrix, SPATIAL[2])
    torch.testing.assert_close(matching.affine, exact)


@pytest.mark.parametrize("dims", [2, 3])
def test_more_levels_see_further(dims: int) -> None:
    """A change of the fixed image's features moves the field as far away as the coarsest level reaches."""
    reach = {}
    for levels in (1, 3):
        torch.manual_seed(0)
        stage = ZMatchingHead(dims, 16, 8, affine=False, levels=levels).local_stage
        assert stage is not None
        for layer in [level[-1] for level in stage.levels]:
            torch.nn.init.normal_(layer.weight)
        # Group normalisation would carry every change everywhere.
        for module in stage.modules():
            if isinstance(module, torch.nn.Sequential) and isinstance(module[1], torch.nn.GroupNorm):
                module[1] = torch.nn.Identity()
        features = torch.randn(1, 8, *[41] * dims, generator=torch.Generator().manual_seed(1))
        changed = features.clone()
        changed[(..., *[20] * dims)] += 1
        difference = (stage(features, changed) - stage(features, features)).abs().amax(dim=(0, 1))
        reach[levels] = int((difference.nonzero() - 20).abs().max())
    assert reach[1] == 3
    assert reach[3] >= 12


def test_a_level_of_few_voxels_keeps_three_an_axis() -> None:
    """Group normalisation of a single voxel would be zero, and a field cannot be enlarged from nothing."""
    head = make_head(2, trained=True, levels=6)
    assert torch.isfinite(head(*features(2)).field).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_local_correlation_is_the_cosine_of_shifted_features(dims: int) -> None:
    generator = torch.Generator().manual_seed(0)
    spatial = [5, 6, 4][:dims]
    moving, fixed = (torch.randn(2, 7, *spatial, generator=generator, dtype=torch.float64) for _ in range(2))
    found = head_module.local_correlation(moving, fixed, 1).numpy()
    expected = np.zeros((2, 3**dims, *spatial))
    a, b = moving.numpy(), fixed.numpy()
    for k, offset in enumerate(np.ndindex(*[3] * dims)):
        for place in np.ndindex(*spatial):
            other = tuple(np.add(place, offset) - 1)
            if all(0 <= o < n for o, n in zip(other, spatial, strict=True)):
                for i in range(2):
                    x, y = a[(i, slice(None), *other)], b[(i, slice(None), *place)]
                    expected[(i, k, *place)] = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_finer_levels_see_what_the_coarser_ones_have_moved() -> None:
    """A coarse level that finds the shift leaves a fine level nothing to find."""
    stage = ZMatchingHead(2, 16, 8, affine=False, levels=2, correlation=1).local_stage
    assert stage is not None
    scene = torch.randn(1, 8, 16, 24, generator=torch.Generator().manual_seed(0))
    moving, fixed = scene, scene.roll((-2, 2), (2, 3))  # moving(p + (2, -2)) = fixed(p)
    seen = {}
    for k, level in enumerate(stage.levels):
        level.register_forward_hook(lambda _, inputs, __, k=k: seen.update({k: inputs[0]}))
    stage(moving, fixed)
    middle = (..., slice(3, -3), slice(3, -3))
    assert seen[0][:, 16:][middle].argmax(dim=1).ne(4).any()
    with torch.no_grad():
        stage.levels[1][-1].bias.copy_(torch.tensor([1.0, -1.0]))  # in cells of the coarse level
    stage(moving, fixed)
    similarities = seen[0][:, 16:][middle]
    torch.testing.assert_close(similarities[:, 4], torch.ones_like(similarities[:, 4]))
    assert (similarities.argmax(dim=1) == 4).all()
