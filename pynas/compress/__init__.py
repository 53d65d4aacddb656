"""Smaller networks from a trained one, under limits: `pynas.compress(model, batches, limits={"madds": "60%"})`."""

import sys
import types
from typing import Any

from pynas.compress.blockwise import train_units
from pynas.compress.distil import distil
from pynas.compress.files import load, save
from pynas.compress.hugging_face import save_pretrained
from pynas.compress.plan import Plan, plan
from pynas.compress.rate import rate
from pynas.compress.shrink import Compression, Report, compress

__all__ = [
    "Compression",
    "Plan",
    "Report",
    "compress",
    "distil",
    "load",
    "plan",
    "rate",
    "save",
    "save_pretrained",
    "train_units",
]


class _Callable(types.ModuleType):
    """Module that is called as its main function."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return compress(*args, **options)


sys.modules[__name__].__class__ = _Callable
