"""Constants on the device, made once per size: weights, positions, masks.

A CUDA graph reads them where they lay when it was captured, so who captures one must keep them as long as the graph,
whatever sizes come by in between: :func:`holding` says which they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_P = ParamSpec("_P")
_T = TypeVar("_T")
_SIZES = 32  # so many sizes of images are remembered
_HELD: ContextVar[list[object] | None] = ContextVar("held", default=None)


@contextmanager
def holding() -> Iterator[list[object]]:
    """A list that receives all constants used within, to be kept by whoever needs them for longer."""
    held: list[object] = []
    token = _HELD.set(held)
    try:
        yield held
    finally:
        _HELD.reset(token)


def remembered(make: Callable[_P, _T]) -> Callable[_P, _T]:
    """A function that makes constants, which makes them only once per size and device."""
    cached = lru_cache(maxsize=_SIZES)(make)

    @wraps(make)
    def constants(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        values = cached(*args, **kwargs)  # type: ignore[arg-type]
        held = _HELD.get()
        if held is not None:
            held.append(values)
        return values

    return constants


def constant(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """``values`` as float32 on ``device``: a copy to it, so only for functions that are :func:`remembered`."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)
