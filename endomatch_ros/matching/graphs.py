"""CUDA graphs: many small kernels of a function queued by one launch.

On a GPU the host may take longer to launch a function's kernels than the GPU to run them. A graph records them once for
tensors of given shapes, and replays them from and to buffers of its own.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from endomatch_ros.matching.refiners.constants import holding

PLAIN_CALLS = 2
"""With these shapes before a graph is captured: they make what is made once, and tell whether the shapes come again."""

_GRAPHS = 8  # kept at a time; each holds its function's memory
_CAPTURES = 32  # where shapes change all the time capturing costs more than it saves

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, the tensors that it reads and writes, and the constants that must live as long as it does."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor
    held: list[object]

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.graph.replay()
        return self.output.clone()


class Graphs:
    """A function of tensors, by a CUDA graph per set of shapes; on other devices, and where that fails, a plain call.

    May be called by several threads.

    Args:
        function: of tensors on one device and a whole number, to one tensor. Shapes follow from shapes and the number;
            it reads nothing back to the host, and its constants are ``remembered``.

    Attributes:
        counts: how many calls were ``plain`` and ``replayed``, and how many graphs ``captured`` and ``failed``.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._graphs: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._seen: Counter[Hashable] = Counter()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def __call__(self, *inputs: Tensor, number: int) -> Tensor:
        """The function's value."""
        with torch.inference_mode(), self._lock:
            graph = self._graph(inputs, number) if self._can_capture(inputs[0].device) else None
            self.counts["plain" if graph is None else "replayed"] += 1
            return self._function(*inputs, number) if graph is None else graph(inputs)

    def _can_capture(self, device: torch.device) -> bool:
        return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()

    def _graph(self, inputs: tuple[Tensor, ...], number: int) -> _Captured | None:
        """The graph for such inputs; None where there is none (yet)."""
        # Work on one stream is done in turn: its buffers are not written while they are read.
        stream = torch.cuda.current_stream(inputs[0].device).cuda_stream
        key = (number, stream, *((part.shape, part.dtype, part.device) for part in inputs))
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key]
        self._seen[key] += 1
        if self._seen[key] <= PLAIN_CALLS or self.counts["captured"] >= _CAPTURES or self.counts["failed"]:
            return None
        try:
            graph = self._capture(inputs, number)
        except RuntimeError as error:
            self.counts["failed"] += 1
            _log.warning("no CUDA graph, kernels are launched one by one: %s", error)
            return None
        self.counts["captured"] += 1
        self._graphs[key] = graph
        if len(self._graphs) > _GRAPHS:
            self._graphs.popitem(last=False)
        return graph

    def _capture(self, inputs: tuple[Tensor, ...], number: int) -> _Captured:
        device = inputs[0].device
        with torch.cuda.device(device):
            places = tuple(part.clone() for part in inputs)
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                self._function(*places, number)  # libraries make their workspaces per stream
            torch.cuda.current_stream(device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the device meanwhile.
            with holding() as held, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                output = self._function(*places, number)
        return _Captured(graph, places, output, held)
