"""Stand-ins of other projects' supernets: pynas.rate, with everything it sets up, against each path alone in a plain loop."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import random
import warnings

from bench._cost import agreement, repeated, timed
from bench.families import FAMILIES
from pynas.errors import InputError


def measure_others(arguments: argparse.Namespace) -> None:
    """Supernets of other projects' style, on the CPU: (a) each path alone by the project's own code, (c) pynas.rate."""
    ratios = {name: _ratio(name, arguments) for name in arguments.family}
    slow = [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio < 0.95]
    print(f"below 0.95 x (a): {', '.join(slow) or 'none'}")


def _ratio(name: str, arguments: argparse.Namespace) -> float:
    """Time of (a) over that of (c); not a number where pynas refuses the family."""
    family, norm = FAMILIES[name]("bench"), arguments.norm
    if arguments.batches:
        given = itertools.islice(itertools.cycle(family.batches), arguments.batches)
        family = dataclasses.replace(family, batches=list(given))
    paths = family.paths()
    sample = sorted(random.Random(0).sample(paths, min(arguments.sample, len(paths))))
    family.alone(norm, sample[:2])
    runs = [timed(lambda: family.alone(norm, sample), "cpu") for _ in range(arguments.repeat)]
    median = sorted((cost for cost, _ in runs), key=lambda cost: cost.seconds)[len(runs) // 2]
    reference = median * (len(paths) / len(sample))
    reference.report(f"{name} (a)", len(paths), reference, f"{len(sample)} of {len(paths)} paths timed")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cost, table = repeated(lambda: family.rate(norm), arguments)
    except InputError as error:
        print(f"{name} (c): {error}", flush=True)
        return float("nan")
    worst = max(abs(table[path] / score - 1) for path, score in runs[-1][1].items())
    said = sorted({str(warning.message) for warning in caught})
    cost.report(f"{name} (c)", len(paths), reference, "; ".join([agreement(len(sample), worst), *said]))
    return reference.seconds / cost.seconds
