"""Volumes: what is stored, what a network sees of it, and the way back."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import DATA
from support.volumes import AFFINE, plane, store, world_of

from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.gvsl.subjects import divide, find_subjects, known_split, neighbour_pairs, read_split
from endomatch_ros.gvsl.volumes import (
    Grid,
    Volume,
    VolumeConfig,
    fit,
    grid_positions,
    inside,
    isotropic_grid,
    normalise,
    prepare,
    read_labels,
    read_volume,
    sample,
    transform,
    write_volume,
)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "PIR", "ILA"])
def test_every_orientation_gives_nibabel_s_canonical_volume(codes, tmp_path):
    data = np.random.default_rng(0).normal(size=(7, 9, 5)).astype(np.float32)
    straight = nib.Nifti1Image(data, np.diag([1, 1, 1, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    nib.save(straight.as_reoriented(turn), tmp_path / "turned.nii.gz")
    volume = read_volume(tmp_path / "turned.nii.gz")
    grid = isotropic_grid(volume, 1.0)
    assert grid.shape == data.shape
    np.testing.assert_array_equal(sample(volume, grid)[0, 0].numpy(), data)
    np.testing.assert_allclose(volume.affine @ grid.voxel_from_grid, straight.affine, atol=1e-6)


def test_anisotropic_and_oblique_volumes_are_resampled_exactly(tmp_path):
    angle = 0.2
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ AFFINE @ np.diag([-1, 1, -1, 1])
    shape = (14, 20, 8)
    volume = read_volume(store(tmp_path / "v.nii", plane(world_of(affine, shape)).astype(np.float32), affine))
    grid = isotropic_grid(volume, 1.0)
    assert grid.shape == (21, 16, 24)  # 14·1.5, 20·0.8, 8·3 mm
    world = volume.affine @ grid.voxel_from_grid
    np.testing.assert_allclose(np.linalg.norm(world[:3, :3], axis=0), 1.0, atol=1e-6)
    assert nib.aff2axcodes(world) == ("R", "A", "S")
    middle = (np.array(shape) - 1) / 2
    new_middle = (np.array(grid.shape) - 1) / 2
    np.testing.assert_allclose(world[:3, :3] @ new_middle + world[:3, 3], (affine @ [*middle, 1])[:3], atol=1e-4)
    positions = grid_positions(grid)[0].numpy()
    # Up to 0 to 0.8 mm are sampled in steps that are coarser than stored: smoothing keeps a plane inside.
    within = np.all([(p >= 2) & (p <= n - 3) for p, n in zip(positions, shape, strict=True)], axis=0)
    assert within.sum() > 500
    found = sample(volume, grid)[0, 0].numpy()
    np.testing.assert_allclose(found[within], plane(world_of(world, grid.shape))[within], atol=2e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_stored_more_finely_is_averaged_instead_of_picked_from(axis):
    pattern = np.tile([0.0, 1.0], (9, 10, 12)) + 0.2 * np.arange(24)  # the finest pattern there is, on a slope
    stripes = np.moveaxis(pattern.astype(np.float32), 2, axis)
    affine = np.eye(4)
    affine[axis, axis] = 1 / 3
    volume = Volume(stripes, affine)
    grid = isotropic_grid(volume, 1.0)
    assert np.delete(grid.shape, axis).tolist() == np.delete(stripes.shape, axis).tolist()
    found = np.moveaxis(sample(volume, grid)[0, 0].numpy(), axis, 2)
    assert found.shape == (9, 10, 8)
    slope = 0.2 * (1 + 3 * np.arange(8))  # of the middle of each three voxels
    assert np.abs(found - slope - 0.5)[..., 1:-1].max() < 0.05


def test_labels_are_never_mixed():
    labels = np.random.default_rng(1).choice([0, 3, 9], (10, 10, 10)).astype(np.int32)
    volume = Volume(labels, np.diag([1, 1, 2.3, 1]))
    found = sample(volume, isotropic_grid(volume, 0.7), "nearest")
    assert found.dtype == torch.int32
    assert set(found.unique().tolist()) == {0, 3, 9}


@pytest.mark.parametrize("size", [(12, 12, 12), (5, 6, 4), (9, 8, 7), (7, 12, 3)])
def test_cutting_and_extending_is_by_whole_voxels_and_found_back(size):
    data = np.random.default_rng(2).random((9, 8, 7)).astype(np.float32)
    volume = Volume(data, np.eye(4))
    grid = fit(isotropic_grid(volume, 1.0), size)
    assert grid.shape == size
    found, valid = sample(volume, grid)[0, 0].numpy(), inside(volume, grid)[0, 0].numpy()
    assert valid.sum() == np.prod(np.minimum(size, data.shape))
    index = grid_positions(grid)[0].numpy()[:, valid]
    np.testing.assert_array_equal(index, index.round())
    np.testing.assert_array_equal(found[valid], data[tuple(index.astype(int))])
    low, high = index.min(1), np.array(data.shape) - 1 - index.max(1)
    assert (np.abs(low - high) <= 1).all()  # centred
    extended = [np.clip(np.arange(n) - (n - m) // 2, 0, m - 1) for n, m in zip(size, data.shape, strict=True)]
    np.testing.assert_array_equal(found, data[np.ix_(*extended)])


def test_prepared_volume_lies_between_0_and_1_with_its_mask():
    data = np.random.default_rng(3).normal(1000, 300, (9, 9, 9)).astype(np.float32)
    prepared = prepare(Volume(data, np.eye(4)), VolumeConfig(size=(8, 12, 9)), (8, 12, 9))
    assert prepared.image.shape == prepared.mask.shape == (1, 1, 8, 12, 9)
    assert prepared.image.dtype == torch.float32
    assert float(prepared.image.min()) == 0.0
    assert float(prepared.image.max()) == 1.0
    assert int(prepared.mask.sum()) == 8 * 9 * 9


def test_normalisation_is_the_same_for_every_type_unit_and_outlier():
    base = np.linspace(0, 250, 2001).reshape(3, 23, 29)
    expected = np.clip((base / 250 - 0.005) / 0.99, 0, 1)
    for data in (base, base * 4 - 1024, base.astype(np.float32) * 1e-6):
        np.testing.assert_allclose(normalise(data), expected, atol=1e-5)
    np.testing.assert_allclose(normalise(base.round().astype(np.uint8)), expected, atol=0.005)
    spoiled = base.copy()
    spoiled[0, 0, :3] = [1e9, np.nan, np.inf]
    np.testing.assert_allclose(normalise(spoiled)[1:], expected[1:], atol=0.002)
    assert np.isfinite(normalise(spoiled)).all()


def test_normalisation_of_a_few_bright_voxels_takes_the_extremes():
    data = np.zeros((20, 20, 20))
    data[3, 3, 3] = 7
    assert normalise(data).max() == 1.0


def test_written_volume_has_the_affine_header_and_values(tmp_path):
    data = np.random.default_rng(4).integers(0, 4000, (5, 6, 7)).astype(np.int16)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(AFFINE, 2)
    image.set_sform(AFFINE, 4)
    image.header["cal_max"] = 100
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    write_volume(tmp_path / "deep" / "b.nii.gz", volume.data * 0.25, volume)
    back = nib.load(tmp_path / "deep" / "b.nii.gz")
    np.testing.assert_array_equal(back.get_fdata(), data * 0.25)
    np.testing.assert_allclose(back.affine, AFFINE)
    assert (int(back.header["qform_code"]), int(back.header["sform_code"])) == (2, 4)
    assert back.header.get_xyzt_units() == ("mm", "sec")
    assert float(back.header["cal_max"]) == 0
    with pytest.raises(DataError, match=r"\(2, 2, 2\)"):
        write_volume(tmp_path / "c.nii", np.zeros((2, 2, 2)), volume)


def test_scaled_integers_are_read_in_their_unit(tmp_path):
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    nib.save(image, tmp_path / "ct.nii.gz")
    raw = nib.load(tmp_path / "ct.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "ct.nii.gz").data, raw.get_fdata(), atol=1e-3)


def test_a_fourth_axis_of_one_is_no_fourth_axis(tmp_path):
    path = store(tmp_path / "v.nii", np.random.default_rng(5).random((4, 5, 6, 1)).astype(np.float32))
    assert read_volume(path).data.shape == (4, 5, 6)


def test_what_is_no_volume_is_refused_with_its_name_and_why(tmp_path):
    rng = np.random.default_rng(6)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not gzip at all")
    cut = store(tmp_path / "cut.nii.gz", rng.random((20, 20, 20)).astype(np.float32))
    cut.write_bytes(cut.read_bytes()[:2000])
    colour = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    cases = {
        tmp_path / "missing.nii": "no file",
        broken: "cannot be read",
        cut: "cannot be read",
        store(tmp_path / "series.nii", rng.random((3, 3, 3, 2)).astype(np.float32)): "4D .* 3D volume is needed",
        store(tmp_path / "picture.nii", rng.random((3, 3)).astype(np.float32)): "2D",
        store(tmp_path / "constant.nii", np.full((3, 3, 3), 5, np.uint8)): "one value only",
        store(tmp_path / "nan.nii", np.full((3, 3, 3), np.nan, np.float32)): "one value only",
        store(tmp_path / "colour.nii", colour): "one real number",
    }
    for path, message in cases.items():
        with pytest.raises(DataError, match=message) as caught:
            read_volume(path)
        assert path.name in str(caught.value)
    with pytest.raises(DataError, match="not whole"):
        read_labels(store(tmp_path / "soft.nii", np.full((3, 3, 3), 0.5, np.float32)))
    image = read_volume(store(tmp_path / "i.nii", rng.random((3, 3, 4)).astype(np.float32)))
    with pytest.raises(DataError, match="must be equal"):
        read_labels(store(tmp_path / "l.nii", np.zeros((3, 3, 3), np.uint8)), image)


def test_configuration_outside_its_range_is_refused():
    for values in ({"spacing": 0.0}, {"size": (8, 8)}, {"size": (8, 8, 4)}, {"low": 60.0}, {"high": 10.0}):
        with pytest.raises(ConfigError, match=next(iter(values))):
            VolumeConfig(**values)


def test_transform_is_the_matrix_product():
    matrix = np.random.default_rng(7).normal(size=(4, 4))
    matrix[3] = [0, 0, 0, 1]
    points = torch.randn(1, 3, 2, 3, 4, dtype=torch.float64)
    homogeneous = np.concatenate([points[0].reshape(3, -1).numpy(), np.ones((1, 24))])
    np.testing.assert_allclose(transform(matrix, points)[0].reshape(3, -1), (matrix @ homogeneous)[:3])
    assert Grid((1, 1, 1), matrix).shape == (1, 1, 1)


def subjects_in(folder, names, labels=()):
    for kind, chosen in (("images", names), ("labels", labels)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in chosen:
            (folder / kind / name).touch()
    return folder


def test_subjects_are_sorted_and_have_their_labels(tmp_path):
    names = ["b.nii.gz", "a.nii", "._a.nii", "notes.txt"]
    found = find_subjects(subjects_in(tmp_path, names, ["a.nii.gz"]))
    assert [(s.name, s.labels is not None) for s in found] == [("a", True), ("b", False)]
    with pytest.raises(DataError, match=r"1 of 2 volumes \(b\)"):
        find_subjects(tmp_path, need_labels=True)
    assert [s.name for s in find_subjects(tmp_path / "images")] == ["a", "b"]


def test_folders_without_subjects_are_refused(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        find_subjects(tmp_path / "missing")
    with pytest.raises(DataError, match=r"no \.nii"):
        find_subjects(tmp_path)
    with pytest.raises(DataError, match="twice"):
        find_subjects(subjects_in(tmp_path, ["a.nii", "a.nii.gz"]))


def test_neighbour_pairs_go_both_ways(tmp_path):
    subjects = find_subjects(subjects_in(tmp_path, ["c.nii", "a.nii", "b.nii"]))
    pairs = [(m.name, f.name) for m, f in neighbour_pairs(subjects[::-1])]
    assert pairs == [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]
    with pytest.raises(DataError, match="at least two"):
        neighbour_pairs(subjects[:1])


def test_unknown_data_give_every_tenth_subject_to_validation(tmp_path):
    subjects = find_subjects(subjects_in(tmp_path, [f"s{k:02d}.nii" for k in range(20)]))
    assert known_split(subjects) is None
    parts = divide(subjects)
    assert [s.name for s in parts["validation"]] == ["s04", "s14"]
    assert len(parts["train"]) == 18
    assert len(divide(subjects, "none")["train"]) == 20
    with pytest.raises(DataError, match="knows none"):
        divide(subjects, "hippocampus")
    with pytest.raises(ConfigError, match="hippocampus"):
        divide(subjects, "no such split")


def test_a_split_may_be_the_user_s_own_file(tmp_path):
    subjects = find_subjects(subjects_in(tmp_path, [f"s{k}.nii" for k in range(4)]))
    parts = {"train": ["s0", "s1"], "validation": ["s2"], "test": ["s3", "elsewhere"]}
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"parts": parts}))
    assert [s.name for s in divide(subjects, str(file))["test"]] == ["s3"]
    for content, message in (("{}", "is no split"), (json.dumps({"parts": {**parts, "test": ["s0"]}}), "two parts")):
        bad = tmp_path / f"{message}.json"
        bad.write_text(content)
        with pytest.raises(DataError, match=message):
            read_split(str(bad))


def test_hippocampus_split_keeps_patients_together():
    parts = read_split("hippocampus")
    assert {name: len(members) for name, members in parts.items()} == {"train": 140, "validation": 20, "test": 40}
    patients = {name: {(int(m.split("_")[1]) + 1) // 2 for m in members} for name, members in parts.items()}
    assert not patients["train"] & patients["test"]
    assert not patients["train"] & patients["validation"]
    assert not patients["validation"] & patients["test"]


def test_hippocampus_split_fits_the_real_data():
    folder = DATA / "hippocampus"
    if not folder.is_dir():
        pytest.skip(f"the real volumes are not at {folder}")
    subjects = find_subjects(folder, need_labels=True)
    assert known_split(subjects) == "hippocampus"
    assert sum(map(len, divide(subjects).values())) == len(subjects) == 200
