"""What finds flow in images for the photometric refinement: the engines, and how one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Literal

from torch import Tensor

from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.refiners.field import Field

Engine = Callable[[FrameFeatures, FrameFeatures, Field, int], tuple[Tensor, Tensor, Tensor]]
"""Finds what a field leaves over: ``engine(features0, features1, field, level)``.

The current frame's working copy is warped by the field towards the reference's; ``level`` is the finest one at which
flow is found, in halvings. It gives the flow ``(2, h, w)`` float32 from the reference's copy to the warped one, in its
pixels, the flow back, and ``(h, w)`` bool, where the current frame has pixels at all; all on the field's device.
"""


def make_engine(name: Literal["opencv", "torch"]) -> Engine:
    """A new engine, which may keep buffers for the sizes of images that it meets; its module is loaded now."""
    engine: Engine = import_module(f"endomatch_ros.matching.refiners.{name}_engine").make()
    return engine
