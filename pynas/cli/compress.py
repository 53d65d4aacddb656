"""`pynas compress`: a trained network made smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pynas.cli import options


def command(
    model: Annotated[
        str, typer.Argument(help="timm:NAME, hf:FOLDER_OR_NAME, or FILE.py:FUNCTION that builds the model.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Images (a folder, an .npz file, cifar10, ...), a text file with a text per line, or a .pt file with a list of "
            "batches. Labels are not needed.",
            show_default=False,
        ),
    ] = None,
    example: Annotated[
        Path | None, typer.Option(help="A .pt file with one batch, in place of --data.", show_default=False)
    ] = None,
    max_madds: Annotated[
        str | None, typer.Option(help="At most so many multiply-adds: 400M, or 60% of the model's.")
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(help="At most so many parameters: 5M, or 60% of the model's.")
    ] = None,
    max_latency: Annotated[
        str | None, typer.Option(help="At most so long for a batch in --runtime: 12ms, or 60% of the model's.")
    ] = None,
    runtime: options.Runtime = "torch",
    threads: options.Threads = None,
    latency_batch: Annotated[int, typer.Option(help="Samples at once where latencies are measured.")] = 1,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE: at most so much of another cost: non_embedding_params, madds_per_token, or kv_bytes with "
            "--kv-length. VALUE may be 60%. May be repeated."
        ),
    ] = None,
    kv_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens whose keys and values kv_bytes counts.", show_default=False)
    ] = None,
    front: Annotated[
        str | None,
        typer.Option(
            help="madds, params, latency or another cost: networks at 90, 80, ... 30% of this cost.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result. [default: compressed/NAME]", show_default=False)
    ] = None,
    train_units: Annotated[
        int,
        typer.Option(
            min=0, help="Steps of block-wise training of the smaller units on the data before they are rated."
        ),
    ] = 0,
    distil: Annotated[int, typer.Option(min=0, help="Steps of distillation on the data afterwards.")] = 0,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="End the distillation after so many checks, one in 50 steps, without a lower loss on held-out data.",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="kl, cosine, mse or relative_l1 against the model's output. [default: kl of logits, else cosine]"
        ),
    ] = None,
    heads: Annotated[bool, typer.Option(help="Cut attention heads.")] = True,
    drop: Annotated[bool, typer.Option(help="Leave units out.")] = True,
    samples: Annotated[int, typer.Option(min=2, help="Samples of the data to use.")] = 1024,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per batch.")] = 32,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the images. [default: the model's]", show_default=False)
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="Most tokens of a text.")] = 128,
    pretrained: Annotated[bool, typer.Option(help="Load trained weights of a timm model.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of the data.")] = 0,
    device: options.Device = "auto",
    format: Annotated[
        list[str] | None,
        typer.Option(
            help="torch-export or onnx: also write model.pt2 or model.onnx; may be given twice.", show_default=False
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Make a trained network smaller under limits: units narrower, with fewer heads, or left out; the best choice is proved.

    Every candidate of every residual unit is rated by what it changes in the model's output, and the search is exact. The folder
    holds the weights, the sizes, and a report; `pynas.compress.load(model, FOLDER)` puts them back into the model's own class, and
    `from_pretrained` of transformers loads that of an hf: model.

    Example: `pynas compress timm:efficientnet_b0 --data imagenet/ --max-madds 60%`
    """
    from pynas.cli import display
    from pynas.runs import compress

    limits = options.limits(*(limit or ()), madds=max_madds, params=max_params, latency=max_latency)
    request = compress.Request(model, limits, data, example, front, out, distil, loss, heads, drop, samples, batch_size, image_size,
                               length, pretrained, seed, device, kv_length, patience, format or (), train_units,
                               runtime, threads, latency_batch)  # fmt: skip
    with display.bars() as bars:
        content = compress.run(request, display.progress(bars))
    if json:
        display.print_json(content)
    else:
        display.print_compressed(content)
