"""What the node tells about itself: counts, times, ``/diagnostics``."""
