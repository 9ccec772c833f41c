"""``python -m endomatch_ros.ros.publisher``: the camera made of frames of :mod:`endomatch_ros.ros.demo.publisher`."""

import sys

from endomatch_ros.ros.demo.publisher import main

if __name__ == "__main__":
    sys.exit(main())
