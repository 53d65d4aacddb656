"""The tensors that a rating holds at once, counted: never more than `max_bytes` beyond what one path needs."""

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pynas.rating import Settings, rate, rate_population
from pynas.rating.engine import Engine

from .models import mbconv_layers, some_batches
from .test_population import projector, views


class Live(TorchDispatchMode):
    """Bytes of the storages that operators made and that still live, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._known:
                    self._known.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._free, key, size)
        return result

    def _free(self, key, size):
        self._known.discard(key)
        self.now -= size


def peak(function, max_bytes, **arguments):
    with Live() as live:
        function(**arguments, engine=Settings(workers=1, stack="memory", max_bytes=max_bytes))
    return live.peak


@pytest.mark.parametrize("population", [False, True])
def test_peak_stays_within_the_budget(population):
    arguments = {"layers": mbconv_layers(), "tail": None, "norm": "batch", "batches": some_batches((8,))}
    if population:
        arguments |= {"tail": projector(), "batches": views((8,))}
    function = rate_population if population else rate
    least = peak(function, **arguments, max_bytes=1)
    peaks = [peak(function, **arguments, max_bytes=budget) for budget in (100_000, 800_000)]
    for budget, found in zip((100_000, 800_000), peaks):
        assert found <= least + budget
    assert peaks[-1] > 1.5 * least  # and what is there is used


@pytest.mark.parametrize("population", [False, True])
def test_copies_are_free_as_soon_as_a_rating_ends(population, monkeypatch):
    """The engine, and so its copies, is in no cycle of references, also where modules are traced, as those of many runs are."""
    engines, begin = [], Engine.__init__

    def noted(self, *args, **settings):
        engines.append(weakref.ref(self))
        begin(self, *args, **settings)

    monkeypatch.setattr(Engine, "__init__", noted)
    layers = mbconv_layers()
    gc.disable()
    try:
        if population:
            rate_population(layers, views((8,)), "batch", tail=projector())
        else:
            rate(layers, some_batches((8,)))
        assert engines and not any(engine() for engine in engines)
    finally:
        gc.enable()
