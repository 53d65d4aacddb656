"""`pynas correlate`: how well scores rank a published benchmark and what they find there, beside trivial baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pynas.cli import options


def command(
    run: Annotated[
        Path | None,
        typer.Argument(help="Folder of a trained run: its scores; where it has none yet, its supernet rates the benchmark's "
                       "networks alone. [default: --scores or --proxy]", show_default=False),
    ] = None,
    bench: Annotated[
        str | None, typer.Option(help="nats-size, mbconv-23 or nasbench201. [default: of the run's space]", show_default=False)
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="CSV file (architecture, accuracy) of networks that you trained, in place of a benchmark; needs RUN. "
                     "[default: --bench]", show_default=False),
    ] = None,
    loss: options.Loss = None,
    norm: options.Norm = None,
    scores: Annotated[
        str | None,
        typer.Option(
            help="CSV file with the columns architecture and score, a run's folder, or published: BossNAS's. "
            "[default: published, where there are any]"
        ),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            help="In place of --scores: a zero-cost proxy of networks with fresh weights, or an aggregate, e.g. az_nas "
            "or vkdnw_agg; any other name lists all."
        ),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(help="Only this many architectures, drawn uniformly. [default: all]")
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Of --proxy: number of draws of weights and images, whose scores are averaged.")
    ] = 1,
    images: Annotated[int, typer.Option(help="Of --proxy: images in the batch.")] = 64,
    data_images: Annotated[
        str | None,
        typer.Option(
            help="Of --proxy: draw the batch from this data set, with labels: a name, .npz file or folder. [default: noise]"
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Of --proxy: side of the images. [default: the networks']")
    ] = None,
    values: Annotated[
        Path | None,
        typer.Option(
            help="Of --proxy: values of each network are kept in STEM-seedS.csv, from which a stopped scoring goes on. "
            "[default: proxy-BENCH-NAME]"
        ),
    ] = None,
    save_scores: Annotated[
        Path | None, typer.Option(help="Of --proxy: write the scores here, as a CSV file for --scores.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Accuracies of nasbench201 on: cifar10, cifar100 or imagenet16-120. [default: cifar10]"),
    ] = None,
    higher_is_better: Annotated[
        bool, typer.Option("--higher-is-better", help="The scores are no losses: more is better.")
    ] = False,
    above: Annotated[float | None, typer.Option(help="Only architectures above this accuracy, in percent.")] = None,
    without: Annotated[
        str | None, typer.Option(help="Only architectures without these operations, e.g. none,skip_connect.")
    ] = None,
    top: Annotated[float, typer.Option(help="Also among this best part of the architectures.")] = 0.25,
    budgets: Annotated[
        int,
        typer.Option(help="Number of budgets, from the least to the largest cost, within which networks are found."),
    ] = 10,
    budget_cost: Annotated[
        str, typer.Option(help="Cost of the budgets: madds, params, or where there are cells conv_params.")
    ] = "madds",
    ndcg_k: Annotated[int, typer.Option("--ndcg", help="Places from the top that nDCG counts.")] = 10,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the 95 % intervals.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and of the random baseline.")] = 0,
    picture: Annotated[
        Path | None,
        typer.Option(help="Where to draw: .png and .svg are added. [default: correlation-BENCH, statistics-BENCH]"),
    ] = None,
    plot: Annotated[
        str, typer.Option(help="What to draw: ranking, side-by-side (all predictors, few rows), or statistics (of accuracies).")
    ] = "ranking",
    beside: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE.csv of another method's scores, for --plot side-by-side; repeatable."),
    ] = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:  # fmt: skip
    """Rank correlation of scores with published accuracies, and the accuracy they find under budgets, beside trivial baselines.

    With --proxy, the scores are those of a zero-cost proxy. Example: `pynas correlate runs/dna`, `pynas correlate runs/spos --bench
    mbconv-23`, `pynas correlate --bench nats-size --scores published`,
    `pynas correlate --bench mbconv-23 --plot side-by-side --beside spos=spos.csv`, `pynas correlate --bench mbconv-23 --plot
    statistics`, `pynas correlate --bench nasbench201 --proxy az_nas --sample 1000 --seeds 3`
    """
    from pynas import tabular, zero_cost
    from pynas.cli import display
    from pynas.cli.correlation_tables import print_comparison, print_row, print_statistics, print_truth
    from pynas.errors import InputError
    from pynas.runs import load, proxies
    from pynas.runs.correlate import (
        correlate_with,
        draw,
        draw_side_by_side,
        rated_by,
        read_predictor,
        run_bench,
        statistics,
    )
    from pynas.runs.spent import search_cost

    if plot not in ("ranking", "side-by-side", "statistics") or (beside and plot != "side-by-side"):
        raise InputError("[correlate] expected --plot ranking, statistics, or side-by-side with --beside or without, "
                         f"got {plot!r}")  # fmt: skip
    if plot == "statistics" and (scores or proxy or truth or loss or norm):
        raise InputError("[correlate] expected --plot statistics, which is of a benchmark alone, without --scores, --proxy, "
                         "--truth, --loss and --norm, got one")  # fmt: skip
    given = [str(source) for source in (run, scores, proxy) if source is not None]
    if len(given) > 1:
        raise InputError(f"[correlate] expected one of RUN, --scores and --proxy, got {' and '.join(given)}")
    if run is None and (bench is None or loss or norm):
        raise InputError("[correlate] expected a run's folder for --loss, --norm, or without --bench, got none")
    if truth is not None and (run is None or bench is not None):
        raise InputError("[correlate] expected --truth with a run's folder and without --bench, got none or both")
    opened = None if run is None else load(run, device, workers=workers)
    cost = {} if run is None or (spent := search_cost(run)) is None else {"search_cost": spent}
    if truth is not None:
        assert opened is not None
        with display.bars() as bars:
            opened.progress = display.progress(bars)
            content = correlate_with(opened, truth, loss, norm, picture) | cost
        (display.print_json if json else print_truth)(content)
        return
    bench = bench if opened is None else run_bench(opened, bench)
    table = tabular.load(str(bench), data)
    if above is not None:
        table = table.where(table.accuracy > above)
    if without is not None:
        table = table.without(*(op.strip() for op in without.split(",")))
    table = proxies.sample_rows(table, sample, seed)
    if plot == "statistics":
        content = statistics(table, picture or Path(f"statistics-{bench}"))
        (display.print_json if json else print_statistics)(content)
        return
    taus: list[float] = []
    batch = proxies.Batch(images, data_images, image_size)
    if proxy is None:
        if save_scores or values or batch != proxies.Batch() or seeds != 1:
            raise InputError("[correlate] expected --proxy NAME beside --seeds, --images, --data-images, --image-size, --values "
                             "and --save-scores, got none")  # fmt: skip
        if opened is None:
            predictor = read_predictor(scores, table, not higher_is_better)
        else:
            with display.bars() as bars:
                opened.progress = display.progress(bars)
                predictor = rated_by(opened, table, loss, norm)
    else:
        with display.bars() as bars:
            report = display.progress(bars).count("score networks")
            stem = values or Path(f"proxy-{bench}-{proxy}")
            each = proxies.score_rows(table, proxy, batch, seeds=seeds, seed=seed, stem=stem, progress=report)
        predictor, taus = proxies.predictor(each, proxy, batch), proxies.taus(each, table)
        if save_scores is not None:
            zero_cost.write_scores(save_scores, dict(zip(table.architectures, each.mean(0))))
    found = tabular.correlate(predictor.values, table, lower_is_better=predictor.lower, top=top, resamples=resamples,
                              seed=seed, budgets=budgets, budget_cost=budget_cost, ndcg_k=ndcg_k)  # fmt: skip
    stem = picture or Path(f"correlation-{bench}")
    if plot == "side-by-side":
        pictures = draw_side_by_side(stem, table, predictor, beside, seed)
    else:
        pictures = draw(stem, table, found, predictor)
    if json:
        names = [str(path) for path in pictures]
        display.print_json({"scores": predictor.source, "lower_is_better": predictor.lower, "source": table.source,
                            "tau_of_seeds": taus, **found.as_dict(), "pictures": names, **cost})  # fmt: skip
        return
    print_comparison(found, predictor.source)
    if opened is not None:
        print_row(found, opened.settings.method, cost)
    if len(taus) > 1:
        display.say(f"Kendall τ of each seed: {', '.join(f'{tau:.4f}' for tau in taus)}.")
    display.say(f"Accuracies: {table.source}.")
    display.say(f"Drawn in {', '.join(map(str, pictures))}")
