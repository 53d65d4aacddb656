"""`pynas rate`: score every path of every block."""

from __future__ import annotations

from pynas.cli import options


def command(
    run: options.RunFolder,
    loss: options.Loss = None,
    norm: options.Norm = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Rate all paths of a trained supernet on the validation images.

    Example: `pynas rate --run runs/digits`, shared: `torchrun --nproc-per-node 2 -m -- pynas rate --run runs/digits`
    """
    from pynas.cli import display
    from pynas.runs import load
    from pynas.runs.processes import process_group
    from pynas.train.team import is_first_process

    opened = load(run, device, workers=workers)
    with process_group(opened.device, run), display.bars(is_first_process()) as bars:
        opened.progress = display.progress(bars)
        scores = opened.rate(loss, norm)
        if not is_first_process():
            return
    blocks = [
        {
            "block": b + 1,
            "paths": sum(map(len, cells)),
            "best": min(table.best()[0][1] for table in cells if len(table)),
        }
        for b, cells in enumerate(scores or ())
    ]
    if json:
        display.print_json({"run": str(run), "blocks": blocks})
    else:
        for block in blocks:
            display.out.print(f"block {block['block']}: {block['paths']:,} paths, best score {block['best']:.6f}")
        display.say(f"Next: pynas search {run}")
