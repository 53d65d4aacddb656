"""`check`: a handful of paths of anybody's supernet, rated and run alone, in one call."""

from __future__ import annotations

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pynas.checked import AtLeastOne, checked
from pynas.errors import InputError
from pynas.evaluation.check_result import Check, NormCheck, Tree
from pynas.evaluation.exported import Agreement, compare_costs, compare_exports, supernet_of
from pynas.evaluation.plain_loop import PlainLoop
from pynas.evaluation.sample_paths import SamplePaths, tree_widths
from pynas.evaluation.traces import digits, one_line, shapes, together, trace_paths
from pynas.rating import Settings, rate
from pynas.rating.batches import Batch, check_calibration, groups
from pynas.rating.copies import check_layers
from pynas.rating.norms import MODES
from pynas.rating.settings import DEFAULT
from pynas.rating.state import RandomState
from pynas.rating.tree import Path, build_tree
from pynas.supernets import device_of
from pynas.supernets.shapes import input_dtypes, kept_generators

# Batches of a check: the second one finds what the first one left behind.
_BATCHES = 2
# Seconds below which a measurement is repeated.
_SHORT = 1.0
# More paths than these are not rated all.
_RATED = 10**7
# Largest relative difference of equal scores.
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
_TOLERANCE_HALF = 5e-2
# Scores are compared relative to their size, or to this share of the largest one.
_SMALL = 1e-2


@checked("check", skip=("calibration", "tail", "paths", "allowed", "engine"))
def check(
    layers: Sequence[Sequence[nn.Module]],
    batches: Iterable[tuple[Any, ...]],
    loss: str | Callable[[Tensor, Any], Tensor] = "relative_l1",
    *,
    calibration: Iterable[Tensor] | None = None,
    tail: nn.Module | None = None,
    paths: Iterable[Sequence[int]] | None = None,
    allowed: Callable[[tuple[int, ...]], bool] | None = None,
    sample: AtLeastOne = 8,
    seed: int = 0,
    engine: Settings = DEFAULT,
) -> Check:
    """Try a handful of paths before a long rating: are their scores right, how fast, and do costs and exports agree?

        checked = pynas.check(layers, batches)
        print(checked)
        assert checked.ok

    Each path runs alone on copies of its modules, in a plain loop, and by `rate`, in every norm mode: "running", "batch" and
    "recalibrate". Where `rate` refuses a mode, the result says why. The paths also run on one copy in two orders, which finds
    settings that one candidate leaves to the next, state and random numbers; and as a supernet, whose costs and exported
    networks are compared with the paths alone. The modules, their modes and the random generators stay as they are.

    A mode passes where the relative differences of all scores are at most 1e-3 in float32, 1e-6 in float64, and 0.05 in 16-bit
    types; scores below a hundredth of the largest are compared with that hundredth.

    Args:
        layers, loss, tail, paths, allowed, engine: as for `rate`; `loss` is compared on whole scores only.
        batches: (input `[B, ...]`, target) pairs, as for `rate`; the first two are used.
        calibration: inputs `[B, ...]`, of which the first two are used. Default: those of the batches.
        sample: number of paths, chosen so that they use as many candidates as they can; all where there are no more.
        seed: of the choice of paths.

    Raises:
        InputError: no layer, batch or path, or modules that cannot be copied.
    """
    layers = check_layers(layers)
    device = device_of(layers)
    given = [batch for group in groups(islice(batches, _BATCHES), False, sys.maxsize) for batch in group]
    pairs = [Batch(batch.x.detach().to(device), _placed(batch.target, device)) for batch in given]
    if not pairs:
        raise InputError("[check] expected at least one batch, got none")
    inputs, sides = check_calibration(
        "recalibrate", "running", [batch.x for batch in pairs] if calibration is None else islice(calibration, _BATCHES)
    )
    if any(side is not None for side in (*sides, *(batch.side for batch in given))):
        raise InputError("[check] expected batches of (input, target), got side inputs; only `rate` takes them")
    inputs = [x.detach().to(device) for x in inputs]
    sample_paths = SamplePaths([len(layer) for layer in layers], paths, allowed, sample, seed)
    with torch.inference_mode(False), kept_generators(device), _uncompiled(), _collected() as caught:
        loop = PlainLoop(layers, tail, pairs, inputs, loss, RandomState(device))
        by_engine = partial(rate, layers, loss=loss, tail=tail, engine=engine, distributed=False)
        comparison = _Comparison(layers, sample_paths, loop, by_engine, pairs, inputs, _tolerance(layers, engine))
        checked = comparison.result(_setting(pairs, device, layers))
        ours = tuple(dict.fromkeys(str(each.message) for each in caught if _is_ours(each)))
        if any("each path runs alone" in text for text in ours):
            checked = replace(checked, tree=Tree(checked.tree.widths, shared=False))
        return replace(checked, warnings=ours)


class _Comparison:
    """Runs the handful of paths alone and by `rate`; `problems` says what is wrong."""

    def __init__(
        self,
        layers: Sequence[Sequence[nn.Module]],
        sample: SamplePaths,
        loop: PlainLoop,
        by_engine: Callable[..., Any],
        batches: Sequence[Batch],
        calibration: Sequence[Tensor],
        tolerance: float,
    ) -> None:
        self._layers, self._sample, self._loop, self._rate = layers, sample, loop, by_engine
        self._batches, self._calibration, self._tolerance = batches, calibration, tolerance
        self._wider = sample.wider()
        self._endless: dict[str, list[str]] = {}
        self._times: dict[str, float] = {}  # of the wider set, or the handful where there is none, by norm mode
        self.problems: dict[str, None] = {}

    def result(self, setting: str) -> Check:
        """Compare everything."""
        paths, layers, x = self._sample.paths, self._layers, self._batches[0][0]
        traces = trace_paths(layers, paths, self._loop, self._tolerance)
        self.problems |= dict.fromkeys(traces.problems)
        runs = list(traces.steps)
        norms = tuple(self._norm(norm, runs) for norm in MODES)
        for some, modes in self._endless.items():
            self.problems[f"no finite score alone with norm={', '.join(modes)}: the paths {some}"] = None
        costs = exports = Agreement(None, "not compared: no path runs alone")
        if runs:
            net, architectures = supernet_of(layers, runs)
            costs = compare_costs(net, architectures, x)
            exports = compare_exports(net, architectures, runs, self._loop, x, self._tolerance)
        shared = tuple(together(layers, runs[0], self._loop, x)) if runs else ()
        used = sum(len({path[depth] for path in paths}) for depth in range(len(layers)))
        return Check(
            tuple(paths), (used, sum(map(len, layers))), setting, norms, tuple(self.problems), (), shared,
            tuple(shapes(traces)), self._tree(norms, traces.seconds()), costs, exports,
        )  # fmt: skip

    def _norm(self, norm: str, paths: Sequence[Path]) -> NormCheck:
        """Compare the scores in one norm mode, and keep the times."""
        alone, seconds, failure = self._alone(norm, paths)
        finite = [path for path, score in alone.items() if math.isfinite(score)]
        nothing = NormCheck(norm, None, None, self._tolerance, seconds, math.nan)
        if len(finite) < len(alone):
            self._endless.setdefault(", ".join(digits(path) for path in alone if path not in finite), []).append(
                repr(norm)
            )
        if not finite:
            return replace(nothing, refused=f"each path fails alone: {failure}") if failure else nothing
        differences: dict[Path, float] = {}
        try:
            seconds_few, table = _shortest(lambda: self._scores(norm, finite))
            tables, self._times[norm] = [table], seconds_few
            if self._wider:
                self._times[norm], wider = _shortest(lambda: self._scores(norm, self._wider))
                tables.append(wider)
        except InputError as error:
            if "expected finite scores" in str(error):
                self.problems[f"with norm={norm!r} rate says: {error}"] = None
            elif failure:
                self.problems[f"with norm={norm!r}, a path fails alone: {failure}"] = None
            return replace(nothing, refused=one_line(error))
        least = _SMALL * max(abs(alone[path]) for path in finite)
        for path in finite:
            scale = max(abs(alone[path]), least) or 1.0
            differences[path] = max(abs(table[path] - alone[path]) / scale for table in tables)
        worst = max(finite, key=differences.__getitem__)
        found = replace(nothing, difference=differences[worst], path=worst, engine=seconds_few / len(finite))
        if not found.ok:
            self.problems[f"with norm={norm!r}, rate gives the path {digits(worst)} the score {tables[0][worst]:.6g}, and "
                          f"alone it has {alone[worst]:.6g}"] = None  # fmt: skip
        return found

    def _alone(self, norm: str, paths: Sequence[Path]) -> tuple[dict[Path, float], float, str]:
        """Scores of paths alone, mean seconds per path, and the first failure."""
        scores, seconds, failure = dict[Path, float](), 0.0, ""
        for path in paths:
            try:
                scores[path], spent = self._loop.score(path, norm)
                if spent < _SHORT / len(paths):
                    spent = min(spent, self._loop.score(path, norm)[1])
                seconds += spent
            except Exception as error:
                failure = failure or one_line(error)
        return scores, seconds / max(1, len(scores)), failure

    def _scores(self, norm: str, paths: Sequence[Path], repeats: int = 1) -> Any:
        self._loop.restore()
        calibration = self._calibration if norm == "recalibrate" else None
        return self._rate(batches=[*self._batches] * repeats, norm=norm, paths=paths, calibration=calibration)

    def _tree(self, norms: Sequence[NormCheck], seconds: Sequence[float]) -> Tree:
        """Work of all paths, with an estimate: a set-up, and time in proportion to the layer runs that the tree needs."""
        widths = self._sample.widths
        timed = [norm for norm in norms if norm.norm in self._times and norm.norm != "recalibrate" and norm.ok]
        if widths is None or not timed or self._sample.everything or widths[-1] > _RATED:
            return Tree(None if widths is None else tuple(widths))
        norm, some = timed[-1], self._wider or self._sample.paths
        once = self._times[norm.norm]
        repeats = 5 if once < _SHORT else 2
        more, _ = _timed(lambda: self._scores(norm.norm, some, repeats))
        running = max(more - once, 0.05 * once) / (repeats - 1)  # without the set-up
        work = sum(width * each for width, each in zip(widths, seconds))
        whole = max(0.0, once - running) + running * work / self._work(some, seconds)
        return Tree(tuple(widths), norm.norm, norm.alone * widths[-1], whole)

    def _work(self, paths: Sequence[Path], seconds: Sequence[float]) -> float:
        """Time of the layer runs that paths need when each prefix runs once, as measured alone."""
        tree = build_tree([len(layer) for layer in self._layers], paths)
        return sum(width * each for width, each in zip(tree_widths(tree), seconds))


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Time of a call in seconds, and its result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _shortest(call: Callable[[], Any]) -> tuple[float, Any]:
    """Time of a call in seconds, the shorter of two where it is short, and its result."""
    seconds, result = _timed(call)
    return (seconds if seconds > _SHORT else min(seconds, _timed(call)[0])), result


def _placed(target: Any, device: torch.device) -> Any:
    return target.detach().to(device) if isinstance(target, Tensor) else target


def _tolerance(layers: Sequence[Sequence[nn.Module]], engine: Settings) -> float:
    kinds = {kind for layer in layers for module in layer for kind in input_dtypes(module)[:1]} | {engine.dtype}
    return max(_TOLERANCES.get(kind, _TOLERANCE_HALF) for kind in kinds if kind is not None)


def _setting(pairs: Sequence[Batch], device: torch.device, layers: Sequence[Sequence[nn.Module]]) -> str:
    kinds = sorted(
        {str(kind).removeprefix("torch.") for layer in layers for m in layer for kind in input_dtypes(m)[:1]}
    )
    sizes = ", ".join(str(list(x.shape)) for x, *_ in pairs)
    return f"batches {sizes}; {device}, {'/'.join(kinds)}, {torch.get_num_threads()} thread(s)"


@contextlib.contextmanager
def _collected() -> Iterator[list[warnings.WarningMessage]]:
    """Collect all warnings, and issue those that are not pynas's again at the end, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    others = {(str(each.message), each.category, each.filename, each.lineno) for each in caught if not _is_ours(each)}
    for text, category, filename, line in sorted(others, key=str):
        warnings.warn_explicit(text, category, filename, line)


def _is_ours(warning: warnings.WarningMessage) -> bool:
    return str(warning.message).startswith("[")


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Run compiled modules without their compiler, which would compile every copy."""
    if "torch._dynamo" in sys.modules:
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield
