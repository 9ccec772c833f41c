"""CUDA graphs: when one is captured and kept, what happens where that fails, and that a replay gives the same."""

import logging

import pytest
import torch

from endomatch_ros.matching import graphs
from endomatch_ros.matching.graphs import PLAIN_CALLS, Graphs


def scaled(a, b, number):
    """A function of two tensors."""
    return number * a + b.sum()


def ones(size):
    """Two tensors of so many elements."""
    return torch.ones(size), torch.arange(float(size))


class Recorded(Graphs):
    """Believes that every device can capture; what it captures is the function itself."""

    def _can_capture(self, device):
        return True

    def _capture(self, inputs, number):
        return lambda given: self._function(*given, number)


@pytest.fixture
def recorded(monkeypatch):
    stream = type("Stream", (), {"cuda_stream": 0})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: stream)
    return Recorded(scaled)


def test_elsewhere_it_is_a_plain_call():
    function = Graphs(scaled)
    for _ in range(5):
        assert torch.equal(function(*ones(3), number=2), torch.full((3,), 5.0))
    assert function.counts == {"plain": 5}


def test_shapes_that_come_again_get_a_graph_each(recorded):
    for size in (2, 3):
        for number in (1, 4):
            for _ in range(PLAIN_CALLS + 3):
                assert torch.equal(recorded(*ones(size), number=number), scaled(*ones(size), number))
    assert recorded.counts == {"plain": 4 * PLAIN_CALLS, "replayed": 4 * 3, "captured": 4}


def test_few_graphs_are_kept_and_in_the_end_no_more_are_captured(recorded):
    for size in range(1, 100):
        for _ in range(PLAIN_CALLS + 1):
            recorded(*ones(size), number=1)
    assert len(recorded._graphs) == graphs._GRAPHS
    assert recorded.counts["captured"] == graphs._CAPTURES


def test_where_capturing_fails_it_says_so_once_and_calls_plainly(recorded, monkeypatch, caplog):
    def refuse(inputs, number):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded, "_capture", refuse)
    with caplog.at_level(logging.WARNING):
        for size in (2, 3):
            for _ in range(PLAIN_CALLS + 3):
                assert torch.equal(recorded(*ones(size), number=2), scaled(*ones(size), 2))
    assert recorded.counts["failed"] == len(caplog.records) == 1
    assert "not permitted" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_replay_on_cuda_gives_the_same_and_keeps_what_it_gave(caplog):
    function = Graphs(scaled)
    given = [[part.cuda() + k for part in ones(1000)] for k in range(6)]
    found = [function(*parts, number=3) for parts in given]
    assert function.counts == {"plain": PLAIN_CALLS, "replayed": 6 - PLAIN_CALLS, "captured": 1}
    assert not caplog.records
    for parts, value in zip(given, found, strict=True):
        assert torch.equal(value, scaled(*parts, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_function_that_cannot_be_captured_on_cuda_still_gives_its_value(caplog):
    def reluctant(a, number):
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("not now")
        return number * a

    function = Graphs(reluctant)
    for _ in range(5):
        assert torch.equal(function(torch.ones(4, device="cuda"), number=2), torch.full((4,), 2.0, device="cuda"))
    assert function.counts == {"plain": 5, "failed": 1}
