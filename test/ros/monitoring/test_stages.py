"""Where the time of a frame goes, as ``/diagnostics`` tells: with a fake matcher, then with the real one."""

import re
import time

import numpy as np
import pytest
from support.ros import bench, wait_until

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.ros import node, outputs, pipeline
from endomatch_ros.ros.messages.calibration import to_camera_info
from endomatch_ros.ros.messages.clouds import ns_to_stamp
from endomatch_ros.ros.monitoring.stages import Stage, StageTimes
from endomatch_ros.ros.monitoring.statistics import Statistics

SLOW_S = 0.4
ROUNDING_MS = 0.1


@pytest.fixture
def running():
    with bench() as current:
        yield current


def stages(values, which="p50"):
    """Milliseconds by stage, of those that have any."""
    found = {key: re.fullmatch(rf"stage_(\w+)_{which}_ms", key) for key in values}
    return {match[1]: float(values[key]) for key, match in found.items() if match and values[key]}


def answered(current, part="processing", count=1):
    return current.client.wait_diagnostics(part, lambda _, v: v["answered"] == str(count), "the answer")[1]


def delayed(function):
    def slow(*args, **options):
        time.sleep(SLOW_S)
        return function(*args, **options)

    return slow


def test_every_stage_is_listed_before_the_first_answer_and_has_a_time_after_it(running):
    _, values = running.client.wait_diagnostics("processing", lambda *_: True, "a report")
    for stage in Stage:
        assert {values[f"stage_{stage}_{which}_ms"] for which in ("p50", "p95", "p99")} == {""}
    running.matched()
    values = answered(running)
    for which in ("p50", "p95", "p99"):
        times = stages(values, which)
        assert list(times) == list(Stage)
        assert min(times.values()) >= 0
        assert sum(times.values()) <= float(values[f"latency_{which}_ms"]) + ROUNDING_MS  # of one answer


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.NETWORK, Stage.MATCHING, Stage.REFINEMENT])
def test_a_slow_stage_of_the_matcher_shows_in_its_own_key_alone(running, stage):
    running.settled()
    running.matchers[0].clock.slow[stage] = SLOW_S
    running.client.answer(running.client.send())
    assert_slow_alone(answered(running), stage)


@pytest.mark.parametrize(
    ("stage", "module", "function"),
    [
        (Stage.DECODE, pipeline, "to_rgb"),
        (Stage.GEOMETRY, pipeline, "estimate_epipolar"),
        (Stage.PUBLISH, outputs, "make_points"),
    ],
)
def test_a_slow_stage_of_the_node_shows_in_its_own_key_alone(running, monkeypatch, stage, module, function):
    running.settled()
    monkeypatch.setattr(module, function, delayed(getattr(module, function)))
    running.client.answer(running.client.send())
    assert_slow_alone(answered(running), stage)


def test_waiting_for_another_camera_shows_as_wait_alone():
    with bench({"cameras": ["left", "right"], "batch_wait_s": SLOW_S}, clients=("left",)) as current:
        first = current.client.send()
        wait_until(lambda: current.streams[0].done == 1, "the reference")
        current.client.answer(current.client.send(stamp=first + 10**9))
        assert_slow_alone(answered(current, "left processing"), Stage.WAIT)


def assert_slow_alone(values, stage):
    times = stages(values)
    own = times.pop(stage)
    assert own >= 1e3 * SLOW_S > max(times.values())
    assert own + sum(times.values()) <= float(values["latency_p50_ms"]) + ROUNDING_MS


def test_a_stage_that_only_some_settings_have_is_shown_when_it_occurs(running):
    running.matched()
    assert "dense" not in stages(answered(running))
    running.stream.stages.append("dense")
    running.matchers[0].clock.slow["dense"] = SLOW_S
    running.client.answer(running.client.send())
    times = stages(answered(running, count=2))
    assert times["dense"] >= 1e3 * SLOW_S
    assert list(times) == [*Stage, "dense"]


def test_a_shared_pass_of_the_network_counts_for_each_camera():
    clients = ("stereo", "left", "right")
    with bench({"cameras": ["left", "right"], "mode": "both", "batch_wait_s": 1.0}, clients=clients) as current:
        current.matchers[0].clock.slow["network"] = SLOW_S
        for stamp in (10**9, 2 * 10**9):
            for camera in ("left", "right"):
                current.clients[camera].send(stamp=stamp)
            current.client.answer(stamp)
        assert current.matchers[0].batches == [2, 2]
        for camera, count in (("left", 1), ("right", 1), ("stereo", 2)):
            values = answered(current, f"{camera} processing", count)
            times = stages(values)
            assert times["network"] >= 1e3 * SLOW_S
            assert list(times) == list(Stage)
            assert sum(times.values()) <= float(values["latency_p95_ms"]) + ROUNDING_MS


def test_percentiles_are_of_the_answers_of_the_latency():
    statistics = Statistics()
    rng = np.random.default_rng(0)
    network, dense = rng.uniform(1, 90, 400), rng.uniform(1, 90, 400)
    for index in range(400):
        own = {"dense": dense[index]} if index % 2 else {}
        statistics.published(network[index] / 1e3, None, {Stage.NETWORK: network[index], **own})
    snapshot = statistics.snapshot(0.0)
    recent = slice(100, None)  # the last 300
    assert snapshot.stages["network"] == pytest.approx(np.percentile(network[recent], (50, 95, 99)))
    assert snapshot.stages["network"] == pytest.approx(snapshot.latency)
    assert snapshot.stages["dense"] == pytest.approx(np.percentile(dense[recent][1::2], (50, 95, 99)))
    assert snapshot.stages["decode"] is None


def test_a_stage_lasts_as_long_as_its_block():
    times = StageTimes(wait=1.0)
    with times.measure(Stage.DECODE):
        time.sleep(0.02)
    assert times.keys() == {"wait", "decode"}
    assert 20 <= times["decode"] < 200


def test_the_real_matcher_fills_all_stages():
    scene = SyntheticEndoscope(SceneConfig(seed=20102, kind="cavity", width=320, height=256))
    with bench({"device": "cpu", "resolution": 320}, load=node._load_matcher) as current:
        for index in range(3):
            frame, stamp = scene.render(0.1 * index), 10**9 + index * 10**8
            current.client.infos.publish(to_camera_info(frame.camera, ns_to_stamp(stamp), "scope"))
            wait_until(lambda: current.node._session.channels[""].info, "camera_info")
            current.client.send(frame.image, stamp)
            wait_until(lambda: current.node._session.channels[""].pipeline.stream._newest, "the reference", 60)
            wait_until(lambda n=index: current.counts().answered == n, "the answer", 60)
        values = answered(current, count=2)
        assert list(stages(values)) == list(Stage)
        for which in ("p50", "p95"):
            assert min(stages(values, which).values()) > 0
        assert float(values["latency_p50_ms"]) < 2 * sum(stages(values, "p95").values())  # nothing large is left out
