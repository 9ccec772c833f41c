"""The options of a command line that choose a matcher, for every command that makes one. Light to import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from endomatch_ros.matching import MatcherConfig
from endomatch_ros.models.config import PRESETS
from endomatch_ros.settings import declared

if TYPE_CHECKING:
    from endomatch_ros.matching import Matcher

_ALSO = {"similarity_threshold": ("--threshold",)}


def add_model_options(parser: argparse._ActionsContainer) -> None:
    """``--model``, ``--device`` and ``--backbone-weights``."""
    names = ", ".join(PRESETS)
    parser.add_argument(
        "--model", default="embedded", help=f"preset ({names}) or .safetensors file (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="the backbone's published weights in timm's format, for models that do not carry them",
    )


def add_setting_options(parser: argparse._ActionsContainer) -> None:
    """One for every setting of :class:`~endomatch_ros.matching.MatcherConfig`."""
    for name, spec in declared(MatcherConfig).items():
        spec.add_option(parser, *_ALSO.get(name, ()))


def chosen_settings(args: argparse.Namespace) -> dict[str, bool | int | float | str]:
    """The settings that a user named, by name."""
    return {name: value for name in declared(MatcherConfig) if (value := getattr(args, name)) is not None}


def load_matcher(args: argparse.Namespace) -> Matcher:
    """The matcher of a parser that has all of these options; errors are those of ``Matcher.from_pretrained``."""
    from endomatch_ros.matching import Matcher

    return Matcher.from_pretrained(args.model, args.device, args.backbone_weights, **chosen_settings(args))
