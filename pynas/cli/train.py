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
    spread: options.Spread = "data",
    device: options.Device = "auto",
    tensorboard: options.TensorBoard = False,
    json: options.Json = False,
) -> None:
    """Train the supernet (and a small teacher if none is named), or go on where a training was stopped.

    Example: `pynas train --space mbconv-mini --data digits --epochs 20 --run runs/digits`, by two processes:
    `torchrun --nproc-per-node 2 -m -- pynas train --space mbconv-mini --data digits --run runs/digits`
    """
    named = dict(locals())
    from pynas.cli import display
    from pynas.runs import stages
    from pynas.runs.recipes import registry as flows
    from pynas.runs.settings import named_settings
    from pynas.runs.tensorboard import TensorBoard

    with (
        stages.processes(stages.choose_device(device), run),
        display.progress_bar(stages.is_first_process()) as progress,
    ):
        with stages.first_process_first():
            this = flows.new_run(run, named_settings(named), device, spread)
        log = TensorBoard(this.folder / "tensorboard") if tensorboard and stages.is_first_process() else None
        this.flow.train(this, display.Show(progress, log))
        if not stages.is_first_process():
            return
    if json:
        display.print_json({"run": str(this.folder)})
    else:
        display.say(f"Trained; next: pynas rate --run {this.folder}")
