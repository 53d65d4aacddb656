"""Options that several subcommands share; typer reads these annotations at run time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

RunFolder = Annotated[Path, typer.Option("--run", help="Folder of the run.", show_default=False)]
NewRunFolder = Annotated[
    Path | None,
    typer.Option("--run", help="Folder of the run; an existing one is gone on with. Default: a new one under runs/."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
RUNTIMES = "torch, compile, export, onnxruntime, onnxruntime-int8, openvino, openvino-int8 or tensorrt."
Runtime = Annotated[str, typer.Option(help=f"What serves the networks: {RUNTIMES}")]
Threads = Annotated[int | None, typer.Option(help="Threads of the CPU. [default: torch's]", show_default=False)]
ServedBatch = Annotated[int, typer.Option("--batch-size", help="Images at once.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log", help="Also log to tensorboard, mlflow, wandb or trackio. May be repeated.", show_default=False
    ),
]
Spread = Annotated[
    str,
    typer.Option(
        help="What processes of torchrun share: data (every batch), or blocks (of dna and dna-plus; each group of "
        "processes trains blocks of its own)."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Time a few steps, print sizes, costs, memory and time, and leave nothing behind."),
]
Method = Annotated[str | None, typer.Option(help="Method, see `pynas methods`. [default: dna]", show_default=False)]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option("--option", help="NAME=VALUE: an option of the method. May be repeated.", show_default=False),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="Values of options, epochs and batch size by name: small, paper, for some methods code; see `pynas methods`. "
        "[default: paper for images of 224 pixels and more, else small]",
        show_default=False,
    ),
]
Space = Annotated[
    str | None, typer.Option(help="Search space, see `pynas spaces`. [default: the method's]", show_default=False)
]
Data = Annotated[
    str | None,
    typer.Option(
        help="digits, cifar10, cifar100, an .npz file, an image folder, torchvision:NAME, hf:NAME or hf:FOLDER, or shards as "
        "'train-{000..127}.tar'. [default: digits]",
        show_default=False,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="A timm name (or hf-hub:NAME, local-dir:FOLDER), torchvision:NAME[:WEIGHTS], hf:NAME or hf:FOLDER, or small: trained "
        "on the spot. [default: small]",
        show_default=False,
    ),
]
Taps = Annotated[
    str | None,
    typer.Option(
        help="The teacher's submodules after each block, separated by commas. [default: those of the blocks' sizes]",
        show_default=False,
    ),
]
Pretrained = Annotated[
    bool | None,
    typer.Option("--pretrained/--no-pretrained", help="Whether a named teacher comes with weights. [default: it does]"),
]
Epochs = Annotated[int | None, typer.Option(help="Training epochs. [default: the recipe's]", show_default=False)]
KeepEpochs = Annotated[
    str | None,
    typer.Option(
        help="Epochs after which weights are kept for `pynas stability`, separated by commas. [default: none]",
        show_default=False,
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        help="every=N: keep the weights after every N-th epoch; last=M: of those only the newest M. May be repeated, and "
        "differ when a run goes on. [default: none]",
        show_default=False,
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="Images per batch. [default: the recipe's]", show_default=False)]
Accumulate = Annotated[
    int | None,
    typer.Option(help="Batches whose mean gradient makes one step. [default: the recipe's]", show_default=False),
]
ImageSize = Annotated[
    int | None, typer.Option(help="Side of the images in pixels. [default: the space's]", show_default=False)
]
LimitImages = Annotated[
    int | None,
    typer.Option(
        help="Search with so many of the training images, classes in equal shares. [default: all]", show_default=False
    ),
]
ValFraction = Annotated[
    float | None,
    typer.Option(help="Part of the training images that paths are rated on. [default: 0.2]", show_default=False),
]
ValImages = Annotated[
    int | None,
    typer.Option(
        help="Rate paths on so many of the training images, instead of --val-fraction. [default: the recipe's]",
        show_default=False,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything. [default: 0]", show_default=False)]
Seeds = Annotated[
    int | None,
    typer.Option(
        help="Train and rate so many supernets, of the seeds from --seed on, and average their scores: they get an error bar. "
        "A run may be given more later. [default: 1]",
        show_default=False,
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        help="Score of a path: relative_l1, mse or cosine of its block's output; kl, cross_entropy or error at the teacher's "
        "end. [default: the method's]",
        show_default=False,
    ),
]
Norm = Annotated[
    str | None,
    typer.Option(
        help="Batch norm while rating: batch (per path) or running. [default: the method's]", show_default=False
    ),
]
MaxMAdds = Annotated[
    str | None,
    typer.Option(
        help="At most so many multiply-adds for one image: 400M, 60% (of the largest network), or '60% of teacher'. "
        "[default: no limit]",
        show_default=False,
    ),
]
MaxParams = Annotated[
    str | None,
    typer.Option(help="At most so many parameters: 5.3M, 60%, or '60% of teacher'. [default: no limit]",
                 show_default=False),
]  # fmt: skip
Prior = Annotated[
    str | None,
    typer.Option(
        help="Join the scores with a cost, more of which is taken for better: madds, params, log-width; or a zero-cost "
        "proxy: vkdnw-agg, az-nas. [default: none]",
        show_default=False,
    ),
]
PriorWeight = Annotated[
    str,
    typer.Option(
        help="Weight of the prior beside the standardised scores: a number, or auto: by the seeds' agreement."
    ),
]
TopK = Annotated[int, typer.Option(min=1, help="How many architectures to find.")]


Architecture = Annotated[
    str | None,
    typer.Option(
        help="Which one, in its string form. [default: the exported one, else the best found]", show_default=False
    ),
]
TrainingEpochs = Annotated[int | None, typer.Option("--epochs", help="[default: the recipe's]", show_default=False)]
TrainingBatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", help="The learning rate follows in proportion. [default: the recipe's]",
                 show_default=False),
]  # fmt: skip
TrainingOptions = Annotated[
    list[str] | None,
    typer.Option("--option", help="NAME=VALUE: another number of the recipe, as mixup=0.2. May be repeated.",
                 show_default=False),
]  # fmt: skip
Amp = Annotated[bool, typer.Option("--amp", help="bfloat16 autocast.")]
TestSize = Annotated[
    int | None,
    typer.Option(
        help="Measure at images of this side too, without training on them. [default: no]", show_default=False
    ),
]
SyncBatchNorm = Annotated[
    bool,
    typer.Option("--sync-batch-norm", help="Batch norms of several processes, each with a GPU, normalise the whole batch, not "
                 "each its share."),
]  # fmt: skip
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes that read and augment images; 0: none beside this one. [default: beside a GPU and for images on disk "
        "this process's share of the cores, at most 16; else 0]",
        show_default=False,
    ),
]


def policy(keep: list[str] | None) -> Any:
    """Return the `pynas.train.Keep` of the option --keep.

    Raises:
        InputError: no such policy.
    """
    from pynas.train.keep import Keep

    return Keep.of(keep or ())


def settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings among a command's arguments, as `pynas.runs.create` takes them; None stands for open ones."""
    from pynas.runs.settings import Settings, method_options

    named = {name: arguments[name] for name in Settings.model_fields if name != "options"}
    return {**named, "options": method_options(arguments["option"])}


def limits(*assigned: str, **texts: str | None) -> dict[str, str]:
    """Return the limits that were given, by the name of the cost; assigned: `NAME=VALUE`.

    Raises:
        InputError: two limits on one cost, or text that is no limit.
    """
    from pynas.quantities import assignments
    from pynas.search.limits import read_bounds

    given = assignments([*(f"{name}={text}" for name, text in texts.items() if text is not None), *assigned])
    read_bounds(given)  # refused before anything is trained
    return given
