"""`pynas run`: from images to a found network, in one command."""

from __future__ import annotations

from typing import Any

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
    keep: options.Keep = None,
    batch_size: options.BatchSize = None,
    accumulate: options.Accumulate = None,
    image_size: options.ImageSize = None,
    limit_images: options.LimitImages = None,
    val_fraction: options.ValFraction = None,
    val_images: options.ValImages = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    option: options.MethodOptions = None,
    max_madds: options.MaxMAdds = None,
    max_params: options.MaxParams = None,
    prior: options.Prior = None,
    prior_weight: options.PriorWeight = "auto",
    top_k: options.TopK = 5,
    loss: options.Loss = None,
    norm: options.Norm = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    log: options.Log = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train a supernet, rate every path, search exactly under the limits, and take the best network out.

    With no argument: DNA on handwritten digits, a few minutes on two cores. A run that was stopped goes on with
    `--run FOLDER`, and ends as if it had not been.

    Example: `pynas run --data cifar10.npz --space mbconv-mini --max-madds 15M --epochs 20`
    """
    named = dict(locals())
    from pynas.cli import display
    from pynas.runs import create, processes
    from pynas.runs.folders import describe_recipe, wanted_settings
    from pynas.runs.recipes import recipe_of
    from pynas.runs.request import Request
    from pynas.runs.tracking import found_rows, tracking

    settings, limits = options.settings(named), options.limits(madds=max_madds, params=max_params)
    policy = options.policy(keep)
    wanted = wanted_settings(run, settings)
    joined: Any = {"prior": prior, "prior_weight": prior_weight}
    Request(**joined)  # with the next line: refused before anything is trained
    recipe_of(wanted.method, wanted.space).defaults.check_rating(loss, norm)
    if dry_run:
        from pynas.runs.estimate import estimate

        content = estimate(wanted, device, workers)
        if not json:
            display.print_recipe(describe_recipe(wanted, content["images"]["val"]))
        (display.print_json if json else display.print_estimate)(content)
        return
    processes.check_alone("run")
    opened = create(run, device=device, workers=workers, keep=policy, **settings)
    if not json:
        display.print_recipe(describe_recipe(opened.settings, len(opened.data.val)))
    with display.bars() as bars:
        opened.progress = display.progress(bars)
        with tracking(opened, log, lambda: found_rows(opened.folder)):
            opened.train()
            opened.rate(loss, norm)
            found = opened.search(limits, top_k=top_k, **joined)
            exported = opened.export()
    if json:
        display.print_json({"run": str(opened.folder), "search": found, "exported": exported})
        return
    display.print_found(found)
    display.print_exported(exported)
    display.say(f"Everything is in {opened.folder}")
