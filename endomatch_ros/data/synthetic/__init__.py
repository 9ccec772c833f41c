"""A procedural endoscope with exact depth, pose, intrinsics and correspondences."""

from endomatch_ros.data.synthetic.config import SceneConfig, parse_size
from endomatch_ros.data.synthetic.rendering import render_all
from endomatch_ros.data.synthetic.scene import SyntheticEndoscope
from endomatch_ros.data.synthetic.sequence import SyntheticSequence

__all__ = ["SceneConfig", "SyntheticEndoscope", "SyntheticSequence", "parse_size", "render_all"]
