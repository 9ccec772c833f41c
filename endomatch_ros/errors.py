"""Errors that a user can mend: every message names the value that was wrong and what to do about it."""


class EndomatchError(Exception):
    """Base of all errors that this package raises on purpose."""


class ImageError(EndomatchError, ValueError):
    """An image, mask or image message that cannot be used."""


class CalibrationError(EndomatchError, ValueError):
    """Camera parameters that contradict themselves or the images."""


class ConfigError(EndomatchError, ValueError):
    """A parameter outside its range, an unknown preset, an impossible combination."""


class CheckpointError(EndomatchError, RuntimeError):
    """Weights that are missing, damaged or made for another architecture."""


class DataError(EndomatchError, RuntimeError):
    """A recording or data set that is missing, empty or damaged."""
