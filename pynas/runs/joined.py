"""The scores that a search goes by: those of the rating, joined with a cost as prior, or fitted to trained networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pynas import search
from pynas.errors import InputError
from pynas.files import read_json
from pynas.rating import Scores
from pynas.rating.averaging import combined, covariance
from pynas.runs.request import Request

CALIBRATION = "pynas.calibration"
FOLDER = "calibration"


@dataclass(frozen=True)
class Joined:
    """Scores of a search, and what search.json says of them.

    scale: factor from the members' averaged scores to these; None for calibrated ones, which have no error bar of seeds.
    """

    scores: Scores
    note: dict[str, Any] = field(default_factory=dict)
    scale: float | None = 1.0


def joined_scores(folder: Path, request: Request, members: Sequence[Scores], costs: Any) -> Joined:
    """Return the scores of a request: the members' average, with its prior, or the run's calibrated ones.

    Raises:
        InputError: a prior beside calibrated scores, either beside a product of scores, a weight without a prior, no
            calibration, or as `pynas.search.with_prior`.
    """
    scores = combined(members)
    if request.prior is None and request.prior_weight != "auto":
        raise InputError(f"[search] expected --prior beside --prior-weight {request.prior_weight}, got none")
    if request.prior is None and not request.calibrated:
        return Joined(scores)
    if request.prior is not None and request.calibrated:
        raise InputError(
            f"[search] expected --prior or --calibrated, which weighs costs itself, got both ({request.prior})"
        )
    if request.join != "sum":
        raise InputError(f"[search] expected join sum, as standardised scores are not above 0, got {request.join}")
    if request.prior is None:
        return Joined(calibrated_scores(folder, scores), {"calibrated": calibration_note(folder)}, None)
    if request.prior_weight == "auto":
        chosen = search.agreed_weight(members, costs, request.prior)
        weight, agreed = chosen.weight, asdict(chosen)
    else:
        weight, agreed = float(request.prior_weight), {}
    spread = float(np.sqrt(covariance([scores])[0, 0]))
    note = {"cost": request.prior, **agreed, "weight": weight, "auto": bool(agreed)}
    if request.prior in costs.metadata.get("fitted", {}):
        note["fitted"] = costs.metadata["fitted"][request.prior]
    return Joined(search.with_prior(scores, costs, request.prior, weight), {"prior": note}, 1 / (spread or 1.0))


def keep_joined(folder: Path, joined: Joined) -> None:
    """Write the scores of a search where they are not those of the rating, for the report and the ranking."""
    if joined.note:
        joined.scores.save(folder / "searched")


def scores_of_search(folder: Path, content: Mapping[str, Any] | None, scores: Scores) -> Scores:
    """Return the scores that the search of a search.json went by; those of the rating, `scores`, where it named no others."""
    if content is not None and ("prior" in content or "calibrated" in content):
        return Scores.load(folder / "searched", scores.space)
    return scores


def calibrated_scores(folder: Path, scores: Scores) -> Scores:
    """Read the scores that `pynas calibrate` fitted.

    Raises:
        InputError: none, or ones that were fitted to another rating than `scores`.
    """
    where = folder / FOLDER / "scores"
    if not Scores.complete(where, scores.space):
        raise InputError(
            f"[search] expected calibrated scores in {where}, got none; run `pynas calibrate {folder}` first"
        )
    fitted = Scores.load(where, scores.space)
    for name, value in scores.metadata.items():
        if fitted.metadata.get(name) != value:
            raise InputError(f"[search] expected calibrated scores of {name} {value!r}, as the run is rated by, got "
                             f"{fitted.metadata.get(name)!r}; run `pynas calibrate {folder}` again")  # fmt: skip
    return fitted


def calibration_note(folder: Path) -> dict[str, Any]:
    """Return the part of calibration.json that search.json repeats."""
    content = read_json(folder / FOLDER / "calibration.json", CALIBRATION)
    return {name: content[name] for name in ("model", "networks", "tau", "tau_interval", "uncalibrated_tau")}


def reranked(folder: Path, scores: Scores, costs: Any, found: Sequence[search.Entry]) -> list[dict[str, float]]:
    """Return for each found architecture the accuracy that the calibration's Gaussian process predicts, with its deviation.

    scores: of the rating. The order by these is one among the found only: other architectures may be better.
    """
    content = read_json(folder / FOLDER / "calibration.json", CALIBRATION)
    trained = {scores.space.parse(name): accuracy for name, accuracy in content["accuracies"].items()}
    predicted, deviation = search.gaussian_process(
        scores, costs, list(trained), list(trained.values()), [entry.architecture for entry in found]
    )
    return [{"predicted": float(p), "deviation": float(d)} for p, d in zip(predicted, deviation)]


def describe_joined(content: Mapping[str, Any]) -> list[str]:
    """Say in sentences what the scores of a search.json are; none where they are those of the rating."""
    if "prior" in content:
        prior = content["prior"]
        text = f"Scores are standardised, with {prior['weight']:.3g} times the standardised {prior['cost']} as prior"
        if "fitted" in prior:
            text += (f" (a sum over layers, fitted to {prior['fitted']['networks']} networks with fresh weights; its tau with the "
                     f"proxy of others is {prior['fitted']['tau']:.2f})")  # fmt: skip
        if not prior["auto"]:
            return [f"{text}."]
        if prior["reliability"] is None:
            return [f"{text}: with one seed the agreement that chooses the weight is not known, so that it is 1."]
        return [f"{text}, a weight from the agreement of {prior['members']} seeds: their mean has the reliability "
                f"{prior['mean_reliability']:.2f}, and correlates with the prior by {prior['correlation']:.2f}."]  # fmt: skip
    if "calibrated" in content:
        fitted = content["calibrated"]
        low, high = fitted["tau_interval"]
        lines = [f"Scores are minus the accuracy predicted from {fitted['networks']} trained networks: cross-validated tau "
                 f"{fitted['tau']:.2f} ({low:.2f} to {high:.2f}), the rating's own {fitted['uncalibrated_tau']:.2f}."]  # fmt: skip
        if fitted["model"] == "gp":
            lines.append("The architectures found are ordered by a Gaussian process; that order is not exact: it is one of these "
                         "few only.")  # fmt: skip
        return lines
    return []
