"""A procedural endoscope with exact depth, pose, intrinsics and correspondences."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from endomatch_ros.data.synthetic.config import SceneConfig, parse_size
    from endomatch_ros.data.synthetic.rendering import render_all, start_rendering
    from endomatch_ros.data.synthetic.scene import SyntheticEndoscope
    from endomatch_ros.data.synthetic.sequence import SyntheticSequence

__all__ = ["SceneConfig", "SyntheticEndoscope", "SyntheticSequence", "parse_size", "render_all", "start_rendering"]

_HOMES = {
    "SceneConfig": "config",
    "parse_size": "config",
    "SyntheticEndoscope": "scene",
    "SyntheticSequence": "sequence",
    "render_all": "rendering",
    "start_rendering": "rendering",
}


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import: the demo starts its processes before it needs more than a SceneConfig.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
