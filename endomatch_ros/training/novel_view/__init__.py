"""Novel-view synthesis (arXiv 2512.10379, section III): a frame and its depth, seen by another camera."""
