"""Export: the found architecture as a plain network, with the supernet's weights or fresh ones."""

from pynas.export.files import load_subnet, save_subnet
from pynas.export.subnet import recalibrate, standalone, subnet

__all__ = ["load_subnet", "recalibrate", "save_subnet", "standalone", "subnet"]
