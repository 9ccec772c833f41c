"""SfM recordings: parsing on a made-up one, and that axes, poses and points fit the images on the real one."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from endomatch_ros.data.frames import FrameSequence
from endomatch_ros.data.readers.sfm import SfmSequence, read_ply_points
from endomatch_ros.errors import DataError
from endomatch_ros.evaluation.methods.baselines import Method, klt, sift
from endomatch_ros.geometry.epipolar import epipolar_distance, fundamental_from_pose, relative_pose

SIZE = (64, 48)
POINTS = np.array([[0.0, 0.0, 5.0], [0.5, 0.2, 6.0], [-0.4, 0.1, 4.0]])
ROTATIONS = Rotation.from_rotvec([[0.0, 0.0, 0.0], [0.1, -0.2, 0.3]])
POSITIONS = np.array([[0.0, 0.0, 0.0], [0.3, -0.1, 0.2]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two frames, 7 and 8, in the recording's layout."""
    for number in (7, 8):
        cv2.imwrite(str(tmp_path / f"{number:08d}.jpg"), np.full((*SIZE[::-1], 3), number, np.uint8))
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[4:, 5:] = 255
    cv2.imwrite(str(tmp_path / "undistorted_mask.bmp"), mask)
    (tmp_path / "camera_intrinsics_per_view").write_text("50\n51\n31\n24\n")
    lines = ["header: ", "  seq: 0", "poses[]:"]
    for k, (position, quaternion) in enumerate(zip(POSITIONS, ROTATIONS.as_quat(), strict=True)):
        lines += [f"  poses[{k}]: ", "    position: "]
        lines += [f"      {axis}: {value}" for axis, value in zip("xyz", position, strict=True)]
        lines += ["    orientation: "]
        lines += [f"      {axis}: {value}" for axis, value in zip("xyzw", quaternion, strict=True)]
    (tmp_path / "motion.yaml").write_text("\n".join(lines))
    header = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float z\nproperty float y\nproperty float x\n"
    header += "element camera 1\nproperty float view_px\nend_header\n"
    rows = "".join(f"{z} {y} {x}\n" for x, y, z in POINTS)
    (tmp_path / "structure.ply").write_text(header + rows + "0\n")
    (tmp_path / "view_indexes_per_point").write_text("-1\n7\n8\n-1\n7\n-1\n8\n")
    return tmp_path


def test_everything_is_read(folder: Path) -> None:
    sequence = SfmSequence(folder, rate=10)
    assert isinstance(len(sequence), int)
    protocol: FrameSequence = sequence
    frames = list(protocol)
    assert [frame.index for frame in frames] == [7, 8]
    assert [frame.stamp for frame in frames] == [0.0, 0.1]
    assert frames[1].size == SIZE
    assert not frames[0].mask[:4].any()
    assert frames[0].mask[4:, 5:].all()
    np.testing.assert_array_equal(frames[0].camera.matrix, [[50, 0, 31], [0, 51, 24], [0, 0, 1]])
    np.testing.assert_allclose(sequence.points, POINTS)
    np.testing.assert_array_equal(sequence.visible(0), [0, 1])
    np.testing.assert_array_equal(sequence.visible(1), [0, 2])


def test_poses_are_inverted_and_points_projected(folder: Path) -> None:
    sequence = SfmSequence(folder)
    world_from_camera = np.linalg.inv(sequence[1].pose)
    np.testing.assert_allclose(world_from_camera[:3, :3], ROTATIONS[1].as_matrix(), atol=1e-9)
    np.testing.assert_allclose(world_from_camera[:3, 3], POSITIONS[1], atol=1e-9)
    local = ROTATIONS[1].inv().apply(POINTS - POSITIONS[1])
    expected = local @ np.array([[50, 0, 31], [0, 51, 24], [0, 0, 1]]).T
    np.testing.assert_allclose(sequence.project(1, np.arange(3)), expected[:, :2] / expected[:, 2:])


def test_intrinsics_may_differ_by_frame(folder: Path) -> None:
    (folder / "camera_intrinsics_per_view").write_text("50 51 31 24 60 61 32 25")
    assert SfmSequence(folder).camera(1).matrix[1, 1] == 61


@pytest.mark.parametrize("text", ["50 31 24", "9 9 9 50 31 24"])
def test_one_focal_length_serves_both_axes(folder: Path, text: str) -> None:
    (folder / "camera_intrinsics_per_view").write_text(text)
    np.testing.assert_array_equal(SfmSequence(folder).camera(1).matrix, [[50, 0, 31], [0, 50, 24], [0, 0, 1]])


@pytest.mark.parametrize("name", ["undistorted_mask.bmp", "camera_intrinsics_per_view", "motion.yaml", "structure.ply"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        SfmSequence(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("camera_intrinsics_per_view", "50\n51\n31\n24\n1\n"),
        ("camera_intrinsics_per_view", "fx\n51\n31\n24\n"),
        ("motion.yaml", "poses[]: 3"),
        ("motion.yaml", "{unclosed"),
        ("motion.yaml", "poses[]:\n  poses[0]:\n    position: {x: 0, y: 0, z: 0}\n"),
        ("motion.yaml", "poses[]: {}"),
        ("structure.ply", "ply\nformat binary_little_endian 1.0\nelement vertex 3\nend_header\n"),
        ("structure.ply", "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n1\n2\n3\n"),
        ("structure.ply", "nothing"),
        ("view_indexes_per_point", "7\n-1\n8"),
        ("view_indexes_per_point", "-1\n7\n"),
        ("view_indexes_per_point", "-1\nseven\n"),
    ],
)
def test_damaged_files_are_clear_errors(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DataError):
        SfmSequence(folder)


def test_a_short_point_file_is_an_error(folder: Path) -> None:
    path = folder / "structure.ply"
    path.write_text("\n".join(path.read_text().splitlines()[:-3]))
    with pytest.raises(DataError, match="ends after"):
        read_ply_points(path)


def test_wrong_folders_are_clear_errors(folder: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        SfmSequence(folder / "missing")
    empty = folder / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no frames"):
        SfmSequence(empty)
    shutil.copy(folder / "00000007.jpg", folder / "00000009.jpg")
    with pytest.raises(DataError, match="3 frames but 2 poses"):
        SfmSequence(folder)


@pytest.fixture(scope="module")
def real(sinus: Path) -> SfmSequence:
    return SfmSequence(sinus)


def test_the_real_recording_is_complete(real: SfmSequence) -> None:
    assert real.numbers == list(range(4584, 4619))
    assert real.points.shape == (570, 3)
    frame = real[0]
    assert frame.size == (1920, 1080)
    assert frame.image[frame.mask].mean() > 3 * frame.image[~frame.mask].mean()


def test_real_points_lie_in_the_view_of_the_frames_that_see_them(real: SfmSequence) -> None:
    for position in range(len(real)):
        pixels = real.project(position, real.visible(position))
        columns, rows = pixels.round().astype(int).T
        assert ((columns >= 0) & (rows >= 0) & (columns < 1920) & (rows < 1080)).all()
        assert real[position].mask[rows, columns].all()


@pytest.fixture(scope="module")
def greys(real: SfmSequence) -> list[np.ndarray]:
    return [cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY) for frame in real]


def residual_and_flow(real: SfmSequence, greys: list[np.ndarray], first: int, last: int) -> tuple[float, float]:
    """Median px between tracked and projected points, tracked frame by frame, and the points' median motion."""
    both = np.intersect1d(real.visible(first), real.visible(last))
    assert len(both) > 30
    points0, points1 = real.project(first, both), real.project(last, both)
    tracked = points0.astype(np.float32)
    for k in range(first, last):
        tracked, _, _ = cv2.calcOpticalFlowPyrLK(greys[k], greys[k + 1], tracked, None, winSize=(41, 41), maxLevel=4)
    residual = np.linalg.norm(tracked - points1, axis=1)
    return float(np.median(residual)), float(np.median(np.linalg.norm(points1 - points0, axis=1)))


def test_tissue_moves_as_the_real_points_say(real: SfmSequence, greys: list[np.ndarray]) -> None:
    for position in range(len(real) - 1):
        assert residual_and_flow(real, greys, position, position + 1)[0] < 2.5
    # Here the motion is 19 to 54 px, which is what a wrong axis or a wrong order of frames would leave.
    for position in (0, 5, 15):
        residual, flow = residual_and_flow(real, greys, position, position + 5)
        assert residual < flow / 5


@pytest.mark.parametrize(("method", "position"), [(klt, 0), (klt, 15), (sift, 15)])
def test_real_matches_fit_the_poses_and_not_their_inverses(real: SfmSequence, method: Method, position: int) -> None:
    frame0, frame1 = real[position], real[position + 5]
    # Without the rim, which moves with the scope.
    mask = cv2.erode(frame0.mask.astype(np.uint8), np.ones((39, 39), np.uint8)).astype(bool)
    matches = method(frame0.image, frame1.image, mask, mask)
    K = frame0.camera.matrix
    medians = []
    for poses in ((frame0.pose, frame1.pose), (np.linalg.inv(frame0.pose), np.linalg.inv(frame1.pose))):
        F = fundamental_from_pose(K, K, relative_pose(*poses))
        medians.append(np.nanmedian(epipolar_distance(F, matches.keypoints0, matches.keypoints1)))
    right, inverted = medians
    assert right < 4
    assert inverted > 3 * right
