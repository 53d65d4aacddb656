"""Options that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

# typer reads these annotations at run time, on Python 3.10 too.
RunFolder = Annotated[Path, typer.Option("--run", help="Folder of the run.", show_default=False)]
NewRunFolder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--run", help="Folder of the run; an existing one is gone on with. Default: a new one under runs/."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also log every training step for TensorBoard, in RUN/tensorboard.")
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
Method = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Method, see `pynas methods`. [default: dna]", show_default=False),
]
MethodOptions = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--option", help="NAME=VALUE: an option of the method. May be repeated.", show_default=False),
]
Space = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Search space, see `pynas spaces`. [default: the method's]", show_default=False),
]
Data = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="digits, cifar10, cifar100, an .npz file or an image folder. [default: digits]", show_default=False
    ),
]
Teacher = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="A timm name, or small: trained on the spot. [default: small]", show_default=False),
]
Taps = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="The teacher's submodules after each block, separated by commas. [default: its stages]", show_default=False
    ),
]
Pretrained = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option("--pretrained/--no-pretrained", help="Whether a timm teacher comes with weights. [default: it does]"),
]
Epochs = Annotated[Optional[int], typer.Option(help="Training epochs. [default: 20]", show_default=False)]  # noqa: UP045
BatchSize = Annotated[Optional[int], typer.Option(help="Images per batch. [default: 64]", show_default=False)]  # noqa: UP045
Accumulate = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Batches whose mean gradient makes one step. [default: 1]", show_default=False),
]
ImageSize = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Side of the images in pixels. [default: the space's]", show_default=False),
]
LimitImages = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        help="Search with so many of the training images, classes in equal shares. [default: all]", show_default=False
    ),
]
ValFraction = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Part of the training images that paths are rated on. [default: 0.2]", show_default=False),
]
Seed = Annotated[Optional[int], typer.Option(help="Seed of everything. [default: 0]", show_default=False)]  # noqa: UP045
Loss = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Score of a path: relative_l1, mse or cosine of its block's output; kl, cross_entropy or error at the teacher's "
        "end. [default: the method's]",
        show_default=False,
    ),
]
Norm = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Batch norm while rating: batch (per path) or running. [default: the method's]", show_default=False
    ),
]
MaxMAdds = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="At most so many multiply-adds for one image, e.g. 400M. [default: half way in the space]"),
]
MaxParams = Annotated[Optional[str], typer.Option(help="At most so many parameters, e.g. 5.3M.")]  # noqa: UP045
TopK = Annotated[int, typer.Option(min=1, help="How many architectures to find.")]
