"""Settings, each declared once: as a field of a frozen dataclass whose default is made by :func:`setting`.

    @dataclass(frozen=True)
    class Rules:
        lost_frames: int = setting(3, "After so many lost frames in a row it is given up.", low=1, high=1000)

The declaration stays with the field (:func:`declared`). The check of a configuration, the options of a command line,
the parameters of the node and the tables of the documentation are made from it.
"""

from __future__ import annotations

import inspect
from argparse import BooleanOptionalAction, _ActionsContainer
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from functools import cache
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from endomatch_ros.errors import ConfigError, check_range

Scalar = bool | int | float | str
Value = Scalar | tuple[int, ...] | tuple[str, ...]
"""What a setting can hold; the type of its default is its type."""
When = Literal["live", "unconfigured", "start"]
OWN = "model"
"""What a user of the node writes for the model's own value of a setting, whatever its type."""

_T = TypeVar("_T", bound=Value)
_C = TypeVar("_C", bound="Configuration")
_KEY = "setting"
_READERS: dict[type, tuple[Callable[[str], Scalar], str]] = {
    bool: (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "text"),
}


class Configuration(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


@dataclass(frozen=True)
class Declaration:
    """One setting.

    Attributes:
        name: the field's.
        default: default value, which also fixes the type.
        text: what it does, unit included, as sentences.
        low, high: closed range of a number, or of each number of several; None where it has none.
        choices: allowed values of a text, perhaps of a registry that grows; empty: any.
        own: a model brings a value of its own, which goes before ``default`` where a user chooses none.
        when: a node takes a new value ``live`` (any time), only while it is ``unconfigured``, or only at its ``start``.
        each_camera: a node with named cameras takes it for all of them, and for each alone.
    """

    name: str
    default: Value
    text: str
    low: float | None = None
    high: float | None = None
    choices: Collection[str] = ()
    own: bool = False
    when: When = "live"
    each_camera: bool = False

    @property
    def initial(self) -> Value:
        """What it is in a node before anybody chooses: :data:`OWN` where the model has a value, else the default."""
        return OWN if self.own else self.default

    @property
    def allowed(self) -> str:
        """Range or choices in words; empty where there are none."""
        if self.low is None or self.high is None:
            return ", ".join(self.choices)
        return f"{self.low:g} to {self.high:g}"

    def check(self, value: object) -> None:
        """Raise :class:`ConfigError`, with name and value, for a value outside range or choices."""
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.name}={value!r} is unknown: it must be one of {self.allowed}")
        if isinstance(self.default, bool) and not isinstance(value, bool):
            raise ConfigError(f"{self.name}={value!r} must be true or false")
        if self.low is not None and self.high is not None:
            for number in value if isinstance(value, list | tuple) else (value,):
                check_range(self.name, number, self.low, self.high, whole=not isinstance(self.default, float))

    def parse(self, text: str) -> Scalar:
        """The value that a text stands for, of the default's type; raises :class:`ConfigError` if it stands for none.

        The range is left to :meth:`check`.
        """
        read, wanted = _READERS[type(self.default)]
        try:
            return read(text)
        except (KeyError, ValueError):
            raise ConfigError(f"{self.name} is {text!r}; it must be {wanted}") from None

    def add_option(self, parser: _ActionsContainer, *names: str) -> None:
        """Add ``--its-name``, also under further ``names``; the argument is None where a user leaves it out."""
        default = "the model's own" if self.own else str(self.default)
        facts = "; ".join(filter(None, ("" if self.choices else self.allowed, f"default: {default}")))
        flags = ("--" + self.name.replace("_", "-"), *names)
        text = f"{self.text[0].lower()}{self.text[1:].rstrip('.')} ({facts})".replace("%", "%%")
        if isinstance(self.default, bool):
            parser.add_argument(*flags, dest=self.name, action=BooleanOptionalAction, help=text)
        elif self.choices:
            parser.add_argument(*flags, dest=self.name, choices=self.choices, help=text)
        else:
            kind = type(self.default)
            metavar = "TEXT" if kind is str else "N"
            parser.add_argument(*flags, dest=self.name, type=kind, metavar=metavar, help=text)


def setting(
    default: _T,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Collection[str] = (),
    own: bool = False,
    when: When = "live",
    each_camera: bool = False,
) -> _T:
    """The field of a frozen dataclass that declares a setting; arguments as in :class:`Declaration`."""
    declaration = Declaration("", default, text, low, high, choices, own, when, each_camera)
    return field(default=default, metadata={_KEY: declaration})


@cache  # the node reads its parameters with every frame
def declared(config: type[Configuration]) -> Mapping[str, Declaration]:
    """The settings of a dataclass by name, in order; fields without a declaration are left out."""
    return {f.name: replace(f.metadata[_KEY], name=f.name) for f in fields(config) if _KEY in f.metadata}


def documented(config: type[_C]) -> type[_C]:
    """A class decorator above ``@dataclass``: the declarations become the ``Attributes`` of the class's docstring."""
    lines = [
        f"    {name}: {spec.text}" + ("" if spec.low is None else f" Range: {spec.allowed}.")
        for name, spec in declared(config).items()
    ]
    config.__doc__ = "\n".join([inspect.cleandoc(config.__doc__ or ""), "", "Attributes:", *lines])
    return config


def check(config: Configuration) -> None:
    """Raise :class:`ConfigError` for the first setting of a configuration outside its range or choices."""
    for name, declaration in declared(type(config)).items():
        declaration.check(getattr(config, name))
