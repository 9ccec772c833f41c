"""The command line of training."""

from __future__ import annotations

import argparse
from pathlib import Path

from endomatch_ros.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    """Arguments of ``endomatch train``."""
    p = argparse.ArgumentParser(
        prog="endomatch train",
        description="Train a matcher without labels. Writes DIR/model.safetensors, which the node's parameter `model` "
        "and Matcher.from_pretrained take.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--data", default="synthetic", help="'synthetic': rendered scenes with exact correspondences")
    p.add_argument("--preset", default="embedded", help="architecture; 'embedded' is trained from scratch")
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the results go")
    p.add_argument("--max-steps", type=int, default=2000, help="optimiser steps")
    p.add_argument("--batch-size", type=int, default=8, help="pairs a step")
    p.add_argument("--learning-rate", type=float, default=1.5e-3, help="peak of the cosine schedule")
    p.add_argument("--scenes", type=int, default=360, help="training scenes, rendered on first use (about 2 s a scene)")
    p.add_argument("--validation-scenes", type=int, default=10, help="validation scenes, other seeds")
    p.add_argument("--cache", type=Path, default=Path(".cache/synthetic"), help="rendered scenes, kept between runs")
    p.add_argument("--seed", type=int, default=0, help="of weights and data")
    p.add_argument("--workers", type=int, default=1, help="data-loading processes")
    p.add_argument("--precision", default="32-true", help="Lightning's precision, e.g. bf16-mixed on a GPU")
    p.add_argument("--checkpoint-every", type=int, default=250, help="steps between checkpoints and validations")
    p.add_argument("--resume", action="store_true", help="continue from DIR/last.ckpt")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = vars(parser().parse_args(argv))
    data, preset = args.pop("data"), args.pop("preset")
    if data != "synthetic":
        raise ConfigError(f"--data {data!r}: this version trains on 'synthetic' only")
    if preset != "embedded":
        raise ConfigError(f"--preset {preset!r}: this version trains 'embedded' only")
    from endomatch_ros.training.train import TrainConfig, train

    print(f"wrote {train(TrainConfig(**args))}")
    return 0
