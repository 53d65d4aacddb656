"""pynas: block-wise weight-sharing neural architecture search. Rate every path, find the provably best architecture.

net    = pynas.supernet("mbconv-mini", num_classes=10)
method = pynas.methods.DNA(net, teacher)
pynas.fit(method, train_loader, epochs=20, run="runs/dna")
scores = method.rate(val_loader)
costs  = pynas.costs.count(net, (3, 32, 32))
found  = pynas.search.best(scores, costs, limits={"madds": 20e6}, top_k=5)
model  = pynas.export.subnet(net, found[0].architecture)
"""

import importlib
from typing import Any

from pynas._version import __version__
from pynas.errors import InfeasibleError, InputError

# Imported at first use, so that `pynas --help` and `pynas doctor` do not need torch.
_MODULES = (
    "compress", "costs", "data", "evaluation", "export", "methods", "nn", "ops", "rating", "report", "runs", "runtimes", "search",
    "spaces", "supernets", "tabular", "teachers", "train", "zero_cost"
)  # fmt: skip
_NAMES = {"Supernet": "supernets", "supernet": "supernets", "fit": "train", "rate": "rating", "check": "evaluation",
          "Scores": "rating", "ScoreTable": "rating", "Architecture": "spaces", "ErrorRate": "evaluation"}  # fmt: skip


importlib.import_module("pynas.with_timm")  # registers pynas's networks with timm, now or when timm is imported


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"pynas.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"pynas.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'pynas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES, *_NAMES])


__all__ = ["InfeasibleError", "InputError", "__version__", *_MODULES, *_NAMES]
