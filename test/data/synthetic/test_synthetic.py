"""The synthetic endoscope against its own closed forms and OpenCV."""

import cv2
import numpy as np
import pytest
import torch

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.data.synthetic.noise import SolidNoise
from endomatch_ros.data.synthetic.surface import Surface
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.geometry.epipolar import epipolar_distance, fundamental_from_pose

SMALL = {"width": 160, "height": 128}
SCENES = [
    SceneConfig(seed=3, kind="tunnel", **SMALL),
    SceneConfig(seed=4, kind="cavity", **SMALL),
    SceneConfig(seed=5, kind="tunnel", deformation=0.05, **SMALL),
]


@pytest.fixture(scope="module", params=SCENES, ids=["tunnel", "cavity", "deforming"])
def scene(request):
    return SyntheticEndoscope(request.param)


@pytest.fixture(scope="module")
def frames(scene):
    return scene.render(0.0), scene.render(0.4, index=1)


def grid(frame, step=5):
    ys, xs = np.nonzero(frame.mask)
    return np.column_stack([xs, ys])[::step].astype(float)


def test_rendering_is_reproducible(scene, frames):
    again = SyntheticEndoscope(scene.config).render(0.0)
    assert np.array_equal(again.image, frames[0].image)
    assert np.array_equal(again.depth, frames[0].depth)
    assert np.array_equal(again.pose, frames[0].pose)


def test_seeds_and_kinds_differ():
    a, b = (SyntheticEndoscope(SceneConfig(seed=s, **SMALL)).render(0.0) for s in (1, 2))
    assert np.abs(a.image.astype(int) - b.image).mean() > 5


def test_the_frame_has_a_circle_on_black_with_light_inside(frames):
    frame = frames[0]
    assert frame.image.dtype == np.uint8
    assert frame.image.shape == (128, 160, 3)
    assert frame.image[~frame.mask].max() <= 20
    assert 40 < np.median(frame.image[frame.mask]) < 200
    centre, radius = cv2.minEnclosingCircle(np.argwhere(frame.mask)[:, ::-1].astype(np.float32))
    assert np.linalg.norm(np.array(centre) - [79.5, 63.5]) < 6
    assert frame.mask.sum() == pytest.approx(np.pi * radius**2, rel=0.06)


def test_depth_lies_on_the_surface(scene, frames):
    """Independent of the ray marcher: back-project by hand in float64 and evaluate the implicit function."""
    frame, surface = frames[0], Surface(scene.config)
    ys, xs = np.nonzero(frame.mask & np.isfinite(frame.depth))
    depth = frame.depth[ys, xs].astype(np.float64) / scene.config.radius
    local = (np.linalg.inv(scene.camera.matrix) @ np.stack([xs, ys, np.ones(len(xs))])).T * depth[:, None]
    world_from_camera = np.linalg.inv(frame.pose)
    world = local @ world_from_camera[:3, :3].T + world_from_camera[:3, 3] / scene.config.radius
    value = surface.value(surface.material(torch.from_numpy(world), 0.0)).numpy()
    # float32 rendering; at grazing incidence a depth error of 1e-6 moves f very little.
    assert np.abs(value).max() < 5e-4
    assert np.median(np.abs(value)) < 1e-5


def test_no_surface_is_skipped_on_the_way(scene, frames):
    """The marched depth is the first crossing: f is negative all along the ray before it."""
    frame, surface = frames[0], Surface(scene.config)
    ys, xs = np.nonzero(frame.mask & np.isfinite(frame.depth))
    pick = np.random.default_rng(0).choice(len(xs), 800)
    local = (np.linalg.inv(scene.camera.matrix) @ np.stack([xs, ys, np.ones(len(xs))])).T[pick]
    depth = frame.depth[ys[pick], xs[pick]].astype(np.float64) / scene.config.radius
    pose = np.linalg.inv(frame.pose)
    origin, rays = pose[:3, 3] / scene.config.radius, local @ pose[:3, :3].T
    shares = np.linspace(0.01, 0.985, 120)
    points = origin + (depth[:, None, None] * shares[None, :, None]) * rays[:, None]
    flat = torch.from_numpy(points.reshape(-1, 3))
    value = surface.value(surface.material(flat, 0.0)).numpy().reshape(len(pick), -1)
    assert (value.max(axis=1) > 1e-3).mean() < 0.005


def test_gradient_against_finite_differences():
    surface = Surface(SceneConfig(seed=7))
    points = torch.from_numpy(np.random.default_rng(0).uniform(-0.6, 0.6, (200, 3)))
    gradient = surface.gradient(points)
    step = 1e-3
    for axis in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[axis] = step
        difference = (surface.value(points + shift) - surface.value(points - shift)) / (2 * step)
        # The interpolated gradient and the gradient of the interpolant differ by the voxel size's error.
        assert (gradient[:, axis] - difference).abs().median() < 0.02


def test_noise_is_periodic_and_normalised():
    noise = SolidNoise(0, channels=1, gradient=True)
    points = torch.rand(5000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = noise(points)
    assert torch.allclose(noise(points + 3.0), value, atol=1e-9)
    assert abs(value[:, 0].mean()) < 0.1
    assert value[:, 0].std() == pytest.approx(0.97, abs=0.08)


def test_some_channels_of_the_noise_are_those_of_all():
    noise = SolidNoise(0, channels=2, size=16, gradient=True)
    points = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise.channels(5, 1)(points), noise(points)[:, [5, 1]])


def test_correspondence_agrees_with_opencv_on_a_rigid_scene():
    scene = SyntheticEndoscope(SCENES[0])
    frame, other = scene.render(0.0), scene.render(0.4)
    points = grid(frame)
    target, visible = scene.correspondence(0.0, 0.4, points)
    depth = frame.depth[points[:, 1].astype(int), points[:, 0].astype(int)].astype(np.float64)
    known = np.isfinite(depth) & visible
    homogeneous = np.column_stack([points, np.ones(len(points))])[known]
    local = homogeneous @ np.linalg.inv(scene.camera.matrix).T * depth[known, None]
    motion = other.pose @ np.linalg.inv(frame.pose)
    expected, _ = cv2.projectPoints(local, cv2.Rodrigues(motion[:3, :3])[0], motion[:3, 3], scene.camera.matrix, None)
    error = np.linalg.norm(expected[:, 0] - target[known], axis=1)
    assert known.sum() > 500
    assert np.percentile(error, 99) < 2e-3  # the float32 depth map's precision
    F = fundamental_from_pose(scene.camera.matrix, scene.camera.matrix, motion)
    assert np.nanmax(epipolar_distance(F, points[visible], target[visible])) < 1e-8


def test_correspondence_there_and_back(scene):
    points = np.random.default_rng(0).uniform([40, 30], [120, 100], (400, 2))
    target, visible = scene.correspondence(0.0, 0.5, points)
    back, seen = scene.correspondence(0.5, 0.0, target[visible])
    assert visible.mean() > 0.5
    assert seen.mean() > 0.97  # a point on an occluding edge may be decided either way
    assert np.linalg.norm(back - points[visible], axis=1)[seen].max() < 1e-3
    assert np.median(np.linalg.norm(target - points, axis=1)[visible]) > 1.0  # something moved


def test_a_deforming_scene_moves_under_a_still_camera():
    config = SceneConfig(seed=5, deformation=0.05, speed=0.0, wobble=0.0, **SMALL)
    scene = SyntheticEndoscope(config)
    points = np.random.default_rng(0).uniform([40, 30], [120, 100], (200, 2))
    target, visible = scene.correspondence(0.0, 0.5, points)
    assert np.allclose(scene.pose(0.0), scene.pose(0.5), atol=1e-12)
    assert np.median(np.linalg.norm(target - points, axis=1)[visible]) > 0.3
    rigid = SyntheticEndoscope(SceneConfig(seed=5, speed=0.0, wobble=0.0, **SMALL))
    target, visible = rigid.correspondence(0.0, 0.5, points)
    assert visible.sum() > 150
    assert np.allclose(target[visible], points[visible], atol=1e-6)


def test_dense_correspondence_agrees_with_the_exact_one(scene, frames):
    points, target, visible = scene.dense_correspondence(*frames, stride=8)
    exact, seen = scene.correspondence(0.0, 0.4, points)
    both = visible & seen
    assert both.sum() > 50
    assert np.linalg.norm(target - exact, axis=1)[both].max() < 0.01
    assert (visible != seen).mean() < 0.03


def test_the_two_images_agree_at_corresponding_points():
    """The pictures, not only the geometry: warped by the truth, the texture of one frame is that of the other."""
    scene = SyntheticEndoscope(SceneConfig(seed=6, kind="cavity", noise=0.5, specular=0.0, width=240, height=200))
    a, b = scene.render(0.0), scene.render(0.3)
    points = grid(a, 3)
    target, visible = scene.correspondence(0.0, 0.3, points)
    # The light moves with the camera: compare what is left without slow shading.
    grey = [cv2.cvtColor(f.image, cv2.COLOR_RGB2GRAY).astype(np.float32) for f in (a, b)]
    texture = [g - cv2.GaussianBlur(g, (0, 0), 5) for g in grey]
    inner = visible & (np.linalg.norm(points - [119.5, 99.5], axis=1) < 75)

    def correlation(to):
        moved = cv2.remap(texture[1], to[inner].astype(np.float32)[None], None, cv2.INTER_LINEAR)[0]
        here = texture[0][points[inner, 1].astype(int), points[inner, 0].astype(int)]
        return np.corrcoef(moved, here)[0, 1]

    assert correlation(target) > 0.8
    assert correlation(points) < 0.5


def test_points_outside_the_view_are_not_visible(scene):
    _, visible = scene.correspondence(0.0, 0.1, np.array([[0.0, 0.0], [-50.0, 20.0], [500.0, 500.0]]))
    assert not visible.any()


def test_the_camera_stays_inside_the_lumen(scene):
    surface = Surface(scene.config)
    centres = [np.linalg.inv(scene.pose(t))[:3, 3] / scene.config.radius for t in np.linspace(0, 120, 400)]
    assert surface.value(torch.from_numpy(np.array(centres))).max() < -0.05


def test_bad_parameters_are_named():
    with pytest.raises(ConfigError, match="kind 'stomach' is unknown"):
        SceneConfig(kind="stomach")
    with pytest.raises(ConfigError, match=r"width=8 is outside its range \[32, 8192\]"):
        SceneConfig(width=8)
    scene = SyntheticEndoscope(SCENES[0])
    frame = scene.render(0.0)
    from dataclasses import replace

    with pytest.raises(DataError, match="carries no depth"):
        scene.dense_correspondence(replace(frame, depth=None), frame)


# --- the stereo partner ----------------------------------------------------------------------------------------------


def stereo_config(**changes):
    # A clean picture: what is left between both images is their geometry, light and exposure.
    return SceneConfig(**({"seed": 6, "kind": "cavity", "noise": 0.2, "specular": 0.0, **SMALL} | changes))


@pytest.fixture(scope="module")
def stereo():
    return SyntheticEndoscope(stereo_config(stereo_baseline=0.003)).render(0.3)


def at_disparity(frame, points, scale):
    """The partner's grey values at ``points`` moved by ``scale`` times fx·b/z to the left."""
    x, y = points.T.astype(int)
    disparity = frame.camera.matrix[0, 0] * 0.003 / frame.depth[y, x]
    grid = np.column_stack([points[:, 0] - scale * disparity, points[:, 1]]).astype(np.float32)
    grey = cv2.cvtColor(frame.partner.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return cv2.remap(grey, grid[None], None, cv2.INTER_LINEAR)[0], grid


def test_the_partner_changes_nothing_in_the_frame(stereo):
    alone = SyntheticEndoscope(stereo_config()).render(0.3)
    assert alone.partner is None
    for name in ("image", "depth", "mask", "pose"):
        assert np.array_equal(getattr(alone, name), getattr(stereo, name))


def test_the_partner_is_an_ideal_rectified_one(stereo):
    assert stereo.partner.camera is stereo.camera
    expected = np.eye(4)
    expected[0, 3] = -0.003
    assert np.array_equal(stereo.partner.pose, expected)
    again = SyntheticEndoscope(stereo_config(stereo_baseline=0.003)).render(0.3)
    assert np.array_equal(again.partner.image, stereo.partner.image)


def test_the_partner_shows_the_same_tissue_under_the_same_light_at_the_disparity_of_the_depth(stereo):
    """Without gloss radiance does not depend on the direction of view, so that both cameras see equal values.

    Only where the one light stays with the left camera, the exposure is shared, and the disparity is fx·b/z.
    """
    points = grid(stereo, 3)
    target = at_disparity(stereo, points, 1.0)[1]
    away = np.hypot(*(target - [79.5, 63.5]).T)
    inner = (np.hypot(*(points - [79.5, 63.5]).T) < 50) & (away < 50)
    grey = cv2.cvtColor(stereo.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    x, y = points.T.astype(int)
    # Each lens darkens towards its own rim.
    circle, radius = np.array([79.5, 63.5]), 63.0

    def flat(at, shown):
        return shown / (1.0 - 0.35 * ((at - circle) ** 2).sum(axis=1) / radius**2)

    here = flat(points, grey[y, x])

    def difference(scale):
        values, moved = at_disparity(stereo, points, scale)
        return np.abs(flat(moved, values) - here)[inner]

    assert inner.sum() > 1000
    assert np.median(difference(1.0)) < 1.0
    assert np.percentile(difference(1.0), 95) < 4.0
    for wrong in (0.8, 1.2, 0.0, -1.0):
        assert np.median(difference(wrong)) > 2 * np.median(difference(1.0))


def test_the_partner_sees_what_exact_rays_from_its_place_see(stereo):
    """Traced in float64 from the second camera: what it meets at the disparity is the very depth, unless hidden."""
    scene, points = SyntheticEndoscope(stereo_config(stereo_baseline=0.003)), grid(stereo, 11)
    x, y = points.T.astype(int)
    depth = stereo.depth[y, x].astype(np.float64)
    fx, cx, cy = stereo.camera.matrix[[0, 0, 1], [0, 2, 2]]
    local = np.column_stack([(points[:, 0] - fx * 0.003 / depth - cx) / fx, (points[:, 1] - cy) / fx, depth * 0 + 1])
    world_from_partner = np.linalg.inv(stereo.partner.pose @ stereo.pose)
    origin = torch.from_numpy(world_from_partner[:3, 3] / scene.config.radius)
    met = Surface(scene.config).intersect(origin, torch.from_numpy(local @ world_from_partner[:3, :3].T), 0.3)
    ratio = met.numpy() * scene.config.radius / depth
    assert (ratio < 1 + 1e-4).all()
    assert (np.abs(ratio - 1) < 1e-4).mean() > 0.9


def test_each_camera_has_its_own_noise():
    scene = SyntheticEndoscope(stereo_config(stereo_baseline=1e-7, noise=6.0))
    frame = scene.render(0.0)
    difference = (frame.image.astype(float) - frame.partner.image)[40:90, 55:105]
    # Practically one place: the same picture but for independent noise.
    assert np.abs(difference.mean()) < 0.5
    quiet = SyntheticEndoscope(stereo_config(noise=0.0)).render(0.0).image
    alone = (frame.image.astype(float) - quiet)[40:90, 55:105]
    assert difference.std() == pytest.approx(np.sqrt(2) * alone.std(), rel=0.1)


def test_a_second_camera_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"stereo_baseline=-0.001 is outside its range \[0, 0.006\]"):
        SceneConfig(stereo_baseline=-0.001)
    with pytest.raises(ConfigError, match=r"stereo_baseline=0.02 is outside its range \[0, 0.006\]"):
        SceneConfig(stereo_baseline=0.02)
    scene = SyntheticEndoscope(SceneConfig(seed=0, kind="cavity", stereo_baseline=0.006, **SMALL))
    with pytest.raises(ConfigError, match=r"puts the second camera of scene 0 into the tissue at 4.5 s"):
        scene.render(4.5)
