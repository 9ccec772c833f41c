"""Refined pose and covariance against scipy, numeric derivatives and Monte Carlo on exact two-view data."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.optimize import least_squares

from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import fundamental_from_pose, sampson_distance
from endomatch_ros.geometry.uncertainty import (
    INDEPENDENT_CELLS,
    refine_relative_pose,
    relative_pose_covariance,
    sampson_system,
    tangents,
)

K = np.array([[677.0, 0.0, 640.0], [0.0, 590.0, 512.0], [0.0, 0.0, 1.0]])
SIZE = (1280, 1024)
CAMERA = Camera(K, np.zeros(5), "plumb_bob", SIZE)
MOTIONS = {"sideways": (1.0, 0.2, 0.1), "forward": (-0.1, 0.1, -0.9)}


def make_pose(translation: tuple[float, float, float]) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array([0.06, -0.1, 0.3]))[0]
    pose[:3, 3] = np.array(translation) / np.linalg.norm(translation)
    return pose


def moved(pose: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The pose whose inverse lies ``change`` (x, y, z, rotation about fixed axes) from this one's."""
    inverse = np.linalg.inv(pose)
    inverse[:3, 3] += change[:3]
    inverse[:3, 3] /= np.linalg.norm(inverse[:3, 3])
    inverse[:3, :3] = cv2.Rodrigues(np.asarray(change[3:], float))[0] @ inverse[:3, :3]
    return np.linalg.inv(inverse)


def difference(pose: np.ndarray, true: np.ndarray) -> np.ndarray:
    """What :func:`moved` moved by."""
    a, b = np.linalg.inv(pose), np.linalg.inv(true)
    return np.append(a[:3, 3] - b[:3, 3], cv2.Rodrigues(a[:3, :3] @ b[:3, :3].T)[0])


def two_views(pose: np.ndarray, count: int, camera: Camera = CAMERA) -> tuple[np.ndarray, np.ndarray]:
    points = np.random.default_rng(0).uniform([-2, -2, 4], [2, 2, 9], (count, 3))
    return camera.project(points), camera.project(points @ pose[:3, :3].T + pose[:3, 3])


def noisy(views: tuple[np.ndarray, np.ndarray], sigma: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return views[0] + rng.normal(0, sigma, views[0].shape), views[1] + rng.normal(0, sigma, views[1].shape)


def everything(points: np.ndarray) -> np.ndarray:
    return np.ones(len(points), bool)


def by_scipy(start: np.ndarray, points: tuple[np.ndarray, np.ndarray], **loss: object) -> np.ndarray:
    """Least Sampson distances from a start, by a general solver and the library's own distance."""
    basis = np.zeros((6, 5))
    basis[:3, :2] = np.linalg.svd(np.linalg.inv(start)[:3, 3][None])[2][1:].T
    basis[3:, 2:] = np.eye(3)

    def residuals(step: np.ndarray) -> np.ndarray:
        return sampson_distance(fundamental_from_pose(K, K, moved(start, basis @ step)), *points)

    method = "trf" if loss else "lm"  # the faster one knows no loss but squares
    return moved(start, basis @ least_squares(residuals, np.zeros(5), x_scale=1e-3, method=method, **loss).x)


@pytest.mark.parametrize("motion", MOTIONS)
def test_residuals_and_jacobian_agree_with_numeric_ones(motion: str) -> None:
    pose = make_pose(MOTIONS[motion])
    points = noisy(two_views(pose, 100), 3.0)
    inverse = np.linalg.inv(pose)
    rays = CAMERA.rays(points[0]), CAMERA.rays(points[1])
    residuals, jacobian = sampson_system(inverse[:3, 3], inverse[:3, :3], *rays, CAMERA)
    np.testing.assert_allclose(np.abs(residuals), sampson_distance(fundamental_from_pose(K, K, pose), *points))
    clear = np.abs(residuals) > 0.05  # the library's distance has no sign
    assert clear.sum() > 90
    assert (residuals > 0).any()
    assert (residuals < 0).any()
    step = 1e-6
    for column, direction in enumerate([*np.eye(6)[3:]]):
        numeric = derivative(pose, direction * step, points) / step * np.sign(residuals)
        np.testing.assert_allclose(jacobian[clear, 2 + column], numeric[clear], rtol=1e-5, atol=1e-3)
    for column, tangent in enumerate(tangents(inverse[:3, 3]).T):
        numeric = derivative(pose, np.append(tangent, np.zeros(3)) * step, points) / step * np.sign(residuals)
        np.testing.assert_allclose(jacobian[clear, column], numeric[clear], rtol=1e-5, atol=1e-3)


def derivative(pose: np.ndarray, change: np.ndarray, points: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Central difference of the library's distance."""
    ahead, behind = (fundamental_from_pose(K, K, moved(pose, sign * change)) for sign in (1, -1))
    return (sampson_distance(ahead, *points) - sampson_distance(behind, *points)) / 2


@pytest.mark.parametrize("motion", MOTIONS)
def test_refinement_finds_what_scipy_finds(motion: str) -> None:
    pose = make_pose(MOTIONS[motion])
    points = noisy(two_views(pose, 300), 0.3)
    points[1][:60] += np.random.default_rng(2).uniform(-4, 4, (60, 2))
    start = moved(pose, np.array([0.0, 0.05, 0.03, 0.01, -0.01, 0.02]))
    found = refine_relative_pose(start, *points, CAMERA, everything(points[0]))
    assert np.linalg.norm(found[:3, 3]) == pytest.approx(1)
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-12)
    residuals = sampson_distance(fundamental_from_pose(K, K, found), *points)
    expected = by_scipy(start, points, loss="cauchy", f_scale=2.385 * 1.4826 * np.median(residuals))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    # Which is nearer to the truth than the plain least squares, drawn away by the sixty.
    plain = by_scipy(start, points)
    assert np.linalg.norm(difference(found, pose)) < np.linalg.norm(difference(plain, pose))


def test_exact_matches_give_the_exact_pose() -> None:
    pose = make_pose(MOTIONS["sideways"])
    points = two_views(pose, 200)
    found = refine_relative_pose(moved(pose, np.full(6, 0.02)), *points, CAMERA, everything(points[0]))
    np.testing.assert_allclose(found, pose, atol=1e-9)
    again = refine_relative_pose(pose, *points, CAMERA, everything(points[0]))
    np.testing.assert_allclose(again, pose, atol=1e-9)


def test_outliers_have_no_say() -> None:
    pose = make_pose(MOTIONS["sideways"])
    points = noisy(two_views(pose, 200), 0.3)
    inliers = np.arange(200) < 150
    spoilt = points[0], np.where(inliers[:, None], points[1], 77.0)
    first = [points[0][:150], points[1][:150], CAMERA, everything(points[0][:150])]
    np.testing.assert_array_equal(
        refine_relative_pose(pose, *spoilt, CAMERA, inliers), refine_relative_pose(pose, *first)
    )
    np.testing.assert_array_equal(
        relative_pose_covariance(pose, *spoilt, CAMERA, inliers), relative_pose_covariance(pose, *first)
    )


@pytest.mark.parametrize("motion", MOTIONS)
def test_covariance_is_that_of_many_trials(motion: str) -> None:
    pose, trials = make_pose(MOTIONS[motion]), 150
    views = two_views(pose, 120)
    errors, nees = [], []
    for trial in range(trials):
        points = noisy(views, 0.4, seed=trial)
        found = by_scipy(pose, points)
        covariance = relative_pose_covariance(found, *points, CAMERA, everything(points[0]), cells=None)
        errors.append(difference(found, pose))
        nees.append(errors[-1] @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ errors[-1])
    observed = np.cov(np.array(errors).T)
    predicted = relative_pose_covariance(pose, *noisy(views, 0.4), CAMERA, everything(views[0]), cells=None)
    # The observed variance of 150 trials is known to 12 %, the predicted one from 120 residuals to 13 %.
    deviations = np.sqrt(np.diag(observed))
    np.testing.assert_allclose(np.sqrt(np.diag(predicted)), deviations, rtol=0.25)
    np.testing.assert_allclose(predicted / np.outer(deviations, deviations), correlation(observed), atol=0.4)
    # Five degrees of freedom: the mean is 5, the trials' mean has a deviation of sqrt(10 / 150) = 0.26.
    assert np.mean(nees) == pytest.approx(5, abs=1.0)


def correlation(covariance: np.ndarray) -> np.ndarray:
    deviations = np.sqrt(np.diag(covariance))
    return covariance / np.outer(deviations, deviations)


def test_errors_that_neighbours_share_are_counted_once() -> None:
    pose, trials = make_pose(MOTIONS["sideways"]), 30
    views = two_views(pose, 1000)
    cells = np.floor((views[0] + 0.5) * INDEPENDENT_CELLS / 1280).astype(int)
    nees = {INDEPENDENT_CELLS: [], None: []}
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        shared = rng.normal(0, 0.3, (INDEPENDENT_CELLS, INDEPENDENT_CELLS, 2))
        points = views[0], views[1] + shared[cells[:, 0], cells[:, 1]]
        found = refine_relative_pose(pose, *points, CAMERA, everything(points[0]))
        error = difference(found, pose)
        for count, values in nees.items():
            covariance = relative_pose_covariance(found, *points, CAMERA, everything(points[0]), cells=count)
            values.append(error @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ error)
    # Cells with many matches weigh more than others, so that even the right size is a little too sure.
    assert 3 < np.mean(nees[INDEPENDENT_CELLS]) < 12
    assert np.mean(nees[None]) > 50


def test_cells_divide_by_their_number() -> None:
    pose = make_pose(MOTIONS["sideways"])
    # Pixel i covers [i - 1/2, i + 1/2): of cells of 160 px, 159.7 lies in the second one, like 160.2.
    x, y, nudge = (v.ravel() for v in np.meshgrid(160.0 * np.arange(1, 8), 160.0 * np.arange(1, 7), (-0.3, 0.2)))
    first = np.column_stack([x + nudge, y + nudge])
    depth = np.random.default_rng(0).uniform(4, 9, len(x))
    points = CAMERA.rays(first) * depth[:, None]
    views = first, noisy((first, CAMERA.project(points @ pose[:3, :3].T + pose[:3, 3])), 0.3)[1]
    one, each = (relative_pose_covariance(pose, *views, CAMERA, everything(first), cells=c) for c in (8, None))
    np.testing.assert_allclose(one, each * (84 - 5) / (42 - 5), rtol=1e-9)


def test_nothing_is_known_along_the_translation() -> None:
    pose = make_pose(MOTIONS["forward"])
    points = noisy(two_views(pose, 200), 0.3)
    covariance = relative_pose_covariance(pose, *points, CAMERA, everything(points[0]))
    np.testing.assert_array_equal(covariance, covariance.T)
    along = np.append(np.linalg.inv(pose)[:3, 3], np.zeros(3))
    np.testing.assert_allclose(covariance @ along, 0, atol=1e-12 * covariance.max())
    values = np.linalg.eigvalsh(covariance)
    assert (values[1:] > 1e-6 * values[-1]).all()


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_size_of_the_image_does_not_matter(factor: float) -> None:
    pose = make_pose(MOTIONS["sideways"])
    points = noisy(two_views(pose, 400), 0.3)
    resize = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
    camera = Camera(resize @ K, np.zeros(5), "plumb_bob", (round(1280 * factor), round(1024 * factor)))
    scaled = [(p + 0.5) * factor - 0.5 for p in points]
    inliers = everything(points[0])
    np.testing.assert_allclose(
        relative_pose_covariance(pose, *scaled, camera, inliers),
        relative_pose_covariance(pose, *points, CAMERA, inliers),
        rtol=1e-9,
        atol=1e-15,
    )
    np.testing.assert_allclose(
        refine_relative_pose(pose, *scaled, camera, inliers),
        refine_relative_pose(pose, *points, CAMERA, inliers),
        atol=1e-9,
    )


def test_distortion_is_taken_out_first() -> None:
    camera = Camera(K, np.array([-0.03, 0.01, 0.001, -0.002]), "equidistant", SIZE)
    pose = make_pose(MOTIONS["sideways"])
    points = noisy(two_views(pose, 200, camera), 0.3)
    straight = camera.undistort(points[0]), camera.undistort(points[1])
    inliers = everything(points[0])
    np.testing.assert_allclose(
        refine_relative_pose(pose, *points, camera, inliers),
        refine_relative_pose(pose, *straight, CAMERA, inliers),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        relative_pose_covariance(pose, *points, camera, inliers, cells=None),
        relative_pose_covariance(pose, *straight, CAMERA, inliers, cells=None),
        rtol=1e-9,
        atol=1e-15,
    )


def test_more_matches_than_are_used_still_count() -> None:
    pose = make_pose(MOTIONS["sideways"])
    points = noisy(two_views(pose, 9000), 0.3)
    every, some = (
        relative_pose_covariance(pose, *(p[:n] for p in points), CAMERA, np.ones(n, bool), cells=None)
        for n in (9000, 1800)
    )
    np.testing.assert_allclose(np.diag(every) * 5, np.diag(some), rtol=0.25)
    # Those that are used come from everywhere in the list.
    order = np.argsort(points[0][:, 0])
    sorted_points = [p[order] for p in points]
    by_column = relative_pose_covariance(pose, *sorted_points, CAMERA, everything(points[0]), cells=None)
    np.testing.assert_allclose(np.diag(by_column), np.diag(every), rtol=0.25)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_few_matches_say_nothing(count: int) -> None:
    pose = make_pose(MOTIONS["sideways"])
    points = noisy(two_views(pose, count), 0.3)
    inliers = everything(points[0])
    assert relative_pose_covariance(pose, *points, CAMERA, inliers) is None
    assert relative_pose_covariance(pose, *points, CAMERA, inliers, cells=None) is None
    np.testing.assert_allclose(refine_relative_pose(pose, *points, CAMERA, inliers), pose, atol=1e-12)


def test_few_places_say_nothing() -> None:
    pose = make_pose(MOTIONS["sideways"])
    points = noisy(two_views(pose, 5000), 0.3)
    inliers = (np.abs(points[0] - (640, 512)) < 60).all(axis=1)
    assert inliers.sum() > 8
    assert relative_pose_covariance(pose, *points, CAMERA, inliers) is None
    assert relative_pose_covariance(pose, *points, CAMERA, inliers, cells=None) is not None


@pytest.mark.parametrize("rotation", [np.eye(3), make_pose((1.0, 0.0, 0.0))[:3, :3]])
def test_a_rotation_says_nothing_of_the_direction(rotation: np.ndarray) -> None:
    pose = make_pose(MOTIONS["sideways"])
    pose[:3, :3] = rotation
    turned = pose.copy()
    turned[:3, 3] = 0.0
    points = two_views(turned, 300)
    assert relative_pose_covariance(pose, *points, CAMERA, everything(points[0])) is None
    assert np.isfinite(refine_relative_pose(pose, *points, CAMERA, everything(points[0]))).all()


def test_refined_pose_never_fits_worse() -> None:
    for seed in (*range(10), 63, 1257):  # matches of no geometry at all; from the last two Gauss-Newton goes astray
        rng = np.random.default_rng(seed)
        pose = make_pose(tuple(rng.normal(size=3)))
        points = rng.uniform(0, 1024, (2, 8, 2))
        found = refine_relative_pose(pose, *points, CAMERA, everything(points[0]))
        before, after = (sampson_distance(fundamental_from_pose(K, K, p), *points) for p in (pose, found))
        scale = 2.385 * 1.4826 * np.median(after)
        assert np.log1p((after / scale) ** 2).sum() <= np.log1p((before / scale) ** 2).sum() + 1e-9


def test_a_direction_that_could_be_any_is_none() -> None:
    pose = make_pose(MOTIONS["sideways"])
    short = pose.copy()
    short[:3, 3] *= 0.01
    points = noisy(two_views(short, 30), 3.0)
    assert relative_pose_covariance(pose, *points, CAMERA, everything(points[0])) is None


def test_the_same_match_again_and_again_says_nothing() -> None:
    pose = make_pose(MOTIONS["sideways"])
    points = [np.repeat(p, 50, axis=0) for p in two_views(pose, 1)]
    assert relative_pose_covariance(pose, *points, CAMERA, everything(points[0]), cells=None) is None
    assert np.isfinite(refine_relative_pose(pose, *points, CAMERA, everything(points[0]))).all()


def test_a_match_on_both_epipoles_says_nothing() -> None:
    pose = np.eye(4)
    pose[2, 3] = -1.0
    points = noisy(two_views(pose, 200), 0.3)
    more = [np.vstack([p, K[:2, 2]]) for p in points]
    one, other = (relative_pose_covariance(pose, *p, CAMERA, everything(p[0]), cells=None) for p in (points, more))
    np.testing.assert_allclose(one, other, rtol=0.05, atol=0.05 * one.max())
    found = refine_relative_pose(pose, *more, CAMERA, everything(more[0]))
    np.testing.assert_allclose(found, refine_relative_pose(pose, *points, CAMERA, everything(points[0])), atol=1e-4)


def test_matches_that_are_not_finite_are_left_out() -> None:
    pose = make_pose(MOTIONS["sideways"])
    points = noisy(two_views(pose, 200), 0.3)
    points[1][150:] = np.nan
    inliers = everything(points[0])
    np.testing.assert_array_equal(
        refine_relative_pose(pose, *points, CAMERA, inliers),
        refine_relative_pose(pose, *(p[:150] for p in points), CAMERA, inliers[:150]),
    )
    assert np.isfinite(relative_pose_covariance(pose, *points, CAMERA, inliers)).all()
