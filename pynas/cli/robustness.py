"""`pynas robustness`: how much a rating depends on the seed and on the amount of data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    run: options.NewRunFolder = None,
    method: options.Method = None,
    recipe: options.Recipe = None,
    space: options.Space = None,
    data: options.Data = None,
    teacher: options.Teacher = None,
    taps: options.Taps = None,
    pretrained: options.Pretrained = None,
    epochs: options.Epochs = None,
    keep_epochs: options.KeepEpochs = None,
    batch_size: options.BatchSize = None,
    accumulate: options.Accumulate = None,
    image_size: options.ImageSize = None,
    limit_images: options.LimitImages = None,
    val_fraction: options.ValFraction = None,
    val_images: options.ValImages = None,
    seed: options.Seed = None,
    option: options.MethodOptions = None,
    seeds: Annotated[
        str, typer.Option(help="So many seeds, from --seed on; or the seeds themselves, separated by commas.")
    ] = "3",
    fractions: Annotated[str, typer.Option(help="Shares of the training images, separated by commas.")] = "0.25,0.5,1",
    sample: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Architectures whose ranks are compared. [default: 1000, or 100 whole networks]",
            show_default=False,
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="CSV file (architecture, accuracy) of trained nets: also how well each run ranks these."),
    ] = None,
    loss: options.Loss = None,
    norm: options.Norm = None,
    max_madds: options.MaxMAdds = None,
    max_params: options.MaxParams = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Train and rate several times, with other seeds and with less data, and compare ratings and searched nets.

    Seeds change the supernet's weights and the sampled paths; teacher, split and steps stay the same. Writes robustness.json,
    .png and .svg into the run's folder, where each variant but the first has a subfolder; what is done already is not done again.

    Example: `pynas robustness --space mbconv-mini --data digits --seeds 3 --fractions 0.25,0.5,1`
    """
    named = dict(locals())
    from pynas.cli import display
    from pynas.errors import InputError
    from pynas.quantities import numbers
    from pynas.runs import create
    from pynas.runs.processes import check_alone
    from pynas.runs.robustness import check_robustness, seeds_of

    check_alone("robustness")
    wanted = seeds_of(seeds)
    if not isinstance(wanted, int):
        if seed not in (None, wanted[0]):
            raise InputError(
                f"[robustness] expected --seed {wanted[0]}, the first of --seeds {seeds}, or none, got {seed}"
            )
        named["seed"] = wanted[0]
    base = create(run, device=device, workers=workers, **options.settings({**named, "seeds": None}))
    sample = sample or (1000 if base.recipe.defaults.averages else 100)
    limits = options.limits(madds=max_madds, params=max_params)
    with display.bars() as bars:
        base.progress = display.progress(bars)
        content = check_robustness(base, wanted, numbers(fractions) or [1.0], sample, truth, loss, norm, limits)
    if json:
        display.print_json({"run": str(base.folder), **content})
        return
    _print(content)
    display.say(f"Written to {base.folder / 'robustness.json'}, drawn in {base.folder / content['pictures'][0]}")


def _print(content: dict[str, Any]) -> None:
    from rich.table import Table

    from pynas.cli import display

    runs = content["runs"]
    table = Table(title=f"Ratings beside {runs[0]['name']}: Kendall's tau of {content['sample']:,} architectures")
    trained = ["to accuracy"] if runs[0]["accuracy_tau"] is not None else []
    blocks = ["of each block"] if runs[0]["block_tau"] else []
    before = f"nets before {runs[0]['name']}'s"
    for heading in ("run", "tau", *trained, *blocks, "found", "blocks alike", before):
        left = heading in ("run", "found")
        table.add_column(heading, justify="left" if left else "right", no_wrap=left, overflow="fold")
    for each in runs:
        taus = [f"{value:.3f}" for value in (each["tau"], *([each["accuracy_tau"]] if trained else []))]
        taus += [" ".join(f"{value:.2f}" for value in each["block_tau"])] * len(blocks)
        alike = f"{each['same_choices']} of {content['blocks']}"
        table.add_row(each["name"], *taus, each["found"], alike, f"{each['better_share']:.1%}")
    display.out.print(table)
