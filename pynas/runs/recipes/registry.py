"""The methods that the commands know, by name, and the runs that are made with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pynas import spaces
from pynas.runs.recipes import bossnas as flow_bossnas
from pynas.runs.recipes import dna as flow_dna
from pynas.runs.recipes import dna_plus as flow_dna_plus
from pynas.runs.recipes import dna_plus_plus as flow_dna_pp
from pynas.runs.recipes import prenas as flow_prenas
from pynas.runs.recipes import whole as flow_whole
from pynas.runs.recipe import Flow
from pynas.runs.lock import hold
from pynas.runs.settings import CONFIG, Settings, open_run, read_settings
from pynas.runs.stages import Run
from pynas.errors import InputError
from pynas.spaces.autoformer import TransformerSpec
from pynas.spaces.bignas import ResolutionSpec

FLOWS: dict[str, Flow] = {
    "dna": flow_dna.FLOW,
    "dna-plus": flow_dna_plus.FLOW,
    "dna-pp": flow_dna_pp.FLOW,
    "bossnas": flow_bossnas.FLOW,
    **flow_whole.FLOWS,
    "prenas": flow_prenas.FLOW,
}


def new_run(folder: Path | None, given: Mapping[str, Any], device: str = "auto", spread: str = "data") -> Run:
    """The run in `folder`, made if it is new, with the settings that the user named (None: left open).

    Raises:
        InputError: an unknown method, a folder of something else, or one that another process works in.
    """
    if folder is None or not (folder / CONFIG).exists():
        flow = flow_of(given.get("method") or Settings.method, given.get("space"))
        given = {**given, "space": given.get("space") or flow.space, "epochs": given.get("epochs") or flow.epochs}
    folder, settings = open_run(folder, given)
    hold(folder)
    return Run(folder, settings, flow_of(settings.method, settings.space), device, spread)


def old_run(folder: Path, device: str = "auto") -> Run:
    """The run in `folder`.

    Raises:
        InputError: no run there, or another process works there.
    """
    settings = read_settings(folder)
    hold(folder)
    return Run(folder, settings, flow_of(settings.method, settings.space), device)


def flow_of(method: str, space: str | None = None) -> Flow:
    """The named method's flow in a space; None: the method's own.

    Raises:
        InputError: no such method or space; the message lists the names.
    """
    if method not in FLOWS:
        raise InputError(f"[run] expected a method of {', '.join(FLOWS)}, got {method!r}")
    if method in flow_prenas.BASELINES and space is not None and _shares_slices(space):
        return flow_prenas.BASELINES[method]
    return FLOWS[method]


def _shares_slices(space: str) -> bool:
    """Whether a space's architectures are slices of its largest network, as AutoFormer's and BigNAS's."""
    first = spaces.get(space).blocks[0][0].layers[0][0]
    return isinstance(first, TransformerSpec | ResolutionSpec)
