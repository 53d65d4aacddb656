"""`pynas train`: train a supernet."""

from __future__ import annotations

from pynas.cli import options


def command(
    run: options.NewRunFolder = None,
    method: options.Method = None,
    space: options.Space = None,
    data: options.Data = None,
    teacher: options.Teacher = None,
    taps: options.Taps = None,
    pretrained: options.Pretrained = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    accumulate: options.Accumulate = None,
    image_size: options.ImageSize = None,
    limit_images: options.LimitImages = None,
    val_fraction: options.ValFraction = None,
    seed: options.Seed = None,
    option: options.MethodOptions = None,
    device: options.Device = "auto",
    tensorboard: options.TensorBoard = False,
    json: options.Json = False,
) -> None:
    """Train the supernet (and a small teacher if none is named), or go on where a training was stopped.

    Example: `pynas train --space mbconv-mini --data digits --epochs 20 --run runs/digits`
    """
    named = dict(locals())
    from pynas.cli import display, flows
    from pynas.cli.settings import named_settings
    from pynas.cli.tensorboard import TensorBoard

    this = flows.new_run(run, named_settings(named), device)
    log = TensorBoard(this.folder / "tensorboard") if tensorboard else None
    with display.progress_bar() as progress:
        this.flow.train(this, display.Show(progress, log))
    if json:
        display.print_json({"run": str(this.folder)})
    else:
        display.say(f"Trained; next: pynas rate --run {this.folder}")
