"""Errors that a user can mend: every message names the value that was wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping


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


def check_ranges(
    values: object, ranges: Mapping[str, tuple[float, float]], whole: Collection[str] = (), what: str = ""
) -> None:
    """Raise :class:`ConfigError` for the first attribute that is no number in its range.

    Args:
        values: a configuration.
        ranges: least and largest value by attribute.
        whole: attributes that must be integers.
        what: put before the attribute's name in the message.
    """
    for name, (low, high) in ranges.items():
        check_range(f"{what}{name}", getattr(values, name), low, high, name in whole)


def check_range(name: str, value: object, low: float, high: float, whole: bool = False) -> None:
    """Raise :class:`ConfigError` with the value's name if it is no number in [low, high], or not ``whole``."""
    # bool is an int to Python, but True is no length.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name}={value!r} is outside its range [{low:g}, {high:g}]")
    if whole and not isinstance(value, int):
        raise ConfigError(f"{name}={value!r} must be a whole number")
