"""`pynas train`: train a supernet."""

from __future__ import annotations

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
    spread: options.Spread = "data",
    sync_batch_norm: options.SyncBatchNorm = False,
    device: options.Device = "auto",
    workers: options.Workers = None,
    log: options.Log = None,
    json: options.Json = False,
) -> None:
    """Train the supernet (and a small teacher if none is named), or go on where a training was stopped.

    Example: `pynas train --space mbconv-mini --data digits --epochs 20 --run runs/digits`, by two processes:
    `torchrun --nproc-per-node 2 -m -- pynas train --space mbconv-mini --data digits --run runs/digits`
    """
    named = dict(locals())
    from pynas.cli import display
    from pynas.runs import create
    from pynas.runs.folders import describe_recipe
    from pynas.runs.processes import choose_device, first_process_first, process_group
    from pynas.runs.tracking import tracking
    from pynas.train.team import is_first_process

    policy = options.policy(keep)
    with process_group(choose_device(device), run), display.bars(is_first_process()) as bars:
        with first_process_first():
            opened = create(run, device=device, workers=workers, spread=spread, keep=policy, sync_batch_norm=sync_batch_norm,
                            **options.settings(named))  # fmt: skip
        if is_first_process() and not json:
            display.print_recipe(describe_recipe(opened.settings, len(opened.data.val)))
        opened.progress = display.progress(bars)
        with tracking(opened, log if is_first_process() else None, tuple):
            opened.train()
        if not is_first_process():
            return
    if json:
        display.print_json({"run": str(opened.folder)})
    else:
        display.say(f"Trained; next: pynas rate --run {opened.folder}")
