"""Render synthetic training scenes once, to be read many times."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope

# Seconds of the frames of a scene: the pairs among them span small steps and wide baselines.
TIMES = (0.0, 0.12, 0.3, 0.6, 1.1, 1.8, 2.8)
SCENE_WIDTH = 320  # pixels; at run time the network sees frames at its resolution
STRIDE = 4  # pixels between the points whose partners are stored


def scene_config(seed: int, width: int = SCENE_WIDTH, height: int = 256) -> SceneConfig:
    """Random scene parameters for ``seed``; every seed of training, validation and test is drawn the same way."""
    rng = np.random.default_rng([seed, 97])
    return SceneConfig(
        seed=seed,
        kind="tunnel" if rng.random() < 0.5 else "cavity",
        width=width,
        height=height,
        field_of_view=float(rng.uniform(60, 100)),
        view_radius=float(rng.choice([0.5, 0.5, 0.6, 0.9])),
        speed=float(rng.uniform(0.1, 0.4)),
        wobble=float(rng.uniform(0.5, 2.0)),
        deformation=float(rng.choice([0.0, rng.uniform(0.01, 0.05)])),
        noise=float(rng.uniform(1.0, 5.0)),
        specular=float(rng.uniform(0.4, 1.4)),
    )


def render_scene(seed: int, directory: str) -> Path:
    """Render one training scene into ``directory`` and return its file; an existing file is kept.

    The archive holds ``images`` ``(T, H, W, 3)`` uint8, ``view`` ``(H, W)`` bool, ``points`` ``(P, 2)`` int16, and for
    every ordered pair of frames ``targets`` ``(T, T, P, 2)`` float32 (NaN where the point is not visible in both).
    """
    path = Path(directory) / f"scene_{seed:06d}.npz"
    if path.exists():
        return path
    config = scene_config(seed)
    scene = SyntheticEndoscope(config)
    frames = [scene.render(time, index) for index, time in enumerate(TIMES)]
    count = len(frames)
    targets = None
    for i in range(count):
        for j in range(count):
            points, target, visible = scene.dense_correspondence(frames[i], frames[j], STRIDE)
            if targets is None:
                targets = np.full((count, count, len(points), 2), np.nan, np.float32)
            targets[i, j][visible] = target[visible]
    assert targets is not None
    # Written beside and renamed: an interrupted run leaves no half file to train on.
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".part", delete=False) as part:
        np.savez(
            part,
            images=np.stack([f.image for f in frames]),
            view=np.asarray(frames[0].mask),
            points=points.astype(np.int16),
            targets=targets,
            config=np.array(str(asdict(config))),
        )
    os.replace(part.name, path)
    return path


def _single_thread() -> None:
    import torch

    torch.set_num_threads(1)


def render_scenes(seeds: range, directory: Path, workers: int | None = None) -> list[Path]:
    """Render the scenes of ``seeds`` that are not in ``directory`` yet, in parallel; returns all their files."""
    directory.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers or os.cpu_count(), initializer=_single_thread) as pool:
        return list(pool.map(render_scene, seeds, [str(directory)] * len(seeds)))
