"""``python -m endomatch_ros.ros.replay``: measure through the real node, :mod:`endomatch_ros.ros.demo.replay`."""

import sys

from endomatch_ros.ros.demo.replay import main

if __name__ == "__main__":
    sys.exit(main())
