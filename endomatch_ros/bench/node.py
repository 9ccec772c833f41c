"""The node behind real DDS, its figures beside the bare matcher's. ROS is imported only here, when it is called."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from endomatch_ros.bench.figures import Quantiles, percentiles
from endomatch_ros.bench.matcher import push_all
from endomatch_ros.bench.stream import Stream
from endomatch_ros.matching import Matcher

if TYPE_CHECKING:
    from endomatch_ros.ros.bench.run import Load, Observed

_STAGE = re.compile(r"stage_(\w+)_p50_ms")


@dataclass(frozen=True)
class RunFigures:
    """One run of the node; milliseconds as it tells them of its last 300 answers, None where there are none.

    Attributes:
        rate: of the camera, Hz; 0: in step with the answers.
        beside: busy processes beside the node.
        sent, received, answered: frames of the camera, those that reached the node, those whose answers came back.
        answers_hz: answers per second.
        drops: frames without an answer by cause; ``lost`` are those that never reached the node.
        latency: from the callback until the answer was published.
        stages: of it.
        working: its median without the wait for the worker.
        arrival: from the camera's stamp until the answer was with the listener.
        cpu_percent: of the node's process; 100 is one core.
        rss_start, rss_end: its memory, MiB, at the first answer and when the camera had ended.
    """

    rate: float
    beside: int
    sent: int
    received: int
    answered: int
    answers_hz: float | None
    drops: dict[str, int]
    latency: Quantiles | None
    stages: dict[str, Quantiles | None]
    working: float | None
    arrival: Quantiles | None
    cpu_percent: float | None
    rss_start: float | None
    rss_end: float | None


@dataclass(frozen=True)
class NodeFigures:
    """The node and the bare matcher on the same frames.

    Attributes:
        bare: milliseconds of a push in this process.
        in_step: each frame sent when the last one was answered, so that the node matches the same pairs.
        overhead_ms: what it takes per frame then beyond a push, median against median.
        runs: behind cameras that do not wait.
    """

    bare: Quantiles | None
    in_step: RunFigures
    overhead_ms: float | None
    runs: list[RunFigures]


def measure_node(
    matcher: Matcher,
    stream: Stream,
    parameters: Mapping[str, object],
    rates: Sequence[float],
    seconds: float,
    beside: int = 0,
) -> NodeFigures:
    """The same frames through the node: in step with its answers, then from cameras that do not wait.

    Args:
        matcher: as the node's, here.
        stream: the frames.
        parameters: of the node; they make its matcher the same.
        rates: of the cameras, Hz.
        seconds: length of each of their streams.
        beside: busy processes; all is measured without, and where this is not 0 once more with them.
    """
    from endomatch_ros.ros.bench.run import Load, observe

    bare = percentiles([took.ms for _, took in push_all(matcher, stream.images)])
    with tempfile.TemporaryDirectory(prefix="endomatch_bench_") as folder:
        logs = Path(folder)
        source = stream.write(logs)
        loads = [Load(len(stream.frames))]
        for processes in dict.fromkeys((0, beside)):
            loads += [Load(max(2, round(rate * seconds)), rate, processes) for rate in rates]
        in_step, *runs = [summarise(load, observe(source, load, parameters, logs)) for load in loads]
    overhead = round(in_step.working - bare["p50"], 1) if in_step.working is not None and bare else None
    return NodeFigures(bare, in_step, overhead, runs)


def summarise(load: Load, seen: Observed) -> RunFigures:
    """The figures of a run."""
    told = seen.diagnostics
    stamps, arrivals = np.array(seen.answers, np.int64).T
    span = float(arrivals.max() - arrivals.min()) / 1e9
    drops = {key.removeprefix("dropped_"): int(n) for key, n in told.items() if key.startswith("dropped_") and int(n)}
    if load.frames > seen.received:
        drops["lost"] = load.frames - seen.received
    names = [match[1] for key in told if (match := _STAGE.fullmatch(key))]
    latency, wait = _told(told, "latency"), _told(told, "stage_wait")
    cpu = None if seen.before is None or seen.after is None else seen.after.cpu_s - seen.before.cpu_s
    return RunFigures(
        rate=load.rate,
        beside=load.beside,
        sent=load.frames,
        received=seen.received,
        answered=len(arrivals),
        answers_hz=round((len(arrivals) - 1) / span, 2) if span > 0 else None,
        drops=drops,
        latency=latency,
        stages={name: _told(told, f"stage_{name}") for name in names},
        working=round(latency["p50"] - wait["p50"], 2) if latency and wait else None,
        arrival=percentiles((arrivals - stamps) / 1e6),
        cpu_percent=None if cpu is None else round(100 * cpu / seen.seconds, 1),
        rss_start=None if seen.before is None else round(seen.before.rss_mib, 1),
        rss_end=None if seen.after is None else round(seen.after.rss_mib, 1),
    )


def _told(values: Mapping[str, str], name: str) -> Quantiles | None:
    """What the node reports under a name; None before the first."""
    found = {quantile: values.get(f"{name}_{quantile}_ms", "") for quantile in ("p50", "p95", "p99")}
    return {key: float(value) for key, value in found.items()} if all(found.values()) else None
