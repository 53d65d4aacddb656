"""Export: extract an architecture as a plain network, write it to files of several formats, retrain it."""

from pynas.export.distilled import add_distillation
from pynas.export.features import feature_info, features
from pynas.export.files import fresh_network, from_pretrained, load_subnet, save_subnet
from pynas.export.python_source import write_python
from pynas.export.recipes import DEIT, EFFICIENTNET, RECIPES, Recipe
from pynas.export.retrain import Retraining, evaluate, retrain
from pynas.export.subnet import recalibrate, standalone, subnet
from pynas.export.timm_network import register
from pynas.runtimes.formats import write_onnx, write_onnx_int8, write_torch_export

__all__ = ["DEIT", "EFFICIENTNET", "RECIPES", "Recipe", "Retraining", "add_distillation", "evaluate", "feature_info",
           "features", "fresh_network", "from_pretrained", "load_subnet", "recalibrate", "register", "retrain", "save_subnet",
           "standalone", "subnet", "write_onnx", "write_onnx_int8", "write_python", "write_torch_export"]  # fmt: skip
