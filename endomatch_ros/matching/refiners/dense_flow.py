"""Dense optical flow of what the coarse matches leave over: inverse search (Kroeger et al., ECCV 2016) by OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def dense_flow(image0: NDArray[np.uint8], image1: NDArray[np.uint8], level: int) -> NDArray[np.float32]:
    """Flow ``(H, W, 2)`` float32 in pixels from grey image 0 to grey image 1, both ``(H, W)`` uint8, contiguous.

    The same input gives the same bits, whatever the number of threads.

    Args:
        image0: the reference.
        image1: of the same size.
        level: finest level used, in halvings of the image; the images' size bounds it.
    """
    # Made anew: the object keeps buffers and may not be shared by threads.
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    search.setFinestScale(level)
    return np.asarray(search.calc(image0, image1, None), np.float32)  # type: ignore[call-overload]
