"""A scene that renders frames with exact depth, pose, intrinsics and correspondences."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from endomatch_ros.data.frames import Frame, StereoPartner
from endomatch_ros.data.synthetic.appearance import Appearance
from endomatch_ros.data.synthetic.config import SceneConfig
from endomatch_ros.data.synthetic.surface import Surface
from endomatch_ros.data.synthetic.trajectory import Trajectory
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.geometry.camera import Camera

_COARSE = 4  # rays are first marched on a grid this much coarser


class _PartnerAppearance(Appearance):
    """The same tissue and light, seen from the second camera: a stereo scope has one light, beside the first one."""

    def __init__(self, config: SceneConfig) -> None:
        super().__init__(config)
        self._light = self._light - [config.stereo_baseline / config.radius, 0.0, 0.0]


class SyntheticEndoscope:
    """Procedural endoscopy: ``scene.render(t)`` gives a frame, ``scene.correspondence(…)`` the exact truth.

    Convention: pixel centres at integer coordinates; poses are ``camera_from_world`` in metres; depth is along the
    optical axis in metres, ``inf`` where no surface is hit.

    Args:
        config: what to build; the same configuration always renders the same frames.
        device: torch device for the rendering.
    """

    def __init__(self, config: SceneConfig | None = None, device: str = "cpu") -> None:
        self.config = config or SceneConfig()
        self._device = torch.device(device)
        self._surface = Surface(self.config)
        self._appearance = Appearance(self.config)
        self._partner_appearance = _PartnerAppearance(self.config) if self.config.stereo_baseline else self._appearance
        self._trajectory = Trajectory(self.config, self._surface)
        c = self.config
        radius_px = c.view_radius * min(c.width, c.height)
        focal = radius_px / np.tan(np.radians(c.field_of_view) / 2)
        rng = np.random.default_rng([c.seed, 41])
        # A real principal point is off centre by some pixels, and the view circle by some others.
        centre = np.array([c.width - 1, c.height - 1]) / 2 + rng.normal(0, 0.006 * min(c.width, c.height), 2)
        self._circle = (centre + rng.normal(0, 0.004 * min(c.width, c.height), 2), radius_px * 0.985)
        matrix = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
        self.camera = Camera(matrix, np.zeros(5), "plumb_bob", (c.width, c.height))

    def pose(self, time: float) -> NDArray[np.float64]:
        """``camera_from_world`` ``(4, 4)`` at ``time`` seconds, metres."""
        pose = self._trajectory.pose(time)
        pose[:3, 3] *= self.config.radius
        return pose

    def render(self, time: float, index: int = 0) -> Frame:
        """The frame at ``time`` seconds, with mask, camera, pose and depth, and the partner of a stereo scope.

        Raises:
            ConfigError: the second camera would be inside the tissue at this time.
        """
        c = self.config
        view, vignette = self._view
        pose = torch.from_numpy(self._trajectory.pose(time)).to(self._device, torch.float32)
        radiance, depth = self._trace(pose, time, self._appearance)
        noise = [c.seed, round(time * 1e6) & 0xFFFFFFFF]
        shown = self._appearance.expose(radiance, view)
        partner = self._partner(radiance, pose, time, [*noise, 1]) if c.stereo_baseline else None
        return Frame(
            image=self._appearance.sense(shown, vignette, np.random.default_rng(noise)),
            stamp=time,
            index=index,
            mask=view.cpu().numpy().copy(),
            camera=self.camera,
            pose=self.pose(time),
            depth=(depth * c.radius).cpu().numpy().astype(np.float32),
            partner=partner,
        )

    @cached_property
    def _view(self) -> tuple[Tensor, Tensor]:
        """The pixels inside the view circle ``(H, W)`` bool and the vignette ``(H, W)``, of all frames."""
        c = self.config
        ys, xs = torch.meshgrid(torch.arange(c.height), torch.arange(c.width), indexing="ij")
        distance = self._distance_to_edge(xs, ys)
        return (distance > 0).to(self._device), self._vignette(xs, ys, distance).to(self._device)

    @cached_property
    def _pixels(self) -> tuple[Tensor, Tensor]:
        """Where the pixels in view are in a flattened image ``(N,)``, and their directions ``(N, 3)``."""
        ys, xs = torch.nonzero(self._view[0], as_tuple=True)
        return ys * self.config.width + xs, self._local(torch.stack([xs, ys], 1).to(torch.float32))

    @cached_property
    def _coarse(self) -> tuple[tuple[int, ...], Tensor, Tensor]:
        """Shape of the coarse grid of rays; index ``(N,)`` and directions ``(N, 3)`` of those near the view circle."""
        c = self.config
        xs = torch.arange(0, c.width + _COARSE, _COARSE, dtype=torch.float32)
        ys = torch.arange(0, c.height + _COARSE, _COARSE, dtype=torch.float32)
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
        pixels = torch.stack([grid_x.flatten(), grid_y.flatten()], 1).to(self._device)
        near = ((grid_x - self._circle[0][0]) ** 2 + (grid_y - self._circle[0][1]) ** 2).sqrt().flatten()
        index = torch.nonzero(near < self._circle[1] + 2 * _COARSE)[:, 0].to(self._device)
        return tuple(grid_x.shape), index, self._local(pixels[index])

    def _trace(self, pose: Tensor, time: float, appearance: Appearance) -> tuple[Tensor, Tensor]:
        """Linear radiance ``(H, W, 3)`` and depth ``(H, W)`` in lumen radii, 0 and ``inf`` where nothing is hit."""
        c, (pixels, local) = self.config, self._pixels
        origin, rays = _rays(local, pose)
        depth = self._surface.intersect(origin, rays, time, self._start(pose, time))
        hit = torch.nonzero(torch.isfinite(depth))[:, 0]
        seen = self._radiance(origin, rays.index_select(0, hit), depth.index_select(0, hit), pose, time, appearance)
        radiance = torch.zeros((c.height * c.width, 3), device=self._device)
        radiance.index_copy_(0, pixels.index_select(0, hit), seen)
        full = torch.full((c.height * c.width,), torch.inf, device=self._device)
        full[pixels] = depth
        return radiance.reshape(c.height, c.width, 3), full.reshape(c.height, c.width)

    def _partner(self, left: Tensor, left_pose: Tensor, time: float, noise: list[int]) -> StereoPartner:
        """What a second, equal and parallel camera sees beside the one that sees radiance ``left`` ``(H, W, 3)``."""
        c, (view, vignette) = self.config, self._view
        pose = left_pose.clone()
        pose[0, 3] -= c.stereo_baseline / c.radius
        centre = (-pose[:3, :3].T @ pose[:3, 3])[None]
        if self._surface.value(self._surface.material(centre, time)) > -0.02:
            raise ConfigError(
                f"stereo_baseline={c.stereo_baseline} puts the second camera of scene {c.seed} into the tissue at "
                f"{time} s: use a smaller one, or another time"
            )
        radiance, _ = self._trace(pose, time, self._partner_appearance)
        # One exposure for both, as in a stereo scope: measured in the left view alone.
        both = self._appearance.expose(torch.cat([left, radiance], 1), torch.cat([view, torch.zeros_like(view)], 1))
        image = self._appearance.sense(both[:, c.width :], vignette, np.random.default_rng(noise))
        partner_from_frame = np.eye(4)
        partner_from_frame[0, 3] = -c.stereo_baseline
        return StereoPartner(image, self.camera, partner_from_frame)

    def correspondence(
        self, time_a: float, time_b: float, points: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Where the tissue at ``points`` in the frame at ``time_a`` is in the frame at ``time_b``.

        Traced in float64 from each sub-pixel point itself, not interpolated from a depth map.

        Args:
            time_a: seconds of the frame in which the points lie.
            time_b: seconds of the other frame.
            points: ``(N, 2)`` pixels.

        Returns:
            ``(N, 2)`` pixels in the other frame (NaN where ``points`` see no surface), and ``(N,)`` bool: the point is
            inside both views and not occluded in the other one.
        """
        pixels = torch.as_tensor(np.asarray(points, dtype=np.float64).reshape(-1, 2))
        pose_a = torch.from_numpy(self._trajectory.pose(time_a))
        pose_b = torch.from_numpy(self._trajectory.pose(time_b))
        origin, rays = _rays(self._local(pixels), pose_a)
        depth = self._surface.intersect(origin, rays, time_a)
        seen = torch.isfinite(depth) & (self._distance_to_edge(*pixels.unbind(1)) > 0)
        world = origin + torch.where(seen, depth, 1.0)[:, None] * rays
        target, z = self._move(world, time_a, time_b, pose_b)
        in_front = seen & (z > 1e-6)
        in_view = in_front & (self._distance_to_edge(*target.unbind(1)) > 0)
        origin_b, rays_b = _rays(self._local(target), pose_b)
        depth_b = torch.full_like(depth, torch.inf)
        depth_b[in_view] = self._surface.intersect(origin_b, rays_b[in_view], time_b)
        # The ray through the target meets the very same point unless something stands before it.
        visible = in_view & ((depth_b - z).abs() < 2e-4 * z)
        target[~in_front] = torch.nan
        return target.numpy(), visible.numpy()

    def dense_correspondence(
        self, frame_a: Frame, frame_b: Frame, stride: int = 4
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """As :meth:`correspondence` for every ``stride``-th pixel of a rendered frame, from the rendered depths.

        Much faster, since nothing is traced again. The points are pixel centres, so their depth needs no
        interpolation; only the visibility test reads between pixels (nearest one, 2 % tolerance).

        Returns:
            ``points`` ``(N, 2)`` and ``targets`` ``(N, 2)`` in pixels, ``visible`` ``(N,)`` bool.
        """
        c = self.config
        grid = np.mgrid[stride // 2 : c.height : stride, stride // 2 : c.width : stride]
        points = torch.from_numpy(grid[::-1].reshape(2, -1).T.astype(np.float64))
        depth_a, depth_b = (torch.from_numpy(_depth(f)).double() / c.radius for f in (frame_a, frame_b))
        depth = depth_a[points[:, 1].long(), points[:, 0].long()]
        seen = torch.isfinite(depth)
        pose_a, pose_b = (torch.from_numpy(self._trajectory.pose(f.stamp)) for f in (frame_a, frame_b))
        origin, rays = _rays(self._local(points), pose_a)
        world = origin + torch.where(seen, depth, 1.0)[:, None] * rays
        target, z = self._move(world, frame_a.stamp, frame_b.stamp, pose_b)
        visible = seen & (z > 1e-6) & (self._distance_to_edge(*target.unbind(1)) > 0)
        x = target[:, 0].round().long().clamp(0, c.width - 1)
        y = target[:, 1].round().long().clamp(0, c.height - 1)
        visible &= (depth_b[y, x] - z).abs() < 0.02 * z
        return points.numpy(), target.numpy(), visible.numpy()

    def _move(self, world: Tensor, time_a: float, time_b: float, pose_b: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels ``(N, 2)`` and depth ``(N,)`` at ``time_b`` of tissue at ``world`` ``(N, 3)`` at ``time_a``."""
        material = self._surface.material(world, time_a)
        local = (material + self._surface.displacement(material, time_b)) @ pose_b[:3, :3].T + pose_b[:3, 3]
        matrix = torch.tensor(self.camera.matrix)
        return (local / local[:, 2:].clamp_min(1e-6)) @ matrix[:2].T, local[:, 2]

    def _local(self, pixels: Tensor) -> Tensor:
        """Directions ``(N, 3)`` of unit depth in the camera's frame, through ``pixels`` ``(N, 2)``."""
        fx, cx, cy = self.camera.matrix[0, 0], self.camera.matrix[0, 2], self.camera.matrix[1, 2]
        return torch.stack([(pixels[:, 0] - cx) / fx, (pixels[:, 1] - cy) / fx, torch.ones_like(pixels[:, 0])], 1)

    def _start(self, pose: Tensor, time: float) -> Tensor:
        """Depths safely before the surface for each pixel in view, from a coarser grid of rays."""
        c, (shape, index, local) = self.config, self._coarse
        origin, rays = _rays(local, pose)
        depth = torch.full(shape, torch.inf, device=self._device).flatten()
        depth[index] = self._surface.intersect(origin, rays, time)
        # The nearest of the surrounding coarse rays, less a margin: an occluding edge may lie between them.
        coarse = depth.clamp_max(20.0).reshape(1, 1, *shape)
        nearest = -functional.max_pool2d(-coarse, 3, 1, 1)
        fine = functional.interpolate(nearest, scale_factor=_COARSE, mode="nearest")[0, 0, : c.height, : c.width]
        return fine[self._view[0]] * 0.94

    def _radiance(
        self, origin: Tensor, rays: Tensor, depth: Tensor, pose: Tensor, time: float, appearance: Appearance
    ) -> Tensor:
        world = origin + depth[:, None] * rays
        material = self._surface.material(world, time)
        gradient = self._surface.gradient(material)
        # Waves are long against the relief: the undeformed normal serves for shading.
        normals = functional.normalize(-gradient, dim=1) @ pose[:3, :3].T
        points = world @ pose[:3, :3].T + pose[:3, 3]
        return appearance.shade(material, points, normals)

    def _distance_to_edge(self, xs: Tensor, ys: Tensor) -> Tensor:
        """Pixels from the view circle's and the image's edge, positive inside."""
        c = self.config
        (cx, cy), radius = self._circle
        circle = radius - torch.sqrt((xs - cx) ** 2 + (ys - cy) ** 2)
        border = torch.stack([xs + 0.5, c.width - 0.5 - xs, ys + 0.5, c.height - 0.5 - ys]).amin(0)
        return torch.minimum(circle, border)

    def _vignette(self, xs: Tensor, ys: Tensor, distance: Tensor) -> Tensor:
        (cx, cy), radius = self._circle
        r2 = ((xs - cx) ** 2 + (ys - cy) ** 2) / radius**2
        circle = radius - radius * torch.sqrt(r2)
        return (1.0 - 0.35 * r2).clamp_min(0.0) * (circle / 2.5).clamp(0, 1) * (distance > 0)


def _rays(local: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Camera centre ``(3,)`` in lumen radii and, of ``local`` directions ``(N, 3)``, those in the world."""
    rotation = pose[:3, :3]
    return -rotation.T @ pose[:3, 3], local @ rotation


def _depth(frame: Frame) -> NDArray[np.float32]:
    if frame.depth is None:
        raise DataError(f"frame {frame.index} carries no depth: pass a frame that this scene rendered")
    return frame.depth
