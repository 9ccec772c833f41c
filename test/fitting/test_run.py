"""The engine on a toy: what it prints and writes, and that a broken run ends where an unbroken one does."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from endomatch_ros.errors import ConfigError
from endomatch_ros.fitting.batches import Batches, training_loader
from endomatch_ros.fitting.checkpoint_io import steps_done
from endomatch_ros.fitting.module import FittedModule
from endomatch_ros.fitting.monitor import Monitor
from endomatch_ros.fitting.progress import TextProgress
from endomatch_ros.fitting.run import Run, begin, fit, load_weights, make_trainer
from endomatch_ros.fitting.schedule import scheduled, warmup_cosine

STEPS = 7


class Numbers(Dataset):
    def __getitem__(self, index):
        return {"x": torch.tensor([1.0, float(index)])}

    def __len__(self):
        return 3


class Data(lightning.LightningDataModule):
    def __init__(self, done):
        super().__init__()
        self.done = done

    def train_dataloader(self):
        return training_loader(Numbers(), Batches(self.done, STEPS, 2), 0)

    def val_dataloader(self):
        return DataLoader(Numbers())


class Line(FittedModule):
    """Fits a line to 2·x + 1."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def training_step(self, batch, _):
        loss = (batch["x"] @ self.weight - 1 - 2 * batch["x"][:, 1]).square().mean()
        return self.checked(loss, {"square": loss.detach()})

    def validation_step(self, batch, _):
        self.log("val_slope", self.weight[1])

    def configure_optimizers(self):
        return scheduled(torch.optim.Adam(self.parameters(), 0.1), warmup_cosine(2, STEPS))


def train(output, steps=STEPS, resume=False, validated=True, **changes):
    done = begin(output, resume, 0)
    run = Run(output, steps, "cpu", "auto", 1.0, 2, validated, **changes)
    progress = TextProgress(("loss", "val_slope"), 2, 0 if validated else 2, closing=True)
    module = Line()
    fit(make_trainer(run, done, [progress]), module, Data(done), done)
    return module


@pytest.mark.parametrize("validated", [True, False])
def test_a_line_after_each_validation_or_as_often_and_one_at_the_end(validated, tmp_path, capsys):
    train(tmp_path, validated=validated)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [f"{k}/{STEPS}" for k in (2, 4, 6, 7)]
    assert all(("val_slope" in line) == validated for line in lines)
    assert lines[-1].endswith("0 min left")
    assert (tmp_path / "log" / "from_step_0" / "metrics.csv").read_text().count("loss_square") == 1


@pytest.mark.parametrize("stop", [3, 4])  # between validations, and on one
def test_a_run_in_two_parts_ends_where_one_does(stop, tmp_path):
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", steps=stop)
    assert steps_done(tmp_path / "parts" / "last.ckpt") == stop
    with pytest.raises(ConfigError, match="--resume"):
        train(tmp_path / "parts")
    parts = train(tmp_path / "parts", resume=True)
    assert torch.equal(whole.weight, parts.weight)
    before = (tmp_path / "parts" / "last.ckpt").read_bytes()
    train(tmp_path / "parts", resume=True)  # nothing left to do
    assert (tmp_path / "parts" / "last.ckpt").read_bytes() == before


def test_the_best_weights_are_kept_and_a_run_that_gains_nothing_ends(tmp_path):
    train(tmp_path, best=Monitor("val_slope", "min"), patience=1)  # the slope rises from 0 to 2
    assert steps_done(tmp_path / "last.ckpt") == 4
    module = Line()
    assert load_weights(module, tmp_path / "best.ckpt")["global_step"] == 2
    assert 0 < module.weight[1] < train(tmp_path / "whole").weight[1]


def test_a_loss_that_is_no_number_ends_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr(Numbers, "__getitem__", lambda self, index: {"x": torch.tensor([1.0, float("nan")])})
    with pytest.raises(ConfigError, match="the loss is nan at step 0: lower the learning rate"):
        train(tmp_path)
