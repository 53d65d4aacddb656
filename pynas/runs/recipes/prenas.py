"""PreNAS: select without training, train the preferred architectures, measure each, export the best within limits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.checked import AtLeastOne, fields
from pynas.errors import InputError
from pynas.evaluation import ErrorRate
from pynas.files import header, read_json, write_json
from pynas.methods import PreNAS
from pynas.methods.whole.subnets import WHOLE
from pynas.quantities import cost
from pynas.runs.defaults import Defaults
from pynas.runs.export import export_trained
from pynas.runs.images import check_rated
from pynas.runs.options import Options, loader_options
from pynas.runs.rate import scores_folder
from pynas.runs.recipes.training import train_supernet
from pynas.runs.run import Request, Run
from pynas.runs.search import find_among, gather_costs
from pynas.runs.select import FILE, Selection, fresh_net, preferred_space, save, trained_net
from pynas.spaces import Architecture
from pynas.train.team import is_first_process
from pynas.zero_cost import PreferredSpace, load_preferred

_ACCURACIES = "pynas.accuracies"
# Options of the selection, as of `pynas select`; None: what suits the space.
_SELECTION = {
    "interval": (str | float, "50k"),
    "top": (AtLeastOne, 1),
    "cost": (Literal["params", "madds", "memory", "latency"], "params"),
    "normaliser": (str | None, None),
    "allocation": (str | None, None),
    "images": (AtLeastOne, 64),
}
# selector: select before the training with fresh weights, or after one over the whole space with the trained ones (figure 4).
# calibration_batches: training batches to re-estimate batch norm on, where there is one.
_STAGES = {"selector": (Literal["pre", "post"], "pre"), "calibration_batches": (AtLeastOne, 4)}
# Table 9 and section 4.1. The paper omits the rate of stochastic depth, the length of the warm-up and the number of repeats:
# these are AutoFormer's. 1,024 images a step are the mean of 8 batches. It splits no images off: nothing is searched by them.
_PAPER = {"learning_rate": 1e-3, "min_rate": 2e-5, "warmup_epochs": 20, "weight_decay": 0.05, "label_smoothing": 0.1,
          "drop_path": 0.1, "erasing": 0.25, "repeats": 3, "interval": "1M", "epochs": 500, "batch_size": 128,
          "accumulate": 8}  # fmt: skip
_MIXED = {"mixup": 0.8, "cutmix": 1.0}
RECIPES: dict[str, dict[str, Any]] = {
    "small": {"warmup_epochs": 2, "epochs": 40, "batch_size": 64},
    "paper": _PAPER,
    "paper-tiny": {**_PAPER, "weight_decay": 0.02, "augmentation": "rand-m9-n2-mstd0.5-inc1"},
    "paper-small": {**_PAPER, **_MIXED, "augmentation": "v0r-mstd0.5"},
    "paper-base": {**_PAPER, **_MIXED, "augmentation": "rand-m10-n3-mstd0.5-inc1", "erasing_count": 2},
}
# The released code's normaliser.
RECIPES |= {name.replace("paper", "code"): {**RECIPES[name], "normaliser": "balance"} for name in list(RECIPES)[1:]}


class PreNASRecipe:
    """`pynas run --method prenas`; with a sampling of the baselines, `--method spos` and `fairnas` in spaces of slices.

    sampling: None leaves the option to the user; "spos" or "fairnas" trains over the whole space, and rates the preferred
    architectures all the same. These are selected before the training or, with the option selector=post, after it: figure 4's
    redundant training with the pre-selector and with the post-selector. Both take random images and no labels (section 3.2).
    """

    summary = (PreNAS.__doc__ or "").partition("\n")[0]
    defaults = Defaults(space="autoformer-mini", loss="error", losses=(), norms=("recalibrate",), averages=False)

    def __init__(self, sampling: str | None = None):
        self._fixed: dict[str, Any] = {} if sampling is None else {"sampling": sampling}

    def options(self) -> Options:
        """Return the method's options, and those of the selection, the images and the calibration."""
        stages = {**_SELECTION, **_STAGES, **loader_options()}
        return Options(fields(PreNAS, tuple(self._fixed)), stages, RECIPES)

    def teacher(self, run: Run) -> None:
        """Return None: labels teach."""

    def build(self, run: Run) -> PreNAS:
        """Return the method on the preferred architectures; with selector=post on none, as these are not selected yet.

        Raises:
            InputError: selector=post with a sampling of the preferred architectures.
        """
        options = {**self._fixed, **run.method_options}
        if run.options["selector"] == "post":
            if options["sampling"] not in WHOLE:
                raise InputError(f"[prenas] expected a sampling of {', '.join(WHOLE)} for selector=post, which selects after a "
                                 f"training over the whole space, got {options['sampling']!r}")  # fmt: skip
            if not run.rehearsal:
                return PreNAS(run.net, **options)
        return PreNAS(run.net, [member.architecture for member in self._preferred(run).members], **options)

    def train(self, run: Run) -> None:
        """Select the preferred architectures and train the supernet on them; with selector=post train, then select."""
        train_supernet(run)
        if run.rehearsal:
            return
        # Every process loads the trained weights, as this waits for the first one; the first one selects.
        trained = trained_net(run) if run.options["selector"] == "post" and not (run.folder / FILE).exists() else None
        if is_first_process():
            self._preferred(run, trained)

    def rate(self, run: Run, loss: str | None, norm: str) -> None:
        """Measure the accuracy of every preferred architecture on the validation images; keep it as preferred.json."""
        method, digest = run.trained_method()
        if not is_first_process():
            return
        batches = run.options["calibration_batches"]
        metadata = {"checkpoint": digest, "data": run.data.fingerprint, "calibration_batches": batches}
        path = scores_folder(run) / FILE
        if not path.exists() or read_json(path, _ACCURACIES)["metadata"] != metadata:
            preferred = [member.architecture for member in self._preferred(run).members]
            accuracies = 1 - _errors(run, method.net, preferred)
            named = {run.space.format(a): float(accuracy) for a, accuracy in zip(preferred, accuracies)}
            write_json(path, header(_ACCURACIES, **metadata) | {"accuracies": named})
        run.count_costs()

    def find(self, run: Run, request: Request) -> dict[str, Any]:
        """Find the most accurate preferred architectures within the limits.

        Raises:
            InputError: a request that needs a rating of the whole space.
            InfeasibleError: no preferred architecture keeps the limits.
        """
        if request.costs:
            raise InputError(
                "[search] expected costs of pynas's own, as prenas keeps no tables of paths, got a file of costs"
            )
        costs, space = gather_costs(run, request), self._preferred(run)
        content = read_json(scores_folder(run) / FILE, _ACCURACIES)
        check_rated(content["metadata"], run.data, scores_folder(run) / FILE)
        accuracies = content["accuracies"]
        scored = [
            (member.architecture, 1 - accuracies[run.space.format(member.architecture)]) for member in space.members
        ]
        return find_among(run, request, scored, costs, "the preferred selection")

    def score(self, run: Run, networks: Sequence[Architecture], loss: str | None, norm: str) -> np.ndarray:
        """Measure the errors of some networks."""
        return _errors(run, run.trained_method()[0].net, networks)

    def export(self, run: Run, architecture: Architecture | None) -> dict[str, Any]:
        """Take a network out of the supernet."""
        return export_trained(run, architecture)

    def _preferred(self, run: Run, trained: tuple[Any, str] | None = None) -> PreferredSpace:
        """Return the preferred space, selected once with the run's fresh or trained weights and kept as preferred.json.

        trained: the trained supernet and the digest of its weights; None to load it where it is needed.
        """
        path = run.folder / FILE
        if path.exists():
            return load_preferred(path, run.space)
        chosen = {name: run.options[name] for name in _SELECTION}
        chosen["interval"] = cost(chosen["cost"], chosen["interval"])
        selection = Selection(**chosen, seed=run.settings.seed)
        if run.options["selector"] == "pre" or run.rehearsal:
            net, digest = fresh_net(run.space, run.data.num_classes, run.settings.seed), None
        else:
            net, digest = trained or trained_net(run)
        space, seconds = preferred_space(net, selection, run.device, run.progress.count("select"))
        save(run.folder, space, seconds, digest)
        return space


def _errors(run: Run, net: Any, networks: Sequence[Architecture]) -> np.ndarray:
    """Return the errors of networks on the validation images, `[N]`; batch norm, where there is one, is re-estimated."""
    batches = itertools.islice(run.loader("train"), run.options["calibration_batches"])
    has_norm = any(isinstance(module, _BatchNorm) for module in net.modules())
    rating = ErrorRate(net, run.loader("val"), batches, "recalibrate" if has_norm else "running")
    return rating.many(networks, run.progress.count())
