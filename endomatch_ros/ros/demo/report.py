"""What came out of the demo, read back from its bag: figures against the known motion, pictures, a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from endomatch_ros.drawing import draw_flow
from endomatch_ros.evaluation.pair import write_image
from endomatch_ros.geometry.epipolar import epipolar_distance, fundamental_from_pose
from endomatch_ros.matching.types import Matches
from endomatch_ros.ros.demo.recorder import read_bag
from endomatch_ros.ros.messages.clouds import NANOSECONDS, stamp_to_ns, unpack_cloud
from endomatch_ros.ros.messages.images import RGB, to_rgb

if TYPE_CHECKING:
    from endomatch_ros.data.synthetic import SyntheticEndoscope

CLOUDS = "/endomatch/correspondences"
IMAGES = "/endoscope/image_raw"
PCK_PX = 5.0
TRACED = 1000
"""Matches per pair, evenly chosen, of which the true partner is sought: one is a ray through the scene and back."""
STILLS, ANIMATED = 6, 60


@dataclass(frozen=True)
class Pair:
    """One answer of the node beside the truth.

    Attributes:
        stamp: of the current image, ns.
        points: structured array ``(N,)`` as published.
        latency_ms: from the image's stamp to the arrival of its correspondences.
        error, identity_error: ``(N,)`` epipolar distance in px to the known motion, of the matches and of "no motion";
            NaN where the camera has not moved.
        distance, identity_distance: ``(M,)`` px from the true partner, of at most :data:`TRACED` of the matches;
            infinite where that is hidden or out of view.
    """

    stamp: int
    points: NDArray[np.void]
    latency_ms: float
    error: NDArray[np.float64]
    identity_error: NDArray[np.float64]
    distance: NDArray[np.float64]
    identity_distance: NDArray[np.float64]


def read_pairs(bag: Path, scene: SyntheticEndoscope, times: Mapping[int, float]) -> list[Pair]:
    """Every answer in the bag, measured against the scene.

    Args:
        bag: folder of the bag.
        scene: what was filmed.
        times: scene time in seconds by image stamp in ns.
    """
    pairs = []
    for _, arrival, message in read_bag(bag, CLOUDS):
        points, stamp = unpack_cloud(message), stamp_to_ns(message.header.stamp)
        if len(points) == 0:
            continue
        # dt is a float of seconds: the nearest stamp is the reference's.
        reference = min(times, key=lambda s: abs(stamp - round(points["dt"][0] * NANOSECONDS) - s))
        time0, time1 = times[reference], times[stamp]
        start = np.stack([points["u_ref"], points["v_ref"]], axis=1).astype(np.float64)
        end = np.stack([points["u"], points["v"]], axis=1).astype(np.float64)
        traced = np.linspace(0, len(points) - 1, min(TRACED, len(points))).round().astype(int)
        target, visible = scene.correspondence(time0, time1, start[traced])
        pairs.append(
            Pair(
                stamp=stamp,
                points=points,
                latency_ms=(arrival - stamp) / 1e6,
                error=_known_error(scene, time0, time1, start, end),
                identity_error=_known_error(scene, time0, time1, start, start),
                distance=np.where(visible, np.linalg.norm(end[traced] - target, axis=1), np.inf),
                identity_distance=np.where(visible, np.linalg.norm(start[traced] - target, axis=1), np.inf),
            )
        )
    return pairs


def _known_error(
    scene: SyntheticEndoscope, time0: float, time1: float, start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Epipolar distance ``(N,)`` to the scene's own motion; NaN where that is none, on the way back past ``time0``."""
    if time0 == time1:
        return np.full(len(start), np.nan)
    motion = scene.pose(time1) @ np.linalg.inv(scene.pose(time0))
    fundamental = fundamental_from_pose(scene.camera.matrix, scene.camera.matrix, motion)
    return epipolar_distance(fundamental, start, end)


def summarise(
    pairs: Sequence[Pair], stamps: Sequence[int], received: int, diagnostics: Mapping[str, str]
) -> dict[str, Any]:
    """The figures of a run, ready for JSON.

    Args:
        pairs: what the node answered; at least one.
        stamps: of the images that were sent, ns.
        received: images that the recorder got.
        diagnostics: the node's last figures on its processing.
    """
    counts = np.array([len(pair.points) for pair in pairs])
    latency = np.array([pair.latency_ms for pair in pairs])
    spans = np.ptp(stamps) / NANOSECONDS, (pairs[-1].stamp - pairs[0].stamp) / NANOSECONDS
    dropped = {
        k.removeprefix("dropped_"): int(v) for k, v in diagnostics.items() if k.startswith("dropped_") and int(v)
    }
    return {
        "frames_sent": len(stamps),
        "frames_recorded": received,
        "pairs_answered": len(pairs),
        "camera_hz": (len(stamps) - 1) / spans[0] if spans[0] else None,
        "answers_hz": (len(pairs) - 1) / spans[1] if spans[1] else None,
        "dropped": dropped,
        "matches": {"median": float(np.median(counts)), "min": int(counts.min()), "max": int(counts.max())},
        "inlier_ratio": float(np.mean(np.concatenate([pair.points["inlier"] for pair in pairs]))),
        "known_motion": {
            "endomatch": _accuracy([p.error for p in pairs], [p.distance for p in pairs]),
            "identity": _accuracy([p.identity_error for p in pairs], [p.identity_distance for p in pairs]),
        },
        "latency_ms": {"p50": float(np.percentile(latency, 50)), "p95": float(np.percentile(latency, 95))},
    }


def _accuracy(errors: list[NDArray[np.float64]], distances: list[NDArray[np.float64]]) -> dict[str, float | None]:
    error, distance = np.concatenate(errors), np.concatenate(distances)
    known = error[np.isfinite(error)]
    return {
        "epipolar_median_px": float(np.median(known)) if len(known) else None,
        "epipolar_mean_px": float(np.mean(known)) if len(known) else None,
        "end_point_median_px": float(np.median(distance)),
        "pck_5px": float(np.mean(distance <= PCK_PX)),
    }


def table(summary: Mapping[str, Any]) -> Table:
    """The summary as a table for the terminal; the right column is what "nothing has moved" would score."""
    result = Table(title="Measured against the known motion of the camera", title_justify="left")
    for header, justify in (("", "left"), ("endomatch", "right"), ("no motion", "right")):
        result.add_column(header, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    s = summary
    ours, identity = s["known_motion"]["endomatch"], s["known_motion"]["identity"]
    causes = {"superseded": "overtaken by newer"}
    dropped = ", ".join(f"{count} {causes.get(cause, cause)}" for cause, count in s["dropped"].items()) or "none"
    rows: list[tuple[str, str, str]] = [
        ("frames sent / pairs answered", f"{s['frames_sent']} / {s['pairs_answered']}", ""),
        ("dropped by the node", dropped, ""),
        ("rate of frames / answers", f"{s['camera_hz'] or 0:.1f} / {s['answers_hz'] or 0:.1f} Hz", ""),
        ("matches per pair", "{median:.0f} (min {min}, max {max})".format(**s["matches"]), ""),
        ("inliers by the node's estimate", f"{s['inlier_ratio']:.1%}", ""),
    ]
    for label, key, form in (
        ("epipolar error, median", "epipolar_median_px", "{:.2f} px"),
        ("epipolar error, mean", "epipolar_mean_px", "{:.2f} px"),
        ("distance to true point, median", "end_point_median_px", "{:.2f} px"),
        (f"within {PCK_PX:g} px of true point", "pck_5px", "{:.1%}"),
    ):
        figures = ["unknown" if side[key] is None else form.format(side[key]) for side in (ours, identity)]
        rows.append((label, figures[0], figures[1]))
    rows.append(("latency p50 / p95", "{p50:.0f} / {p95:.0f} ms".format(**s["latency_ms"]), ""))
    for row in rows:
        result.add_row(*row)
    return result


def write_pictures(folder: Path, bag: Path, pairs: Sequence[Pair]) -> list[Path]:
    """Overlays of some frames, all of these on one sheet, and an animation; the paths written."""
    # Between frames of one camera position, on the way back, there is no error to show.
    telling = [pair for pair in pairs if np.isfinite(pair.error).any()] or pairs
    chosen = np.linspace(0, len(telling) - 1, min(STILLS, len(telling))).round().astype(int)
    still_at = {telling[i].stamp for i in chosen}
    moving = {pair.stamp: pair for pair in pairs[:ANIMATED]}
    wanted = moving | {pair.stamp: pair for pair in telling if pair.stamp in still_at}
    stills, animation = [], []
    for _, _, message in read_bag(bag, IMAGES):
        stamp = stamp_to_ns(message.header.stamp)
        if stamp in wanted:
            overlay = _overlay(to_rgb(message), wanted[stamp])
            if stamp in still_at:
                stills.append(overlay)
            if stamp in moving:
                animation.append(overlay)
    paths = [folder / f"overlay_{i + 1}.png" for i in range(len(stills))]
    for path, still in zip(paths, stills, strict=True):
        write_image(path, still)
    write_image(folder / "contact_sheet.jpg", _sheet(stills))
    _write_animation(folder / "matches.gif", animation, pairs)
    return [*paths, folder / "contact_sheet.jpg", folder / "matches.gif"]


def _overlay(image: RGB, pair: Pair) -> RGB:
    points, size = pair.points, (image.shape[1], image.shape[0])
    matches = Matches(
        keypoints0=np.stack([points["u_ref"], points["v_ref"]], axis=1),
        keypoints1=np.stack([points["u"], points["v"]], axis=1),
        similarity=points["similarity"],
        track_ids=points["track_id"],
        size0=size,
        size1=size,
    )
    lines = [f"{len(points)} matches"]
    if np.isfinite(pair.error).any():
        lines += [
            f"error {np.nanmedian(pair.error):.2f} px",
            f"no motion {np.nanmedian(pair.identity_error):.2f} px",
        ]
    return draw_flow(image, matches, pair.error, points["inlier"] > 0, lines)


def _sheet(pictures: Sequence[RGB], columns: int = 3) -> RGB:
    """Pictures of one size in a grid on black."""
    blank = np.zeros_like(pictures[0])
    cells = [*pictures, *[blank] * (-len(pictures) % columns)]
    rows = [np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    return np.asarray(np.vstack(rows), np.uint8)


def _write_animation(path: Path, frames: Sequence[RGB], pairs: Sequence[Pair]) -> None:
    """A GIF of at most 480 px width, at the answers' own pace where that is not tedious."""
    scale = min(1.0, 480 / frames[0].shape[1])
    small = [Image.fromarray(cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)) for f in frames]
    step = np.median(np.diff([pair.stamp for pair in pairs])) / 1e6 if len(pairs) > 1 else 100
    small[0].save(path, save_all=True, append_images=small[1:], duration=min(300, max(50, round(float(step)))), loop=0)
