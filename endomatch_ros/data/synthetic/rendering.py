"""Many frames of a scene, rendered on all cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.synthetic.config import SceneConfig
from endomatch_ros.data.synthetic.scene import SyntheticEndoscope
from endomatch_ros.processes import end_with_parent


def render_all(config: SceneConfig, times: Sequence[float]) -> Iterator[Frame]:
    """Frames of the scene at ``times`` (seconds), in their order, each as soon as it is there."""
    workers = min(len(times), max(1, len(os.sched_getaffinity(0))))
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(config,)) as pool:
        yield from pool.map(_render_one, times, range(len(times)))


_scene: SyntheticEndoscope


def _start_worker(config: SceneConfig) -> None:
    global _scene
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells the workers when to end
    end_with_parent()  # and if it is killed, cannot
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        os._exit(1)  # it was killed before the line above
    torch.set_num_threads(1)
    _scene = SyntheticEndoscope(config)


def _render_one(time: float, index: int) -> Frame:
    return _scene.render(time, index)
