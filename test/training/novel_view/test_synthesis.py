"""Novel views against closed forms and the synthetic endoscope's true second view."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from endomatch_ros.data.synthetic import SyntheticEndoscope
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.geometry.epipolar import relative_pose
from endomatch_ros.matching.view import highlight_mask
from endomatch_ros.training.novel_view.motion import MotionConfig, random_displacement, random_pose
from endomatch_ros.training.novel_view.raster import rasterise
from endomatch_ros.training.novel_view.relight import light_gain, render
from endomatch_ros.training.novel_view.synthesis import nearest_value, novel_view, surface_from_depth
from endomatch_ros.training.pairs.render import scene_config

K = np.array([[90.0, 0, 47.3], [0, 95.0, 33.1], [0, 0, 1]])
SIZE = (96, 72)


def pose(rotation=(0.0, 0.0, 0.0), translation=(0.0, 0.0, 0.0)):
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = cv2.Rodrigues(np.array(rotation))[0], translation
    return out


def plane_depth(normal, distance, size=SIZE, matrix=K):
    """z of the plane n·X = d at each pixel."""
    xs, ys = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    rays = np.stack([xs, ys, np.ones_like(xs)], -1) @ np.linalg.inv(matrix).T
    return distance / (rays @ np.array(normal))


def grid(step=7, size=SIZE):
    xs, ys = np.meshgrid(np.arange(3, size[0] - 3, step), np.arange(3, size[1] - 3, step))
    return np.stack([xs.ravel(), ys.ravel()], 1).astype(float)


def test_rasteriser_against_rays_through_every_pixel():
    """Each pixel's nearest triangle by Möller and Trumbore, one ray and one triangle at a time in float64."""
    rng = np.random.default_rng(4)
    points = np.column_stack([rng.uniform(-1, 1, (30, 2)), rng.uniform(2, 4, 30)])
    triangles = rng.permutation(30).reshape(10, 3)
    pixels = points @ np.array([[30.0, 0, 15.2], [0, 30, 11.7], [0, 0, 1]]).T
    pixels = pixels[:, :2] / pixels[:, 2:]
    raster = rasterise(pixels, points[:, 2], triangles, (32, 24))
    hits = 0
    for y in range(24):
        for x in range(32):
            ray = np.array([(x - 15.2) / 30, (y - 11.7) / 30, 1.0])
            best, nearest, margin = -1, np.inf, 1.0
            for k, (a, b, c) in enumerate(points[triangles]):
                screen = pixels[triangles[k]]
                if np.linalg.det(np.column_stack([screen[1] - screen[0], screen[2] - screen[0]])) <= 0:
                    continue  # seen from behind
                u, v, z = np.linalg.solve(np.column_stack([b - a, c - a, -ray]), -a)
                margin = min(margin, *np.abs([u, v, 1 - u - v]))
                if min(u, v, 1 - u - v) >= 0 and z < nearest:
                    best, nearest, weights = k, z, (1 - u - v, u, v)
            if margin < 1e-5:
                continue  # on an edge: either side is right
            assert raster.triangle[y, x] == best
            if best >= 0:
                hits += 1
                assert raster.depth[y, x] == pytest.approx(nearest, rel=1e-5)
                assert raster.weights[y, x] == pytest.approx(weights, abs=2e-4)
    assert hits > 80


@pytest.mark.parametrize("stride", [1, 3])
def test_a_plane_moves_by_its_homography(stride):
    normal, distance = np.array([0.25, -0.15, 1.0]), 5.0
    normal /= np.linalg.norm(normal)
    motion = pose((0.05, -0.08, 0.12), (0.4, -0.2, 0.3))
    surface = surface_from_depth(plane_depth(normal, distance), K, stride=stride)
    matrix = np.array([[80.0, 3.0, 50.0], [0, 85, 30], [0, 0, 1]])
    view = novel_view(surface, motion, SIZE, matrix)
    H = matrix @ (motion[:3, :3] + np.outer(motion[:3, 3], normal) / distance) @ np.linalg.inv(K)

    def through(points, homography):
        moved = np.column_stack([points, np.ones(len(points))]) @ homography.T
        return moved[:, :2] / moved[:, 2:]

    points = grid() + 0.37
    target, visible = view.forward(points)
    assert visible.sum() > 0.5 * len(points)
    assert np.abs(target - through(points, H))[visible].max() < 1e-6
    ys, xs = np.nonzero(view.visible)
    back = through(np.stack([xs, ys], 1), np.linalg.inv(H))
    assert np.abs(view.source[ys, xs] - back).max() < 2e-3
    assert view.visible.mean() > 0.4


@pytest.mark.parametrize("seed", [20001, 20002])
def test_correspondence_is_that_of_the_true_second_view(seed):
    """Test scenes; the tolerances were set on validation scenes 10000 to 10005."""
    scene = SyntheticEndoscope(replace(scene_config(seed), deformation=0.0))
    times = 0.0, 0.5
    frame0, frame1 = scene.render(times[0]), scene.render(times[1])
    surface = surface_from_depth(frame0.depth, frame0.camera.matrix, frame0.mask)
    view = novel_view(surface, relative_pose(frame0.pose, frame1.pose), frame0.size)
    rng = np.random.default_rng(0)

    ys, xs = np.nonzero(frame0.mask)
    some = rng.choice(len(xs), 4000)
    points = np.stack([xs[some], ys[some]], 1) + rng.uniform(-0.5, 0.5, (4000, 2))
    target, visible = view.forward(points)
    truth, seen = scene.correspondence(*times, points)
    error = np.linalg.norm(target - truth, axis=1)
    in_view = nearest_value(frame1.mask.astype(np.float32), target) > 0
    assert (visible & seen).sum() > 1000
    assert np.percentile(error[visible & seen], 99.5) < 0.1
    assert np.median(error[visible & seen]) < 0.002
    assert (visible & in_view & ~seen).sum() < 0.01 * visible.sum()  # hidden tissue that is called visible
    assert (visible & seen).sum() > 0.88 * seen.sum()

    # The other way: each pixel of the novel view, and where it comes from.
    ys, xs = np.nonzero(view.visible & frame1.mask)
    some = rng.choice(len(xs), 4000)
    pixels = np.stack([xs[some], ys[some]], 1).astype(float)
    truth, seen = scene.correspondence(times[1], times[0], pixels)
    error = np.linalg.norm(view.source[ys[some], xs[some]] - truth, axis=1)
    assert np.percentile(error[seen], 99.5) < 0.1
    assert (~seen).mean() < 0.01

    # The picture is the true second frame's, but for noise and highlights: far nearer than the first frame is.
    picture = render(view, frame0.image)
    both = view.visible & frame1.mask & ~highlight_mask(frame1.image) & ~highlight_mask(picture)
    grey = [cv2.GaussianBlur(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), (0, 0), 1.5)[both] for i in (picture, frame1.image)]
    still = cv2.GaussianBlur(cv2.cvtColor(frame0.image, cv2.COLOR_RGB2GRAY), (0, 0), 1.5)[both]
    unlike, unlike_still = 1 - np.corrcoef(*grey)[0, 1], 1 - np.corrcoef(still, grey[1])[0, 1]
    assert unlike < 0.15
    assert unlike < 0.7 * unlike_still


def test_near_tissue_hides_far_tissue():
    """A square at depth 1 before a wall at depth 2; the camera moves right by 0.2, the square left by 18 − 9 px."""
    depth = np.full(SIZE[::-1], 2.0)
    depth[20:50, 40:70] = 1.0
    surface = surface_from_depth(depth, K)
    view = novel_view(surface, pose(translation=(-0.2, 0, 0)), SIZE)
    square, uncovered, wall = np.s_[30:40, 28:46], np.s_[30:40, 54:59], np.s_[30:40, 72:80]
    assert view.visible[square].all()
    assert np.allclose(view.raster.depth[square], 1.0)
    assert np.allclose(view.source[square][..., 0] - np.arange(28, 46), 18, atol=1e-3)
    assert view.visible[wall].all()
    assert np.allclose(view.source[wall][..., 0] - np.arange(72, 80), 9, atol=1e-3)
    assert not view.visible[uncovered].any()  # nobody has seen what is there
    hidden = np.array([[33.0, 35.0], [36.0, 30.0]])  # wall left of the square: behind it now
    target, visible = view.forward(hidden)
    assert not visible.any()
    assert np.allclose(target[:, 0] - hidden[:, 0], -9)
    assert view.forward(np.array([[55.0, 35.0]]))[1].all()


def test_unknown_depth_and_unusable_pixels_are_no_labels():
    depth = plane_depth((0.0, 0.0, 1.0), 3.0)
    depth[10:20, 10:20] = np.nan
    depth[30:34, 30:34] = 0.0
    usable = np.ones(depth.shape, bool)
    usable[50:60, 50:60] = False
    view = novel_view(surface_from_depth(depth, K, usable), np.eye(4), SIZE)
    assert view.drawn[:-1, :-1].all()  # filled, so that the picture has no tears
    for part in (np.s_[10:20, 10:20], np.s_[30:34, 30:34], np.s_[50:60, 50:60]):
        assert not view.visible[part].any()
    assert not view.forward(np.array([[15.0, 15.0], [32.0, 32.0], [55.0, 55.0]]))[1].any()
    assert view.forward(np.array([[70.0, 30.0]]))[1].all()
    assert not view.forward(np.array([[-1.0, 3.0], [np.nan, 3.0], [200.0, 3.0]]))[1].any()
    with pytest.raises(DataError, match="knows no pixel"):
        surface_from_depth(np.full((20, 20), np.nan), K)


def test_part_of_a_frame_is_the_same_surface():
    depth = plane_depth((0.1, 0.2, 1.0), 4.0)
    motion = pose((0.02, 0.03, 0.0), (0.2, 0.1, 0.0))
    whole = novel_view(surface_from_depth(depth, K), motion, SIZE)
    part = novel_view(surface_from_depth(depth, K, region=(20, 10, 80, 60)), motion, SIZE)
    points = np.array([[40.2, 30.7], [60.0, 20.0]])
    assert np.allclose(whole.forward(points)[0], part.forward(points)[0])
    both = whole.visible & part.visible
    assert both.sum() > 1500
    assert np.allclose(whole.source[both], part.source[both], atol=1e-3)


def test_deforming_tissue():
    """The same shift of all tissue is the opposite motion of the camera; a smooth wave goes there and back."""
    depth = plane_depth((0.1, -0.1, 1.0), 4.0)
    surface = surface_from_depth(depth, K)
    shift = np.array([0.2, -0.1, 0.05])
    moved = novel_view(surface, np.eye(4), SIZE, displacement=np.tile(shift, (len(surface.points), 1)))
    camera = novel_view(surface, pose(translation=shift), SIZE)
    assert np.allclose(moved.source[moved.visible], camera.source[moved.visible], atol=1e-3)
    config = MotionConfig(deformation=0.03, deformation_share=1.0)
    wave = random_displacement(surface.points, config, 4.0, np.random.default_rng(0))
    assert 0.2 * 0.12 < np.sqrt((wave**2).sum(1).mean()) < 5 * 0.12
    view = novel_view(surface, np.eye(4), SIZE, displacement=wave)
    exact = (surface.points + wave) @ K.T
    exact = (exact[:, :2] / exact[:, 2:]).reshape(*depth.shape, 2)
    target, visible = view.forward(grid())
    x, y = grid().astype(int).T
    assert visible.mean() > 0.7
    assert np.allclose(target[visible], exact[y, x][visible], atol=1e-6)
    assert np.linalg.norm(target - grid(), axis=1)[visible].max() > 1
    assert random_displacement(surface.points, MotionConfig(deformation=0.0), 4.0, np.random.default_rng(0)) is None


def test_light_of_the_moved_camera_on_a_plane():
    """Lambert's plane under a point light at the camera: E = cos θ / r², with r and θ by hand."""
    distance = 5.0
    surface = surface_from_depth(plane_depth((0, 0, 1.0), distance), K)
    motion = pose(translation=(1.0, 0.0, -1.5))  # nearer, and aside
    view = novel_view(surface, motion, SIZE)

    def irradiance(points):
        return points[:, 2] / np.linalg.norm(points, axis=1) / (points**2).sum(1)

    expected = irradiance(view.moved) / irradiance(surface.points)
    inner = np.zeros(surface.grid[::-1], bool)
    inner[8:-8, 8:-8] = True  # normals are smoothed over some vertices
    assert np.allclose(light_gain(surface, view.moved)[inner.ravel()], expected[inner.ravel()], rtol=0.02)

    grey = np.full((*SIZE[::-1], 3), 120, np.uint8)
    picture = render(view, grey)[..., 0].astype(float)
    shown = view.drawn & (np.nan_to_num(view.source[..., 0]) > 10) & (np.nan_to_num(view.source[..., 0]) < 85)
    ratio = expected.reshape(surface.grid[::-1])
    ys, xs = np.nonzero(shown)
    gain = nearest_value(ratio.astype(np.float32), view.source[ys, xs].astype(float))
    predicted = 120 * (gain / np.median(gain)) ** (1 / 2.2)
    measured = picture[ys, xs]
    assert np.median(np.abs(measured / np.median(measured) - predicted / np.median(predicted))) < 0.01
    assert (render(view, grey, relit=False)[view.drawn] == 120).all()


def test_no_motion_gives_the_frame_itself():
    image = np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
    view = novel_view(surface_from_depth(plane_depth((0.1, 0.1, 1.0), 3.0), K), np.eye(4), SIZE)
    ys, xs = np.nonzero(view.visible)
    assert view.visible.mean() > 0.95
    assert np.abs(view.source[ys, xs] - np.stack([xs, ys], 1)).max() < 1e-3
    assert np.abs(render(view, image)[view.visible].astype(int) - image[view.visible]).max() <= 1


def test_random_motion_stays_in_its_ranges():
    config = MotionConfig(translation=(0.05, 0.2), rotation=0.1)
    rng = np.random.default_rng(3)
    poses = [random_pose(config, 7.0, rng) for _ in range(400)]
    lengths = np.array([np.linalg.norm(p[:3, 3]) for p in poses]) / 7.0
    assert lengths.min() >= 0.05
    assert lengths.max() <= 0.2
    assert np.median(lengths) == pytest.approx(0.1, rel=0.1)  # log-uniform
    angles = np.array([cv2.Rodrigues(p[:3, :3])[0].ravel() for p in poses])
    assert angles.std(axis=0) == pytest.approx([0.1] * 3, rel=0.15)
    assert abs(np.mean([p[:3, 3] / np.linalg.norm(p[:3, 3]) for p in poses], axis=0)).max() < 0.1
    for wrong in ({"translation": (0.3, 0.1)}, {"rotation": -1}, {"wavelength": (0, 1)}, {"deformation_share": 2}):
        with pytest.raises(ConfigError, match="motion"):
            MotionConfig(**wrong)
