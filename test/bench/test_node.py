"""What is said of a run of the node."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from endomatch_ros.bench.node import summarise
from endomatch_ros.processes import Usage
from endomatch_ros.ros.bench.run import Load, Observed

MS = 1_000_000
TOLD = {
    "dropped_superseded": "5",
    "dropped_unpaired": "0",
    **{f"latency_{q}_ms": v for q, v in (("p50", "30.0"), ("p95", "40.0"), ("p99", "41.0"))},
    **{f"stage_wait_{q}_ms": v for q, v in (("p50", "4.0"), ("p95", "9.0"), ("p99", "9.5"))},
    **{f"stage_dense_{q}_ms": "" for q in ("p50", "p95", "p99")},
}


def test_figures_of_a_run():
    answers = [(100 * MS * k, 100 * MS * k + (20 + 10 * k) * MS) for k in range(3)]
    seen = Observed(answers, 9, TOLD, 2.0, Usage(1.0, 500.0), Usage(4.0, 510.0))
    figures = summarise(Load(10, 30.0, 1), seen)
    assert (figures.sent, figures.received, figures.answered, figures.beside) == (10, 9, 3, 1)
    assert figures.drops == {"superseded": 5, "lost": 1}
    assert figures.answers_hz == pytest.approx(2 / 0.22, abs=0.01)  # arrivals at 20, 130 and 240 ms
    assert figures.arrival["p50"] == 30.0
    assert figures.latency == {"p50": 30.0, "p95": 40.0, "p99": 41.0}
    assert figures.stages == {"wait": {"p50": 4.0, "p95": 9.0, "p99": 9.5}, "dense": None}
    assert figures.working == 26.0
    assert figures.cpu_percent == pytest.approx(150)
    assert (figures.rss_start, figures.rss_end) == (500.0, 510.0)


def test_what_a_machine_does_not_tell_is_unknown():
    figures = summarise(Load(1), Observed([(0, MS)], 1, {}, 1.0, None, None))
    assert figures.cpu_percent is figures.rss_start is figures.latency is figures.answers_hz is None
