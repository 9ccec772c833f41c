"""The ROS 2 node. A frame goes node → session → channel → pipeline → outputs, through the worker in between."""
