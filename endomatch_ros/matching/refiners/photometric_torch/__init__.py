"""What the photometric refinement computes on images, in plain PyTorch for any device: a second engine beside OpenCV.

All shapes follow from the arguments' shapes, nothing is read back by the host, and constants are made on first use:
after one call on the same sizes and device the functions can be captured in a CUDA graph, :func:`holding` them. Images
are float32 grey levels from 0 to 255, positions ``(x, y)`` in pixels, pixel centres at whole numbers. Not under
autocast: half precision would round grey levels.
"""

from endomatch_ros.matching.refiners.constants import holding
from endomatch_ros.matching.refiners.photometric_torch.corners import cell_maxima, min_eigenvalue
from endomatch_ros.matching.refiners.photometric_torch.flow import flow_both_ways
from endomatch_ros.matching.refiners.photometric_torch.normalisation import normalise
from endomatch_ros.matching.refiners.photometric_torch.resampling import grey_copy, sample, warp

__all__ = ["cell_maxima", "flow_both_ways", "grey_copy", "holding", "min_eigenvalue", "normalise", "sample", "warp"]
