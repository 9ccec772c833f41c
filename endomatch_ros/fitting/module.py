"""What the Lightning modules of the package share: a loss is looked at before it is used."""

from __future__ import annotations

from collections.abc import Mapping

import lightning
import torch
from torch import Tensor

from endomatch_ros.errors import ConfigError


class FittedModule(lightning.LightningModule):
    """Base of what is trained."""

    @property
    def together(self) -> bool:
        """Whether several processes train, so that figures are means over all of them."""
        return self._trainer is not None and self.trainer.world_size > 1

    def checked(self, loss: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """The loss of a step, once it and its parts, as ``loss_…``, are logged.

        Raises:
            ConfigError: it is no number.
        """
        if not bool(torch.isfinite(loss)):
            raise ConfigError(
                f"the loss is {float(loss.detach())} at step {self.global_step}: lower the learning rate, or "
                "train in precision 32-true; last.ckpt holds the last good state"
            )
        self.log("loss", loss, prog_bar=True, sync_dist=self.together)
        for name, part in parts.items():
            self.log(f"loss_{name}", part, sync_dist=self.together)
        return loss
