"""Displacement fields against closed forms, scipy and MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.networks.blocks.warp import DVF2DDF, Warp
from scipy import linalg, ndimage

from endomatch_ros.errors import ConfigError, ImageError
from endomatch_ros.geometry import fields

SIZES = [(5, 7), (13, 17), (33, 40), (1, 6), (100, 99), (11, 13, 9), (6, 1, 5)]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def smooth(spatial: tuple[int, ...], amplitude: float, seed: int = 0) -> torch.Tensor:
    """A smooth float64 field (1, D, *spatial) of at most about ``amplitude`` voxels."""
    rng = np.random.default_rng(seed)
    parts = [ndimage.gaussian_filter(rng.standard_normal(spatial), 4) for _ in spatial]
    field = np.stack(parts)[None]
    return torch.from_numpy(field * amplitude / np.abs(field).max())


def sampled_by_scipy(image: torch.Tensor, field: torch.Tensor, order: int, mode: str = "nearest") -> torch.Tensor:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in field.shape[2:]], indexing="ij"))
    result = [
        [ndimage.map_coordinates(channel, grid + offset, order=order, mode=mode) for channel in pixels]
        for pixels, offset in zip(image.double().numpy(), field.double().numpy(), strict=True)
    ]
    return torch.from_numpy(np.array(result))


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_the_zero_field_is_the_identity_bit_for_bit(spatial: tuple[int, ...], mode: str) -> None:
    image = torch.randn(2, 3, *spatial, generator=torch.Generator().manual_seed(1)) * 1e3
    image[0, 0].zero_()
    field = torch.zeros(2, len(spatial), *spatial)
    assert torch.equal(fields.warp(image, field, mode), image)


def test_whole_steps_move_values_unchanged() -> None:
    image = noise(1, 2, 14, 19)
    field = torch.zeros(1, 2, 14, 19)
    field[:, 0], field[:, 1] = 3, -2
    warped = fields.warp(image, field)
    assert torch.equal(warped[:, :, :-3, 2:], image[:, :, 3:, :-2])


@pytest.mark.parametrize("spatial", [(13, 17), (9, 8, 11)])
@pytest.mark.parametrize(("mode", "order"), [("linear", 1), ("nearest", 0)])
def test_warp_agrees_with_scipy(spatial: tuple[int, ...], mode: str, order: int) -> None:
    image, field = noise(2, 2, *spatial, dtype=torch.float64), 8 * noise(2, len(spatial), *spatial, seed=1) - 4
    expected = sampled_by_scipy(image, field, order)
    torch.testing.assert_close(fields.warp(image, field.double(), mode), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(fields.warp(image.float(), field, mode), expected.float(), atol=1e-5, rtol=0)


def test_padding_with_zeros_fades_within_one_voxel() -> None:
    image = torch.ones(1, 1, 5, 6)
    field = torch.full((1, 2, 5, 6), 0.0)
    field[:, 1] = 1.25
    row = fields.warp(image, field, padding="zeros")[0, 0, 2]
    torch.testing.assert_close(row, torch.tensor([1.0, 1, 1, 1, 0.75, 0]))


def test_warp_agrees_with_monai() -> None:
    image, field = noise(2, 1, 12, 15, 10), 6 * noise(2, 3, 12, 15, 10, seed=1) - 3
    with pytest.warns(UserWarning, match="native grid_sample"):
        reference = Warp()
    torch.testing.assert_close(fields.warp(image, field), reference(image, field), atol=1e-5, rtol=0)


def test_an_image_of_another_size_is_sampled_in_its_own_voxels() -> None:
    image = noise(1, 1, 20, 30)
    field = torch.zeros(1, 2, 6, 7) + torch.tensor([4.0, 9.0]).view(1, 2, 1, 1)
    assert torch.equal(fields.warp(image, field), image[:, :, 4:10, 9:16])


def test_labels_keep_their_type_and_values() -> None:
    labels = torch.randint(0, 255, (1, 1, 9, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    field = torch.full((1, 3, 9, 9, 9), 0.4)
    warped = fields.warp(labels, field, "nearest")
    assert warped.dtype == torch.uint8
    assert torch.equal(warped, labels)
    assert fields.warp(labels, field).dtype == torch.float32


def test_half_precision_images_keep_their_positions() -> None:
    image = torch.arange(1024.0).expand(1, 1, 2, 1024)
    field = torch.full((1, 2, 2, 1024), 0.5)
    warped = fields.warp(image.half(), field)
    assert warped.dtype == torch.float16
    torch.testing.assert_close(warped[0, 0, 0, :1023].float(), image[0, 0, 0, :1023] + 0.5, atol=0.5, rtol=1e-3)


@pytest.mark.parametrize("spatial", [(5, 4), (3, 4, 3)])
def test_gradients_are_right(spatial: tuple[int, ...]) -> None:
    image = noise(1, 2, *spatial, dtype=torch.float64).requires_grad_()
    field = (noise(1, len(spatial), *spatial, seed=2, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(fields.warp, (image, field))


def test_the_zero_field_has_a_gradient() -> None:
    ramp = torch.arange(12.0).view(1, 1, 1, 12).expand(1, 1, 8, 12).contiguous()
    field = torch.zeros(1, 2, 8, 12, requires_grad=True)
    fields.warp(ramp, field).sum().backward()
    assert field.grad is not None
    torch.testing.assert_close(field.grad[0, 1, :, 1:-1], torch.ones(8, 10), atol=1e-4, rtol=0)
    torch.testing.assert_close(field.grad[0, 0], torch.zeros(8, 12), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("image", "field"),
    [((1, 1, 5, 5), (1, 3, 5, 5)), ((2, 1, 5, 5), (1, 2, 5, 5)), ((1, 1, 5), (1, 1, 5)), ((1, 5, 5), (1, 2, 5, 5))],
)
def test_shapes_that_do_not_fit_are_refused(image: tuple[int, ...], field: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="do not fit"):
        fields.warp(torch.zeros(image), torch.zeros(field))


@pytest.mark.parametrize("wrong", [{"mode": "cubic"}, {"padding": "reflect"}])
def test_unknown_modes_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="use one of"):
        fields.warp(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4), **wrong)


@pytest.mark.parametrize("dims", [2, 3])
def test_affine_field_is_the_closed_form_about_the_centre(dims: int) -> None:
    spatial = (7, 10, 6)[:dims]
    matrix = torch.eye(dims, dims + 1).expand(2, -1, -1) + 0.3 * noise(2, dims, dims + 1)
    field = fields.affine_field(matrix, spatial).double().numpy()
    centre = (np.array(spatial) - 1) / 2
    for sample, affine in zip(field, matrix.double().numpy(), strict=True):
        for voxel in [(0, 0, 0), (2, 9, 1), (6, 4, 5)]:
            position = np.array(voxel[:dims])
            expected = affine[:, :dims] @ (position - centre) + centre + affine[:, dims] - position
            np.testing.assert_allclose(sample[(slice(None), *position)], expected, atol=1e-5)


def test_a_quarter_turn_of_a_square_image_is_rot90() -> None:
    image = noise(1, 2, 9, 9)
    # Sampling positions turn axis 0 (down) towards axis 1 (right), as numpy's rot90 over axes (1, 0) does.
    turn = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    warped = fields.warp(image, fields.affine_field(turn, (9, 9)))
    torch.testing.assert_close(warped, torch.rot90(image, 1, (3, 2)))


def test_the_identity_matrix_gives_exactly_zero() -> None:
    assert not fields.affine_field(torch.eye(3, 4).unsqueeze(0), (5, 8, 7)).any()


def test_a_matrix_of_other_dimensions_is_refused() -> None:
    with pytest.raises(ImageError, match=r"\(B, D, D \+ 1\)"):
        fields.affine_field(torch.zeros(1, 2, 2), (5, 8))


def test_composing_with_an_affine_map_is_exact_beyond_the_border() -> None:
    """Nothing is interpolated: at every voxel, A(p + v − c) + c + t − p."""
    spatial = (12, 9)
    matrix = torch.eye(2, 3).unsqueeze(0).double() + 0.2 * noise(1, 2, 3, dtype=torch.float64)
    inner = smooth(spatial, 5.0)
    position = fields.identity_grid(spatial, inner) + inner
    centre = torch.tensor([5.5, 4.0], dtype=torch.float64).view(1, 2, 1, 1)
    mapped = torch.einsum("bij,bjhw->bihw", matrix[:, :, :2], position - centre) + centre + matrix[:, :, 2, None, None]
    expected = mapped - fields.identity_grid(spatial, inner)
    torch.testing.assert_close(fields.compose_affine(matrix, inner), expected)


def test_composed_fields_sample_where_two_warps_do() -> None:
    """On an image that linear interpolation reproduces, one warp and two agree."""
    spatial = (24, 28)
    outer, inner = smooth(spatial, 2.0, 1), smooth(spatial, 2.0, 2)
    ramp = fields.identity_grid(spatial, outer)
    once = fields.warp(ramp, fields.compose(outer, inner))
    twice = fields.warp(fields.warp(ramp, outer), inner)
    inside = (slice(None), slice(None), slice(5, -5), slice(5, -5))
    torch.testing.assert_close(once[inside], twice[inside])
    other_way = fields.warp(ramp, fields.compose(inner, outer))
    assert (once - other_way)[inside].abs().max() > 0.05


def test_composed_fields_blur_less_than_two_warps() -> None:
    image = noise(1, 1, 32, 32)
    half = torch.full((1, 2, 32, 32), 0.5)
    once, twice = fields.warp(image, fields.compose(half, half)), fields.warp(fields.warp(image, half), half)
    assert torch.equal(once[..., :-1, :-1], image[..., 1:, 1:])
    assert twice.std() < 0.75 * image.std()


@pytest.mark.parametrize("dims", [2, 3])
def test_integration_is_the_matrix_exponential(dims: int) -> None:
    spatial = (21,) * dims
    generator = np.array([[0.05, -0.2, 0.1], [0.15, -0.1, 0.05], [0.0, 0.1, 0.08]])[:dims, :dims]
    centred = (fields.identity_grid(spatial) - 10).double()
    velocity = torch.einsum("ij,bj...->bi...", torch.from_numpy(generator), centred)
    expected = torch.einsum("ij,bj...->bi...", torch.from_numpy(linalg.expm(generator) - np.eye(dims)), centred)
    inside = (slice(None), slice(None), *[slice(5, -5)] * dims)
    torch.testing.assert_close(fields.integrate(velocity, 7)[inside], expected[inside], atol=0.01, rtol=0)


def test_integrated_fields_invert_each_other_and_do_not_fold() -> None:
    velocity = smooth((40, 40), 8.0, 3)
    assert fields.folding_percent(velocity).item() > 0
    forward, backward = fields.integrate(velocity, 7), fields.integrate(-velocity, 7)
    assert fields.folding_percent(forward).item() == 0
    left_over = fields.compose(backward, forward)[..., 10:-10, 10:-10].abs().mean()
    assert left_over < 0.1
    assert left_over < 0.1 * fields.compose(-velocity, velocity)[..., 10:-10, 10:-10].abs().mean()
    assert torch.equal(fields.integrate(velocity, 0), velocity)


def test_integration_agrees_with_monai_where_nothing_leaves_the_image() -> None:
    velocity = smooth((14, 16, 12), 3.0, 4)
    with pytest.warns(UserWarning, match="native grid_sample"):
        border, zeros = DVF2DDF(7, padding_mode="border"), DVF2DDF(7)
    integrated = fields.integrate(velocity, 7)
    torch.testing.assert_close(integrated, border(velocity))
    # MONAI's default padding, zeros, slows down what leaves the image.
    shift = torch.full((1, 2, 12, 12), 2.0)
    torch.testing.assert_close(fields.integrate(shift, 7), shift)
    assert zeros(shift).min() < 1.5


@pytest.mark.parametrize("dims", [2, 3])
def test_jacobian_of_an_affine_field_is_its_determinant(dims: int) -> None:
    matrix = torch.eye(dims, dims + 1).unsqueeze(0).double() + 0.4 * noise(1, dims, dims + 1, dtype=torch.float64)
    determinant = fields.jacobian_determinant(fields.affine_field(matrix, (5, 6, 7)[:dims]))
    assert determinant.shape == (1, *(5, 6, 7)[:dims])
    expected = np.linalg.det(matrix[0, :, :dims].numpy())
    torch.testing.assert_close(determinant, torch.full_like(determinant, expected))


def test_jacobian_agrees_with_numpy_on_a_curved_field() -> None:
    field = smooth((9, 10, 8), 3.0, 5)
    gradients = np.array([np.gradient(component) for component in field[0].numpy()])  # (D, D, *spatial)
    jacobian = np.moveaxis(gradients, (0, 1), (-2, -1)) + np.eye(3)
    np.testing.assert_allclose(fields.jacobian_determinant(field)[0].numpy(), np.linalg.det(jacobian), atol=1e-12)


def test_folding_counts_each_sample_by_itself() -> None:
    field = torch.zeros(3, 2, 10, 10)
    field[1, 0] = -2 * torch.arange(10.0).view(10, 1)  # turned round everywhere
    field[2, 1, :, 6:] = -2 * torch.arange(1.0, 5.0)  # turned round in the right half; at its edge the determinant is 0
    torch.testing.assert_close(fields.folding_percent(field), torch.tensor([0.0, 100.0, 50.0]))
    assert fields.folding_percent(torch.full((1, 2, 4, 4), math.nan)).item() == 100


def test_a_resized_field_moves_the_same_content() -> None:
    """A linear field is resized exactly inside: x' = (x + ½)·s − ½ maps positions and targets alike."""
    matrix = torch.tensor([[[1.1, 0.05, 0.5], [-0.1, 0.9, -1.0]]])
    field = fields.affine_field(matrix, (12, 16))
    resized = fields.resize_field(field, (24, 64))
    coarse = fields.identity_grid((12, 16))[0, :, 5, 7] + field[0, :, 5, 7]
    scale = torch.tensor([2.0, 4.0])
    fine_position = (torch.tensor([5.0, 7.0]) + 0.5) * scale - 0.5  # between fine voxels
    around = fields.warp(resized, (fine_position.view(1, 2, 1, 1)))[0, :, 0, 0]
    torch.testing.assert_close(fine_position + around, (coarse + 0.5) * scale - 0.5)
