"""endomatch_ros: a DINOv2 feature matcher for live endoscopes, as a library and a ROS 2 node."""

__version__ = "0.1.0"
