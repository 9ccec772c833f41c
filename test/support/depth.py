"""Frames of known depth, for the tests of what estimates it."""

from functools import cache

import cv2
import numpy as np

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.geometry.camera import Camera

WIDTH, HEIGHT = 320, 256
GREY = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
EVERYWHERE = np.ones((HEIGHT, WIDTH), bool)
BASELINE = 0.0025  # of the scenes, metres


def pinhole(focal=240.0, centre=(159.5, 127.5), size=(WIDTH, HEIGHT), distortion=(), model="plumb_bob"):
    matrix = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1.0]])
    return Camera(matrix, np.array(distortion), model, size)


def rays_of(camera):
    xs, ys = np.meshgrid(np.arange(camera.size[0]), np.arange(camera.size[1]))
    return camera.rays(np.column_stack([xs.ravel(), ys.ravel()])).reshape(*ys.shape, 3)


def translation(x=0.0, y=0.0, z=0.0, turn=(0.0, 0.0, 0.0)):
    """``partner_from_frame`` of a partner at (x, y, z), sign reversed, turned by a rotation vector."""
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array(turn))[0]
    pose[:3, 3] = x, y, z
    return pose


@cache
def scene_frame(kind) -> Frame:
    """A stereo frame of a small synthetic scene."""
    seed = 10002 if kind == "tunnel" else 10001
    config = SceneConfig(seed=seed, kind=kind, width=160, height=128, stereo_baseline=BASELINE)
    return SyntheticEndoscope(config).render(0.0)
