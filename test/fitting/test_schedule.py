"""Learning rates against their closed forms."""

import math

import pytest
import torch

from endomatch_ros.fitting.schedule import scheduled, warmup, warmup_cosine


def test_the_rate_rises_linearly_and_then_stays_or_falls_as_a_cosine():
    assert [warmup(4)(k) for k in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [warmup(0)(k) for k in (0, 7)] == [1.0, 1.0]
    expected = [0.25, 0.5, 0.75, 1.0, *(0.5 + 0.5 * math.cos(math.pi * k / 6) for k in range(7))]
    assert [warmup_cosine(4, 10)(k) for k in range(11)] == pytest.approx(expected)
    assert warmup_cosine(4, 10)(50) == 0.0
    assert warmup_cosine(0, 1)(0) == 1.0


def test_every_step_of_the_optimiser_has_its_own_rate():
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    made = scheduled(optimiser, warmup(2))["lr_scheduler"]
    rates = []
    for _ in range(3):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        made["scheduler"].step()
    assert rates == [1.0, 2.0, 2.0]
    assert made["interval"] == "step"
