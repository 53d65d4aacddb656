"""`pynas robustness`: how much a rating depends on the seed and on the amount of data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from pynas.cli import options


def command(
    run: options.NewRunFolder = None,
    space: options.Space = None,
    data: options.Data = None,
    teacher: options.Teacher = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = None,
    option: options.MethodOptions = None,
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds, from --seed on.")] = 3,
    fractions: Annotated[str, typer.Option(help="Shares of the training images, separated by commas.")] = "0.25,0.5,1",
    sample: Annotated[int, typer.Option(min=2, help="Architectures whose ranks are compared.")] = 1000,
    truth: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="CSV file (architecture, accuracy) of trained nets: also how well each run ranks these."),
    ] = None,
    loss: options.Loss = None,
    norm: options.Norm = None,
    max_madds: options.MaxMAdds = None,
    max_params: options.MaxParams = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Train and rate DNA several times, with other seeds and with less data, and compare ratings and searched nets.

    Seeds change the supernet's weights and the sampled paths; teacher, split and steps stay the same. Writes robustness.json,
    .png and .svg into the run's folder, where each variant has a subfolder; what is done already is not done again.

    Example: `pynas robustness --space mbconv-mini --data digits --seeds 3 --fractions 0.25,0.5,1`
    """
    from pynas.cli import display
    from pynas.cli.search import counted_limits
    from pynas.files import header, write_json
    from pynas.report.figures import save_figure
    from pynas.report.robustness import robustness_figure
    from pynas.runs.quantities import numbers
    from pynas.runs.recipes import registry as flows
    from pynas.runs.report import read_truth
    from pynas.runs.robustness import rated_variant, variants
    from pynas.runs.search import half_way
    from pynas.runs.settings import method_options
    from pynas.runs.stages import costs
    from pynas.tabular.robustness import compare_runs

    given = {"method": "dna", "space": space, "data": data, "teacher": teacher, "epochs": epochs,
             "batch_size": batch_size, "seed": seed, "options": method_options(option)}  # fmt: skip
    base = flows.new_run(run, given, device)
    accuracies = None if truth is None else read_truth(truth, base.space)
    chosen = variants(base.settings.seed, seeds, numbers(fractions) or [1.0])
    with display.progress_bar() as progress:
        how = (loss or base.flow.loss, norm or base.flow.norm, display.Show(progress))
        tables = {variant.name: rated_variant(base, variant, *how) for variant in chosen}
    table = costs(base)
    limits = counted_limits(max_madds, max_params) or {"madds": half_way(base.space, table, "madds")}
    compared = compare_runs(tables, base.space, table, limits, sample, accuracies)
    content = header("pynas.robustness", space=base.space.name, data=base.data.fingerprint) | {
        "loss": how[0], "norm": how[1], "limits": limits, "sample": sample,
        "runs": [asdict(each) for each in compared.runs], "tau": compared.tau}  # fmt: skip
    write_json(base.folder / "robustness.json", content)
    pictures = save_figure(robustness_figure(list(tables), compared.totals, compared.tau), base.folder / "robustness")
    if json:
        display.print_json({"run": str(base.folder), **content})
        return
    _print(content)
    display.say(f"Written to {base.folder / 'robustness.json'}, drawn in {pictures[0]}")


def _print(content: dict[str, Any]) -> None:
    from rich.table import Table

    from pynas.cli import display

    runs = content["runs"]
    table = Table(title=f"Ratings beside {runs[0]['name']}: Kendall's tau of {content['sample']:,} architectures")
    trained = ["to accuracy"] if runs[0]["accuracy_tau"] is not None else []
    before = f"nets before {runs[0]['name']}'s"
    for heading in ("run", "tau", *trained, "of each block", "found", "blocks alike", before):
        left = heading in ("run", "found")
        table.add_column(heading, justify="left" if left else "right", no_wrap=left, overflow="fold")
    for each in runs:
        taus = [f"{value:.3f}" for value in (each["tau"], *([each["accuracy_tau"]] if trained else []))]
        taus.append(" ".join(f"{value:.2f}" for value in each["block_tau"]))
        alike = f"{each['same_choices']} of {len(each['block_tau'])}"
        table.add_row(each["name"], *taus, each["found"], alike, f"{each['better_share']:.1%}")
    display.out.print(table)
