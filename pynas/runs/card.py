"""The model card of a run's network, for a hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pynas import export
from pynas._version import __version__
from pynas.costs import UNITS, count_module
from pynas.quantities import show
from pynas.runs.limits import describe
from pynas.runs.report import command_lines
from pynas.runs.results import Results
from pynas.runs.run import Run

_FAMILY = "G. Wang et al., DNA Family: Boosting Weight-Sharing NAS with Block-Wise Supervisions, TPAMI 2024"
# By method.
PAPERS = {
    "dna": "C. Li et al., Block-wisely Supervised Neural Architecture Search with Knowledge Distillation, CVPR 2020",
    "dna-plus": _FAMILY,
    "dna-pp": _FAMILY,
    "bossnas": "C. Li et al., BossNAS: Exploring Hybrid CNN-transformers with Block-wisely Self-supervised Neural Architecture "
               "Search, ICCV 2021",
    "pinas": "J. Peng et al., Pi-NAS: Improving Neural Architecture Search by Reducing Supernet Training Consistency Shift, "
             "ICCV 2021",
    "prenas": "H. Wang et al., PreNAS: Preferred One-Shot Learning Towards Efficient Neural Architecture Search, ICML 2023",
    "spos": "Z. Guo et al., Single Path One-Shot Neural Architecture Search with Uniform Sampling, ECCV 2020",
    "fairnas": "X. Chu et al., FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search, ICCV 2021",
}  # fmt: skip
_LOADING = """## How to load it

```python
import pynas, timm  # pynas registers pynas_subnet with timm

model = timm.create_model("hf-hub:USER/NAME", pretrained=True)  # or local-dir:FOLDER; features_only=True, num_classes=7, ...
images = timm.data.create_transform(**timm.data.resolve_model_data_config(model))  # transform of a PIL image
```"""


def model_card(run: Run, subnet: Path) -> str:
    """Return the README.md of a network of a run: how it was found, what it reaches, how to load it and to repeat the search.

    The licence is left to whoever publishes it. Names of folders on this machine are left out.

    subnet: the network's file.
    """
    model, metadata = export.load_subnet(subnet, run.space)
    results, trained_on = Results(run.folder), _public(_data(run, subnet))
    scaled = f", scaled by {metadata['phi']}" if metadata.get("phi") else ""
    again = "\n".join(command_lines(results)).replace(run.settings.data, _public(run.settings.data))
    return "\n\n".join([
        _head(_data(run, subnet)),
        f"# {metadata['architecture']} of {run.space.name}{scaled}",
        f"An image classifier found by pynas {__version__}, trained on {trained_on}: {metadata['num_classes']} classes, images of "
        f"{metadata['image_shape'][-1]} pixels.",
        "## The network\n\n" + _table(_facts(run, model, metadata, results.search)),
        "## How it was found\n\n" + _found(run, metadata, results.search),
        _LOADING,
        f"## How to repeat the search\n\n```sh\n{again}\n```",
        f"## What it cites\n\n{PAPERS.get(run.settings.method, 'pynas')}.\n",
    ])  # fmt: skip


def _data(run: Run, subnet: Path) -> str:
    """Name of the images that a network's weights were trained on: another than the run's where they are fine-tuned."""
    beside = subnet.with_name("config.json")
    content = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
    return content.get("data", run.settings.data)


def _public(data: str) -> str:
    """Name of a data set without the folders of this machine."""
    kind, _, known = data.partition(":")
    return data if known and not Path(known).exists() else Path(known or kind).name


def _head(data: str) -> str:
    """YAML head of the card, as the hub reads it; it names data sets that others can have."""
    kind, _, known = data.partition(":")
    datasets = [known or kind] if (known and not Path(known).exists()) or kind in ("cifar10", "cifar100") else []
    head = {"library_name": "timm", "pipeline_tag": "image-classification",
            "tags": ["image-classification", "timm", "pynas", "neural-architecture-search"],
            **({"datasets": datasets} if datasets else {}), "metrics": ["accuracy"]}  # fmt: skip
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}# license: name one before you publish\n---"


def _facts(run: Run, model: Any, metadata: Mapping[str, Any], searched: Mapping[str, Any] | None) -> dict[str, str]:
    """Figures of the network, by their names."""
    counted, _ = count_module(model, tuple(metadata["image_shape"]))
    written = metadata["architecture"].replace("|", r"\|")  # a bar would end the table's cell
    facts = {"task": "image classification", "architecture": f"`{written}`", "search space": run.space.name}  # fmt: skip
    facts |= {UNITS[name]: show(counted[name]) for name in ("params", "madds")}
    if "test_accuracy" in metadata:
        facts["top-1 on the test images"] = f"{metadata['test_accuracy']:.2%}"
    trained = metadata.get("retraining")
    facts["weights"] = f"`{trained['recipe']}`, {trained['epochs']} epochs" if trained else "those of the supernet"
    entry = _entry(metadata, searched)
    if searched is not None and "latency" in entry and not metadata.get("phi"):
        note = searched.get("latency_table", {})
        where = f"{note['device']}, batch of {note['batch_size']}" if note else "the device of the search"
        facts[UNITS["latency"]] = f"{entry['latency']:.3f}, the sum over its layers on {where}"
    return facts


def _entry(metadata: Mapping[str, Any], searched: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Line of search.json about the network; empty where the search did not find it."""
    found = [] if searched is None else searched["found"]
    return next((entry for entry in found if entry["architecture"] == metadata["architecture"]), {})


def _found(run: Run, metadata: Mapping[str, Any], searched: Mapping[str, Any] | None) -> str:
    """Words on the method, the limits and the certificate of the search."""
    settings = run.settings
    text = f"Method: `{settings.method}`, recipe `{settings.recipe}`. {run.recipe.summary}"
    entry = _entry(metadata, searched)
    if searched is None or not entry:
        return f"{text}\n\nThis architecture was named, not searched for."
    text += (f"\n\nSearched among {searched['space_size']:,} architectures; limits: {describe(searched)}. This is number "
             f"{searched['found'].index(entry) + 1}, with the score {entry['score']:.6g} (lower is better).")  # fmt: skip
    if "rated" in searched:
        return text + f" By trial: {searched['rated']:,} were rated, and others were not looked at."
    return text + (f" Exact: {searched['visited']:,} nodes visited, {searched['pruned']:,} pruned; no architecture within the "
                   f"limits scores below {searched['lower_bound']:.6g}.")  # fmt: skip


def _table(facts: Mapping[str, str]) -> str:
    rows = (f"| {name} | {value} |" for name, value in facts.items())
    return "\n".join(["| | |", "|---|---|", *rows])
