"""Types of attributes that are values alone, and the attributes that every module has."""

import torch
from torch import nn

PLAIN = {type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size}
# Nearly all are empty.
USUAL = set(vars(nn.Module())) - {"training"}
