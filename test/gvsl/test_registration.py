"""Registration of volumes: the field finds its way to the stored voxels, the files and the command line."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from support.registration import CONFIG, save_model, shifted
from support.volumes import AFFINE, plane, store, world_of

from endomatch_ros import cli
from endomatch_ros.errors import CheckpointError, ConfigError
from endomatch_ros.gvsl import checkpoint
from endomatch_ros.gvsl.config import GvslConfig
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.gvsl.pictures import checkerboard
from endomatch_ros.gvsl.registration import (
    VOLUMES_NOTE,
    Registrar,
    Registration,
    jacobian_report,
    load_registrar,
    no_field,
    physical_displacement,
    warp_stored,
)
from endomatch_ros.gvsl.volumes import Volume, VolumeConfig, prepare

TURNED = np.array([[0, -1.2, 0, 30], [0.9, 0, 0, -4], [0, 0, -1.1, 11], [0, 0, 0, 1.0]])  # axes A, L, I


def blob(shape, seed, affine=None):
    rng = np.random.default_rng(seed)
    grid = np.indices(shape) / np.array(shape).reshape(3, 1, 1, 1)
    waves = sum(np.sin(rng.uniform(2, 9) * grid[k % 3] + rng.uniform(0, 6)) for k in range(6))
    return Volume(waves.astype(np.float32), np.eye(4) if affine is None else affine)


def centre(volume):
    return volume.affine[:3, :3] @ ((np.array(volume.data.shape) - 1) / 2) + volume.affine[:3, 3]


@pytest.mark.parametrize("offset", [(0.0, 0.0, 0.0), (1.5, -0.5, 2.0)])
def test_warped_volume_is_what_the_field_says_in_millimetres(offset):
    """Volumes of other orientation, spacing and size: a linear function of the world must come out shifted exactly."""
    spacing = 0.8
    moving = Volume(plane(world_of(TURNED, (22, 24, 26))).astype(np.float32), TURNED)
    fixed = blob((10, 15, 5), 0, AFFINE)
    registrar = Registrar(shifted(*offset), VolumeConfig(spacing, (8, 8, 8)))
    found = warp_stored(moving, fixed, registrar.register(fixed, moving))
    assert found.shape == fixed.data.shape
    # Right, front and up are the world's axes here, and centre lies on centre to within a voxel of the grid.
    shift = (np.array(offset) * spacing + centre(moving) - centre(fixed)).reshape(3, 1, 1, 1)
    expected = plane(world_of(AFFINE, fixed.data.shape) + shift)
    error = (found - expected)[1:-1, 1:-1, 1:-1]
    assert np.ptp(error) < 1e-3
    assert abs(error.mean()) < 0.5 * spacing * 5.5  # half a voxel, in the plane's slopes


def test_volumes_of_one_grid_come_back_bit_for_bit_without_a_field():
    moving, fixed = blob((13, 18, 11), 1), blob((13, 18, 11), 2)
    result = Registrar(no_field, CONFIG).register(fixed, moving)
    np.testing.assert_array_equal(warp_stored(moving, fixed, result), moving.data)
    labels = Volume(np.random.default_rng(3).integers(0, 5, (13, 18, 11)).astype(np.int32), np.eye(4))
    warped = warp_stored(labels, fixed, result, "nearest")
    assert warped.dtype == np.int32
    np.testing.assert_array_equal(warped, labels.data)


def test_the_field_is_asked_for_the_moving_volume_to_the_fixed_one():
    asked = []
    registrar = Registrar(lambda *images: asked.append(images) or no_field(*images), CONFIG)
    result = registrar.register(blob((13, 18, 11), 1), blob((13, 18, 11), 2))
    assert asked[0][0] is result.moving.image
    assert asked[0][1] is result.fixed.image
    np.testing.assert_array_equal(
        result.fixed.image, registrar.prepare(blob((13, 18, 11), 1), blob((9, 9, 9), 0))[0].image
    )


def test_structures_end_with_the_volume_and_intensities_go_on():
    fixed, moving = blob((9, 8, 7), 1), blob((5, 8, 7), 2)
    labels = Volume(np.full((5, 8, 7), 4, np.int32), np.eye(4))
    result = Registrar(no_field, CONFIG).register(fixed, moving)
    warped = warp_stored(labels, fixed, result, "nearest")
    assert [int(layer[0, 0]) for layer in warped] == [0, 0, 4, 4, 4, 4, 4, 0, 0]
    np.testing.assert_array_equal(warp_stored(moving, fixed, result), moving.data[[0, 0, 0, 1, 2, 3, 4, 4, 4]])


def test_unequal_volumes_share_a_grid_that_cuts_neither():
    first, second = Registrar(no_field, CONFIG).prepare(blob((20, 9, 12), 1), blob((11, 24, 10), 2))
    assert first.grid.shape == second.grid.shape == (20, 24, 16)
    assert int(first.mask.sum()) == 20 * 9 * 12
    assert int(second.mask.sum()) == 11 * 24 * 10


def test_itk_reads_the_field_as_we_mean_it():
    """SimpleITK resamples the moving volume with the stored field: the same as our own warp."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK comes with the extra 'classical'")

    def image(volume):
        out = sitk.GetImageFromArray(volume.data.transpose(2, 1, 0))
        lps = np.diag([-1, -1, 1, 1]) @ volume.affine
        sizes = np.linalg.norm(lps[:3, :3], axis=0)
        out.SetSpacing(sizes.tolist())
        out.SetOrigin(lps[:3, 3].tolist())
        out.SetDirection((lps[:3, :3] / sizes).ravel().tolist())
        return out

    moving, fixed = blob((20, 16, 18), 4, TURNED), blob((11, 17, 6), 5, AFFINE)
    smooth = torch.nn.functional.interpolate(
        torch.randn(1, 3, 3, 3, 3, generator=torch.manual_seed(0)), size=(24, 24, 24), mode="trilinear"
    )
    result = Registrar(lambda m, f: smooth, VolumeConfig(1.0, (24, 24, 24))).register(fixed, moving)
    ours = warp_stored(moving, fixed, result)
    field = physical_displacement(fixed, moving, result)[..., 0, :]
    vectors = sitk.GetImageFromArray(np.ascontiguousarray(field.transpose(2, 1, 0, 3), np.float64), isVector=True)
    vectors.CopyInformation(image(fixed))
    transform = sitk.DisplacementFieldTransform(vectors)
    theirs = sitk.Resample(image(moving), image(fixed), transform, sitk.sitkLinear, np.nan)
    theirs = sitk.GetArrayFromImage(theirs).transpose(2, 1, 0)
    seen = np.isfinite(theirs)
    assert seen.mean() > 0.5
    np.testing.assert_allclose(ours[seen], theirs[seen], atol=2e-3)


def linear_result(slopes, size=(12, 10, 8), volume_shape=(12, 10, 8)):
    grid = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in size), indexing="ij"))
    field = (grid * torch.tensor(slopes).view(3, 1, 1, 1))[None]
    fixed = prepare(blob(volume_shape, 6), CONFIG, size)
    return Registration(field, fixed, fixed)


def test_jacobian_of_a_linear_field_is_the_product_of_its_scales():
    report = jacobian_report(linear_result((0.5, -0.25, 0.1)))
    for value in (report.minimum, report.mean, report.maximum):
        assert value == pytest.approx(1.5 * 0.75 * 1.1, rel=1e-5)
    assert report.folding_percent == 0.0
    assert jacobian_report(linear_result((-1.5, 0.0, 0.0))).folding_percent == 100.0


def test_folds_beyond_the_fixed_volume_do_not_count():
    result = linear_result((0.0, 0.0, 0.0), volume_shape=(6, 10, 8))
    result.field[0, 0, 0] = 30.0  # 3 voxels outside: 3 of 12 along the first axis are padding on either side
    report = jacobian_report(result)
    assert (report.minimum, report.folding_percent) == (1.0, 0.0)


def test_registrar_of_a_file_prepares_volumes_as_in_training(tmp_path):
    volumes = VolumeConfig(2.0, (8, 12, 16), 1.0, 99.0)
    registrar, notes = load_registrar(save_model(tmp_path / "m.safetensors", volumes), refine_steps=0)
    assert registrar.config == volumes
    assert VOLUMES_NOTE in notes
    pair = blob((14, 9, 11), 7), blob((12, 16, 10), 8)
    result = registrar.register(*pair)
    assert result.field.shape == (1, 3, 8, 12, 16)
    assert not result.field.requires_grad
    # An untrained head is the identity; the size of one is cut about the centre of the other.
    assert float(result.field.abs().max()) == 0.0


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    frames = save_model(tmp_path / "frames.safetensors", spatial_dims=2, in_channels=3)
    with pytest.raises(CheckpointError, match="model for frames"):
        load_registrar(frames)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_registrar(tmp_path / "missing.safetensors")
    torch.manual_seed(0)
    odd = tmp_path / "odd.safetensors"
    checkpoint.save(GvslModel(GvslConfig(channels=(4, 8))), odd, {VOLUMES_NOTE: '{"colour": 1}'})
    with pytest.raises(CheckpointError, match="how to prepare"):
        load_registrar(odd)
    good = save_model(tmp_path / "good.safetensors")
    with pytest.raises(ConfigError, match="device 'abacus'"):
        load_registrar(good, "abacus")
    with pytest.raises(ConfigError, match="'cuda:99' was asked for, but PyTorch sees"):
        load_registrar(good, "cuda:99")


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(9)
    fixed = store(tmp_path / "fixed.nii.gz", rng.random((14, 15, 6)).astype(np.float32))
    moving = store(tmp_path / "moving.nii.gz", rng.integers(0, 200, (20, 16, 18)).astype(np.uint8), TURNED)
    labels = store(tmp_path / "labels.nii.gz", rng.integers(0, 3, (20, 16, 18)).astype(np.uint8), TURNED)
    return SimpleNamespace(fixed=fixed, moving=moving, labels=labels, output=tmp_path / "out" / "deep")


def test_command_writes_everything_on_the_fixed_volume_s_grid(pair, tmp_path, capsys):
    model = save_model(tmp_path / "m.safetensors")
    arguments = ["--fixed", pair.fixed, "--moving", pair.moving, "--labels", pair.labels, "--checkpoint", model]
    arguments += ["--refine-steps", 0, "--device", "cpu"]
    assert cli.main(["register", *map(str, arguments), "--output", str(pair.output)]) == 0
    assert "0.0000% of the voxels fold" in capsys.readouterr().out
    assert {p.name for p in pair.output.iterdir()} == {
        "warped.nii.gz",
        "warped_labels.nii.gz",
        "field.nii.gz",
        "report.json",
        "overlay.png",
        "grid.png",
    }
    fixed = nib.load(pair.fixed)
    for name in ("warped", "warped_labels", "field"):
        image = nib.load(pair.output / f"{name}.nii.gz")
        np.testing.assert_allclose(image.affine, fixed.affine)
        assert image.shape[:3] == fixed.shape
    assert nib.load(pair.output / "field.nii.gz").header.get_intent()[0] == "vector"
    assert set(np.unique(nib.load(pair.output / "warped_labels.nii.gz").dataobj)) <= {0, 1, 2}
    report = json.loads((pair.output / "report.json").read_text())
    assert report["jacobian"] == {"minimum": 1.0, "mean": 1.0, "maximum": 1.0, "folding_percent": 0.0}


def test_command_says_what_is_wrong_in_one_line(pair, tmp_path, capsys):
    model = save_model(tmp_path / "m.safetensors")
    common = ["register", "--fixed", str(pair.fixed), "--output", str(pair.output), "--checkpoint", str(model)]
    assert cli.main([*common, "--moving", str(tmp_path / "none.nii")]) == 2
    assert cli.main([*common, "--moving", str(pair.moving), "--labels", str(pair.fixed)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "none.nii" in lines[0]
    assert "not whole" in lines[1]
    assert not pair.output.exists()


def test_checkerboard_takes_turns():
    board = checkerboard(np.zeros((4, 6)), np.ones((4, 6)), 2)
    np.testing.assert_array_equal(board[0], [0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(board[2], [1, 1, 0, 0, 1, 1])
