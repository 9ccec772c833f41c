"""Many frames of a scene, rendered on all cores."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TYPE_CHECKING, Literal

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.synthetic.config import SceneConfig
from endomatch_ros.processes import end_with_parent

if TYPE_CHECKING:
    from endomatch_ros.data.synthetic.scene import SyntheticEndoscope


def render_all(config: SceneConfig, times: Sequence[float]) -> Iterator[Frame]:
    """Frames of the scene at ``times`` (seconds), in their order, each as soon as it is there."""
    with start_rendering(config, times) as frames:
        for frame in frames:
            yield frame.result()


@contextlib.contextmanager
def start_rendering(
    config: SceneConfig, times: Sequence[float], start: Literal["spawn", "fork"] = "spawn"
) -> Iterator[list[Future[Frame]]]:
    """Frames of the scene at ``times`` (seconds), in the making; leaving ends it early.

    Args:
        config: the scene.
        times: in seconds.
        start: how workers start. ``fork`` saves each of them to load PyTorch; only for a process that has started no
            thread, neither of PyTorch's nor of DDS's, since those do not survive a fork.
    """
    workers = min(len(times), max(1, len(os.sched_getaffinity(0))))
    if start == "fork":
        from endomatch_ros.data.synthetic.scene import SyntheticEndoscope  # noqa: F401 - loads PyTorch, once for all
    context = multiprocessing.get_context(start)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(config,))
    frames = [pool.submit(_render_one, time, index) for index, time in enumerate(times)]
    pool.shutdown(wait=False)  # no more work than this
    try:
        yield frames
    finally:
        for frame in frames:
            frame.cancel()


_scene: SyntheticEndoscope


def _start_worker(config: SceneConfig) -> None:
    global _scene
    import torch

    from endomatch_ros.data.synthetic.scene import SyntheticEndoscope

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells the workers when to end
    end_with_parent()  # and if it is killed, cannot
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        os._exit(1)  # it was killed before the line above
    torch.set_num_threads(1)
    _scene = SyntheticEndoscope(config)


def _render_one(time: float, index: int) -> Frame:
    return _scene.render(time, index)
