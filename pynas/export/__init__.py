"""Export: the found architecture as a plain network, with the supernet's weights or fresh ones, and its retraining."""

from pynas.export.files import load_subnet, save_subnet
from pynas.export.recipes import DEIT, EFFICIENTNET, RECIPES, Recipe
from pynas.export.retrain import Retraining, evaluate, retrain
from pynas.export.subnet import recalibrate, standalone, subnet

__all__ = ["DEIT", "EFFICIENTNET", "RECIPES", "Recipe", "Retraining", "evaluate", "load_subnet", "recalibrate", "retrain",
           "save_subnet", "standalone", "subnet"]  # fmt: skip
