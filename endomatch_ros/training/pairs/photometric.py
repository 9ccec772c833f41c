"""Changes of appearance that endoscopes make: none of them moves the tissue, some of them hide it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import ConfigError

Float = NDArray[np.float32]

_SHINE = 1000.0  # levels that a highlight adds: far above white, as on wet tissue, so that no exposure brings it back
_SATURATED = (225.0, 240.0)  # least channel between which a picture's own highlights begin


@dataclass(frozen=True)
class PhotometricConfig:
    """Strengths of :func:`jitter`; every image is drawn on its own. A strength or probability of 0 is off.

    Attributes:
        gamma: range of the tone curve's exponent, 0.2 to 5.
        log_gain: deviation of the log of the exposure, 0 to 2.
        white_balance: deviation of the log of each channel's gain, 0 to 1.
        blur: largest deviation of the Gaussian blur, pixels, 0 to 20.
        noise: largest deviation of the added noise, 8-bit levels, 0 to 100.
        motion_blur: largest length of the motion blur, pixels, 0 to 100.
        motion_blur_probability: share of the images that are blurred by motion.
        compression: range of the JPEG quality, 5 to 100.
        compression_probability: share of the images that are compressed.
        specular: expected number of highlights in the images that get any, 0 to 100.
        specular_size: range of a highlight's length, share of the image's long side, 0.002 to 0.5.
        specular_probability: share of the images that get highlights.
        smoke_probability: share of the images that are veiled.
        smoke_opacity: largest share of the light that smoke takes away where it is thickest, 0 to 0.95.
        vignette: largest share of the light that is missing in the corners, 0 to 0.95.
    """

    gamma: tuple[float, float] = (0.7, 1.45)
    log_gain: float = 0.28
    white_balance: float = 0.06
    blur: float = 1.2
    noise: float = 5.0
    motion_blur: float = 6.0
    motion_blur_probability: float = 0.25
    compression: tuple[int, int] = (35, 95)
    compression_probability: float = 0.5
    specular: float = 4.0
    specular_size: tuple[float, float] = (0.01, 0.06)
    specular_probability: float = 0.4
    smoke_probability: float = 0.15
    smoke_opacity: float = 0.6
    vignette: float = 0.35

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "gamma": (0.2, 5.0),
            "log_gain": (0.0, 2.0),
            "white_balance": (0.0, 1.0),
            "blur": (0.0, 20.0),
            "noise": (0.0, 100.0),
            "motion_blur": (0.0, 100.0),
            "motion_blur_probability": (0.0, 1.0),
            "compression": (5, 100),
            "compression_probability": (0.0, 1.0),
            "specular": (0.0, 100.0),
            "specular_size": (0.002, 0.5),
            "specular_probability": (0.0, 1.0),
            "smoke_probability": (0.0, 1.0),
            "smoke_opacity": (0.0, 0.95),
            "vignette": (0.0, 0.95),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            pair = name in ("gamma", "compression", "specular_size")
            parts = value if pair else (value,)
            if not isinstance(parts, tuple | list) or len(parts) != (2 if pair else 1):
                raise ConfigError(f"augmentation: {name}={value!r} must be two numbers, the lowest and the highest")
            for part in parts:
                if isinstance(part, bool) or not isinstance(part, int | float) or not low <= part <= high:
                    raise ConfigError(f"augmentation: {name}={value!r} is outside its range [{low:g}, {high:g}]")
            if parts[0] > parts[-1]:
                raise ConfigError(f"augmentation: {name}={value!r} has its lowest value last; swap them")

    @classmethod
    def off(cls) -> PhotometricConfig:
        """The configuration that leaves every image as it is."""
        return cls(
            gamma=(1.0, 1.0),
            log_gain=0.0,
            white_balance=0.0,
            blur=0.0,
            noise=0.0,
            motion_blur=0.0,
            compression_probability=0.0,
            specular=0.0,
            smoke_probability=0.0,
            vignette=0.0,
        )


def jitter(
    image: NDArray[np.uint8],
    config: PhotometricConfig,
    rng: np.random.Generator,
    view: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Another appearance of the same picture, its parts in the order in which light and camera make them.

    Args:
        image: RGB uint8 ``(H, W, 3)``; left as it is.
        config: how much of what.
        rng: fixes the draw.
        view: ``(H, W)`` bool, the scope's view: its dark surround gets neither smoke nor highlights. All, if not given.

    Returns:
        RGB uint8 ``(H, W, 3)``, and ``(H, W)`` bool: a highlight saturates all channels here, so that the tissue, which
        ``image`` shows, cannot be seen any more.
    """
    inside = np.ones(image.shape[:2], bool) if view is None else view
    levels = image.astype(np.float32)
    if config.vignette > 0:
        levels *= _vignette(inside.shape, config.vignette, rng)[..., None]
    if config.smoke_opacity > 0 and rng.random() < config.smoke_probability:
        levels = _smoke(levels, inside, config.smoke_opacity, rng)
    shone = config.specular > 0 and rng.random() < config.specular_probability
    if shone:
        shine = _SHINE * _highlights(image, inside, config, rng)
        # As a fourth channel it goes through the lens with the picture, and tells later what it has hidden.
        levels = np.dstack([levels + shine[..., None], shine])
    levels = _blur(levels, config, rng)
    hidden = levels[..., 3] > 1 if shone else np.zeros(inside.shape, bool)
    seen = np.ascontiguousarray(levels[..., :3])
    exposed = _expose(seen, config, rng)
    # What the sensor had saturated would still be at this exposure, so it does not become grey or tinted.
    levels = exposed + _saturated(image)[..., None] * np.maximum(seen - exposed, 0)
    spoiled = hidden & (levels >= 254.5).all(axis=2) if shone else hidden
    return _recorded(levels, config, rng), spoiled


def _recorded(levels: Float, config: PhotometricConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What sensor and recorder make of light ``(H, W, 3)``, 255 being white: noise, whole numbers, compression."""
    if config.noise > 0:
        # Not clipped before: what is far above white stays white.
        levels = levels + rng.standard_normal(levels.shape, dtype=np.float32) * np.float32(rng.uniform(0, config.noise))
    out = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    if rng.random() < config.compression_probability:
        out = _compress(out, int(rng.integers(config.compression[0], config.compression[1] + 1)))
    return out


def _vignette(shape: tuple[int, ...], strength: float, rng: np.random.Generator) -> Float:
    """Share of the light ``(H, W)`` that is left: 1 somewhere near the middle, less towards the corners."""
    return np.asarray(1.0 - rng.uniform(0, strength) * np.minimum(_distance2(shape, 0.1, rng), 1.0), np.float32)


def _distance2(shape: tuple[int, ...], spread: float, rng: np.random.Generator) -> Float:
    """Squared distance ``(H, W)`` from a point ``spread`` image sizes around the middle; about 1 in the corners."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) - np.float32(rng.normal(0, 2 * spread)) for n in shape[:2])
    return np.asarray((y[:, None] ** 2 + x[None] ** 2) / 2, np.float32)


def _smoke(levels: Float, inside: NDArray[np.bool_], opacity: float, rng: np.random.Generator) -> Float:
    """A veil that takes light away and adds its own, more of it near the lamp; thick here, thin there."""
    height, width = inside.shape
    cloud = cv2.resize(rng.random((4, 5), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    thickness = opacity * rng.uniform(0.2, 1.0) * (0.4 + 0.6 * cloud.clip(0, 1)) * inside
    lit = rng.uniform(130, 210) * (0.5 + 0.5 * np.exp(-1.5 * _distance2(inside.shape, 0.15, rng)))
    return np.asarray(levels + (thickness * (lit - levels.transpose(2, 0, 1))).transpose(1, 2, 0), np.float32)


def _highlights(
    image: NDArray[np.uint8], inside: NDArray[np.bool_], config: PhotometricConfig, rng: np.random.Generator
) -> Float:
    """Share of the lamp that is mirrored ``(H, W)``: clusters of spots where tissue is bright, and a faint glow."""
    height, width = inside.shape
    spots = np.zeros((height, width), np.uint8)
    smallest, largest = np.log(config.specular_size)
    for _ in range(rng.poisson(config.specular)):
        # Tissue that mirrors the lamp faces it, and so is bright.
        places = rng.integers(0, (width, height), (4, 2))
        place = places[image[places[:, 1], places[:, 0]].sum(axis=1).argmax()].astype(np.float64)
        length = max(width, height) * np.exp(rng.uniform(smallest, largest))
        for part in range(1 + rng.poisson(1.5)):
            size = length / 2 * (1.0 if part == 0 else rng.uniform(0.2, 0.6))
            centre = place + (rng.normal(0, 0.5 * length, 2) if part else 0.0)
            axes = size * np.array([1.0, rng.uniform(0.2, 0.8)])
            # Fixed point with 4 bits, since the spots are small.
            cv2.ellipse(
                spots,
                np.rint(16 * centre).astype(int).tolist(),
                np.maximum(np.rint(16 * axes), 8).astype(int).tolist(),
                rng.uniform(0, 180),
                0,
                360,
                rng.uniform(90, 255),
                cv2.FILLED,
                cv2.LINE_AA,
                4,
            )
    # Squared: a rim that fades within a pixel or two, and weak spots through which tissue still shows.
    mirrored = (cv2.GaussianBlur(spots, (0, 0), 0.8).astype(np.float32) / 255) ** 2
    glow = cv2.GaussianBlur(mirrored, (0, 0), max(width, height) / 80)
    return np.asarray((mirrored + 0.1 * glow) * inside, np.float32)


def _blur(levels: Float, config: PhotometricConfig, rng: np.random.Generator) -> Float:
    """Defocus and motion."""
    sigma = rng.uniform(0, config.blur)
    if sigma > 0.3:
        levels = np.asarray(cv2.GaussianBlur(levels, (0, 0), sigma), np.float32)
    if config.motion_blur > 0 and rng.random() < config.motion_blur_probability:
        kernel = _streak(rng.uniform(0, config.motion_blur), rng.uniform(0, np.pi))
        levels = np.asarray(cv2.filter2D(levels, -1, kernel), np.float32)
    return levels


def _streak(length: float, angle: float) -> Float:
    """Kernel ``(K, K)`` of a uniform motion, symmetric about its middle so that nothing is moved; sum 1."""
    half = int(np.ceil(length / 2)) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    along = np.abs(x * np.cos(angle) + y * np.sin(angle))
    across = np.abs(y * np.cos(angle) - x * np.sin(angle))
    kernel = (length / 2 + 0.5 - along).clip(0, 1) * (1 - across).clip(0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _expose(levels: Float, config: PhotometricConfig, rng: np.random.Generator) -> Float:
    """Tone curve, then exposure and white balance."""
    gains = np.exp(rng.normal(0, config.log_gain) + rng.normal(0, config.white_balance, 3))
    gamma = rng.uniform(*config.gamma)
    if gamma != 1:
        levels = np.asarray(cv2.pow(levels / 255, gamma) * 255, np.float32)
    return np.asarray(levels * gains.astype(np.float32), np.float32)


def _saturated(image: NDArray[np.uint8]) -> Float:
    """How much of a highlight each pixel of the picture already is ``(H, W)``, 0 to 1."""
    least = np.minimum(np.minimum(image[..., 0], image[..., 1]), image[..., 2]).astype(np.float32)
    low, high = _SATURATED
    return np.asarray(((least - low) / (high - low)).clip(0, 1), np.float32)


def _compress(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """JPEG and back."""
    coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
