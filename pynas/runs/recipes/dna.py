"""DNA: train with a teacher, rate through the teacher or by its features, search exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from pynas.checked import AtLeastOne, fields
from pynas.methods import DNA, ProgressiveDNA
from pynas.rating import Scores
from pynas.runs.defaults import Defaults
from pynas.runs.export import export_trained
from pynas.runs.feature_maps import draw_feature_maps
from pynas.runs.options import Options, loader_options
from pynas.runs.processes import from_first_process
from pynas.runs.rate import rate_paths, score_networks
from pynas.runs.recipes.training import train_supernet
from pynas.runs.run import Request, Run
from pynas.runs.search import find_among, find_exactly, gather_costs
from pynas.spaces import Architecture
from pynas.supernets.build import check_blocks
from pynas.teachers import Teacher

# Options of a run beside DNA's own: the order in which blocks train, for progressive ones how many paths are kept, and the
# loss of ratings where `--loss` names none (None: `DNA.default_loss`).
_STAGES = {
    "strategy": (Literal["concurrent", "progressive-a", "progressive-b"], "concurrent"),
    "keep": (AtLeastOne, 5),
    "loss": (Literal[Defaults.losses] | None, None),
    **loader_options(),
}
# Section 4.1: "a 50k-image validation set by randomly selecting 50 images from each class". Sections 4.3 and 4.4 and eq. 6, 7.
# The paper prints no batch size for MBConv: the released code's 64 on each of 8 GPUs, as the mean of 8 batches. Blocks learn a
# wider teacher's features by width="teacher" there; the projection ranked networks better, and fits every space. For ViTs it
# prints the rate 0.33, which is taken to be swapped with DNA++'s 0.0025.
_PAPER = {"loss": "relative_l1", "learning_rates": (0.002, 0.005), "decay": 0.9, "decay_every": 1, "optimizer": "adam",
          "logits_after": 1.0, "epochs": 20, "batch_size": 64, "accumulate": 8, "val_images": 50_000}  # fmt: skip
# The released code's train_pipeline.yaml and its weights of the blocks' losses, for six blocks.
_CODE = {"learning_rates": (0.002, 0.005, 0.005, 0.005, 0.005, 0.002), "weight_decay": 1e-4, "teacher_norm": "batch",
         "loss_weights": (0.0684, 0.171, 0.3422, 0.2395, 0.5474, 0.3422), "augmentation": "jitter-0.4",
         "erasing": 0.5}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "small": {"epochs": 20, "batch_size": 64},
    "paper": _PAPER,
    "paper-vit": {**_PAPER, "learning_rates": (0.0025, 0.0025), "decay_every": 3, "optimizer": "adamw", "batch_size": 256,
                  "accumulate": 1},
    "code": {**_PAPER, **_CODE},
}  # fmt: skip


class DNARecipe:
    """`pynas run --method dna`: DNA with all blocks at a time, or with one of the two progressive strategies."""

    summary = (DNA.__doc__ or "").partition("\n")[0]
    defaults = Defaults()

    def options(self) -> Options:
        """Return DNA's options, and those of the stages."""
        return Options(fields(DNA, ("taps", "image_shape")), _STAGES, RECIPES)

    def teacher(self, run: Run) -> Teacher:
        """Return the run's teacher, which is trained first if it is a small one."""
        return run.teacher()

    def build(self, run: Run) -> Any:
        """Return the method with its teacher."""
        check_blocks(run.space)
        # A space that it cannot train is refused before a teacher is trained.
        run.net.block_shapes(run.data.image_shape)
        method = DNA(run.net, self.teacher(run), image_shape=run.data.image_shape, **run.method_options)
        strategy = run.options["strategy"]
        if strategy == "concurrent":
            return method
        return ProgressiveDNA(method, strategy=strategy, keep=run.options["keep"], rating_batches=run.loader("val"))

    def train(self, run: Run) -> None:
        """Train the supernet, on the images as they are where the teacher's features of these are kept."""
        train_supernet(run, run.loader("train", "none") if run.options["cache_training"] else None)

    def rate(self, run: Run, loss: str | None, norm: str) -> Scores:
        """Rate every path of every block."""
        return rate_paths(run, loss or run.options["loss"], norm)

    def find(self, run: Run, request: Request) -> dict[str, Any]:
        """Search the rated paths exactly; after a progressive training, find the best of the architectures it kept.

        Progressive trainings of several seeds keep different ones: their average is searched exactly.
        """
        if run.options["strategy"] == "concurrent" or run.settings.seeds > 1:
            return from_first_process(lambda: find_exactly(run, request))
        method, _ = run.trained_method()
        kept = method.kept_architectures(run.loader("val"))
        return from_first_process(
            lambda: find_among(run, request, kept, gather_costs(run, request), run.options["strategy"])
        )

    def score(self, run: Run, networks: Sequence[Architecture], loss: str | None, norm: str) -> np.ndarray:
        """Rate the paths of some networks alone."""
        return score_networks(run, networks, loss or run.options["loss"], norm)

    def export(self, run: Run, architecture: Architecture | None) -> dict[str, Any]:
        """Take a network out of the supernet, and draw its blocks' feature maps beside the teacher's."""
        content = export_trained(run, architecture)
        if run.options["strategy"] == "concurrent":
            draw_feature_maps(run, run.trained_method()[0], run.space.parse(content["architecture"]))
        return content
