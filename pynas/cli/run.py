"""`pynas run`: from images to a found network, in one command."""

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
    max_madds: options.MaxMAdds = None,
    max_params: options.MaxParams = None,
    top_k: options.TopK = 5,
    device: options.Device = "auto",
    tensorboard: options.TensorBoard = False,
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
    from pynas.cli.search import counted_limits
    from pynas.runs import search as finding
    from pynas.runs import stages
    from pynas.runs.recipes import registry as flows
    from pynas.runs.settings import named_settings
    from pynas.runs.tensorboard import TensorBoard

    if dry_run:
        from pynas.runs.estimate import dry_run as estimate

        content = estimate(run, named_settings(named), device)
        (display.print_json if json else display.print_estimate)(content)
        return
    stages.check_alone("run")
    wishes = finding.Wishes(counted_limits(max_madds, max_params), top_k=top_k)
    this = flows.new_run(run, named_settings(named), device)
    log = TensorBoard(this.folder / "tensorboard") if tensorboard else None
    with display.progress_bar() as progress:
        show = display.Show(progress, log)
        this.flow.train(this, show)
        this.flow.rate(this, this.flow.loss, this.flow.norm, show)
    found = this.flow.find(this, wishes)
    exported = this.flow.export(this, None)
    if json:
        display.print_json({"run": str(this.folder), "search": found, "exported": exported})
        return
    display.print_found(found)
    display.print_exported(exported)
    display.say(f"Everything is in {this.folder}")
