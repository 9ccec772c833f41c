"""What every objective of the registry keeps to, and what it takes to add one."""

from dataclasses import dataclass, fields, replace
from types import SimpleNamespace

import pytest
import torch
from support.pairs import CONFIG, make, pair
from support.recordings import write_pictures

from endomatch_ros.data.selection import SelectionConfig
from endomatch_ros.errors import ConfigError
from endomatch_ros.models import load_model
from endomatch_ros.models.checkpoints import load_checkpoint
from endomatch_ros.training.config import TrainConfig
from endomatch_ros.training.module import MatcherModule, OptimiserConfig
from endomatch_ros.training.objectives.config import ObjectiveConfig
from endomatch_ros.training.objectives.interface import Objective
from endomatch_ros.training.objectives.registration import DenseConfig
from endomatch_ros.training.objectives.registry import OBJECTIVES
from endomatch_ros.training.pairs.crop import CropConfig
from endomatch_ros.training.pairs.prepare import RecordingConfig
from endomatch_ros.training.train import train

EVERY = pytest.mark.parametrize("kind", OBJECTIVES)
OPTIONS = {"gvsl": {"dense": DenseConfig(scales=2)}}


def module_of(kind, config=CONFIG, unfreeze=False):
    """A network as a run of the objective has it, away from the zeros through which nothing flows back."""
    objective, network = ObjectiveConfig(kind=kind, **OPTIONS.get(kind, {})).make(), make(config)
    objective.prepare(network)
    with torch.no_grad():
        network.adapter.gate.fill_(0.1)
        for p in () if network.dense is None else network.dense.parameters():
            p += 0.02 * torch.randn_like(p)
    return MatcherModule(network, OptimiserConfig(1e-3), 10, objective, unfreeze), objective


def batch_of(*moves):
    pairs = [pair(*move, smooth=15, seed=k) for k, move in enumerate(moves)]
    return {name: torch.cat([one[name] for one in pairs]) for name in pairs[0]}


@EVERY
def test_the_names_are_the_registry_s_and_the_options_are_declared(kind):
    objective = ObjectiveConfig(kind=kind).make()
    assert type(objective) is OBJECTIVES[kind]
    assert objective.name == kind
    declared = {option.name for option in fields(ObjectiveConfig)}
    assert {option.name for option in fields(objective)} <= declared - {"kind"}


@EVERY
@pytest.mark.parametrize("unfreeze", [False, True])
@pytest.mark.parametrize("fine_dim", [8, 0])
def test_gradients_reach_all_that_it_says_it_trains_and_nothing_else(kind, unfreeze, fine_dim):
    module, objective = module_of(kind, replace(CONFIG, fine_dim=fine_dim), unfreeze)
    parts = module.losses(batch_of((4, 8), (-8, 4)))
    assert all(part.shape == () and torch.isfinite(part) for part in parts.values())
    torch.stack(list(parts.values())).sum().backward()
    said = objective.trains(module.network) | ({"backbone"} if unfreeze else set())
    for name, parameter in module.network.named_parameters():
        trained = name.split(".")[0] in said
        assert parameter.requires_grad == trained, name
        # A backbone may hold layers that this network does not use.
        assert trained == (parameter.grad is not None) or name.startswith("backbone."), name
    reached = {n.split(".")[0] for n, p in module.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {part for part in said if getattr(module.network, part) is not None}


@EVERY
def test_training_on_one_batch_lowers_its_loss(kind):
    module, _ = module_of(kind)
    batch, values = batch_of((4, 8), (-8, 4)), []
    optimiser = module.configure_optimizers()["optimizer"]
    for group in optimiser.param_groups:
        group["lr"] = 1e-3
    for _ in range(15):
        optimiser.zero_grad()
        loss = torch.stack(list(module.losses(batch).values())).sum()
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert min(values[-3:]) < values[0] - 0.02 * abs(values[0])


@EVERY
def test_an_image_and_itself_cost_less_than_two_that_have_nothing_in_common(kind):
    module, _ = module_of(kind)
    right, other = batch_of((0, 0), (0, 0)), batch_of((0, 0), (0, 0))
    other["image1"] = other["image1"].flip(0)
    with torch.no_grad():
        costs = [float(torch.stack(list(module.losses(batch).values())).sum()) for batch in (right, other)]
    assert costs[0] < costs[1] - 0.1


@EVERY
def test_validation_logs_the_figure_that_it_is_judged_by(kind, monkeypatch):
    module, objective = module_of(kind)
    monkeypatch.setattr(MatcherModule, "trainer", SimpleNamespace(world_size=1))
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.setdefault(name, value))
    with torch.no_grad():
        module.validation_step(batch_of((4, 8), (-8, 4)), 0)
    assert torch.isfinite(logged[objective.monitor.figure])
    assert objective.monitor.mode in ("min", "max")
    assert all(name.startswith("val_") for name in logged)


def test_an_unknown_objective_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"'softmax': choose from triplet, infonce, gvsl"):
        ObjectiveConfig(kind="softmax")


def test_an_objective_is_added_in_a_few_lines(monkeypatch, tmp_path):
    @dataclass(frozen=True)
    class Alike(Objective):
        """Corresponding images as a whole are to look alike."""

        name = "alike"
        fine_weight: float

        def losses(self, network, first, second, batch, processes):
            mean0, mean1 = (d.coarse.mean((2, 3)) for d in (first, second))
            return {"alike": self.fine_weight * (mean0 - mean1).square().sum(1).mean()}

        def trains(self, network):
            return frozenset({"adapter"})

    monkeypatch.setitem(OBJECTIVES, Alike.name, Alike)
    config = TrainConfig(
        data=[str(write_pictures(tmp_path, 4))],
        recording=RecordingConfig(selection=SelectionConfig(sharpness=0), validation_gap=0),
        output=tmp_path / "run",
        cache=tmp_path / "cache",
        max_steps=2,
        validate_every=2,
        batch_size=1,
        points=32,
        validation_pairs=1,
        workers=0,
        device="cpu",
        crop=CropConfig(size=(128, 96)),
        objective=ObjectiveConfig(kind="alike", fine_weight=3.0),
    )
    trained, start = load_checkpoint(train(config)), load_model("embedded")[0]
    assert not torch.equal(trained.adapter.gate, start.adapter.gate)
    assert torch.equal(trained.fine.lift.weight, start.fine.lift.weight)
    header = (tmp_path / "run" / "log" / "from_step_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"loss", "loss_alike", "val_pck"} <= set(header)
