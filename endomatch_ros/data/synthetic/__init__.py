"""A procedural endoscope with exact depth, pose, intrinsics and correspondences."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from endomatch_ros.data.synthetic.config import SceneConfig
    from endomatch_ros.data.synthetic.scene import SyntheticEndoscope
    from endomatch_ros.data.synthetic.sequence import SyntheticSequence

__all__ = ["SceneConfig", "SyntheticEndoscope", "SyntheticSequence"]

_HOMES = {"SceneConfig": "config", "SyntheticEndoscope": "scene", "SyntheticSequence": "sequence"}


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import: the demo starts its processes before it needs more than a SceneConfig.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
