"""Published architectures by their names in the papers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pynas.errors import InputError


@dataclass(frozen=True)
class Network:
    """A published architecture, with its paper's figures; None where the paper prints none.

    spaces: names of the spaces that read it; the figures are those in the first.
    architecture: its string form there.
    params: parameters. flops: multiply-adds, counted by the paper's own rule. top1: accuracy on ImageNet in percent, on
        CIFAR-10 in `nats-size`, of a training from scratch or, for PreNAS, of the supernet's weights.
    source: where architecture and figures are from.
    """

    spaces: tuple[str, ...]
    architecture: str
    params: float | None = None
    flops: float | None = None
    top1: float | None = None
    source: str = ""

    @property
    def paper(self) -> str:
        """Name of the paper, the first among the words of `source`; empty for none."""
        found = re.search("BossNAS|PreNAS|Pi-NAS|DNA", self.source)
        return found[0] if found else ""


_DNA = "architecture of the released code; figures of DNA, table 2"
_PINAS = "architecture of the released code; figures of Pi-NAS, tables 1 and 2"
_BOSSNAS = "BossNAS, table 1 and figures 5 and 10"
_PRENAS = "architecture and figures of PreNAS's released code"
_HYBRIDS = ("hytra", "hytra-se")
_WITH_SE = ("hytra-se", "hytra")
_TINY = ("autoformer-tiny",)

# FLOPs: DNA's are multiply-adds and 2 for each output element of a batch norm. BossNAS's of R50-T to UnNAS-T count
# squeeze-excitation in all layers. PreNAS's are AutoFormer's reckoning. Pi-NAS's count more than matrix products.
NETWORKS: dict[str, Network] = {
    "DNA-a": Network(("mbconv-dna-a",), "430|3340|2340|1441|14441|0", 4.2e6, 348e6, 77.1, _DNA),
    "DNA-b": Network(("mbconv-dna-b",), "342|242|1440|1441|24442|0", 4.9e6, 406e6, 77.5, _DNA),
    "DNA-c": Network(("mbconv-dna-single",), "10|1101|1011|0114|1411|0", 5.3e6, 466e6, 77.8, _DNA),
    "DNA-d": Network(("mbconv-dna-d",), "212|2222|2112|2121|21112|0", 6.4e6, 611e6, 78.4, _DNA),
    "ResNet50-T": Network(_HYBRIDS, "111|1111|111111|111", None, 4.1e9, 78.2, _BOSSNAS),
    "ViT-T/32": Network(_HYBRIDS, "|||0000000000000000", None, 2.9e9, 74.5, _BOSSNAS),
    "ViT-T/16": Network(_HYBRIDS, "||0000000000000000|", None, 3.2e9, 76.5, _BOSSNAS),
    "BoT50-T": Network(_HYBRIDS, "111|1111|111111|000", None, 3.9e9, 79.5, _BOSSNAS),
    "Random-T": Network(_HYBRIDS, "||01110010110|01011", None, 3.7e9, 76.7, _BOSSNAS),
    "BossNet-T0 w/o SE": Network(("hytra",), "1|1|11101|000100000", None, 3.4e9, 80.5, _BOSSNAS),
    "DNA-T": Network(_WITH_SE, "1|111|10111101|0111", None, 3.9e9, 80.3, _BOSSNAS),
    "UnNAS-T": Network(_WITH_SE, "|1|11|1110000100110", None, 3.7e9, 79.8, _BOSSNAS),
    "BossNet-T0": Network(_WITH_SE, "1|1|11101|000100000", None, 3.4e9, 80.8, _BOSSNAS),
    "BossNet-T1": Network(("hytra-se-s1", "hytra-s1"), "1|1|11101|000100000", None, 7.9e9, 82.2, _BOSSNAS),
    "BossNAS-size": Network(("nats-size",), "64:40:48:64:56", None, None, 93.29,
                            "the best of BossNAS's released path scores; accuracy of NATS-Bench"),
    "ResNeSt-50": Network(("splitattention",), "111|1111|111111|111", 27.5e6, 5.42e9, 81.1, _PINAS),
    "Pi-NAS-cls": Network(("splitattention",), "301|3231|203213|032", 27.1e6, 5.38e9, 81.6, _PINAS),
    "Pi-NAS-trans": Network(("splitattention",), "333|3113|330011|021", 27.0e6, 5.30e9, 81.1, _PINAS),
    "PreNAS-Ti": Network(_TINY, "333310011213", 5.99476e6, 1.3878e9, 77.1, f"{_PRENAS}; top-1 of table 3"),
    "PreNAS-Ti-7M": Network(_TINY, "3:323220002202", 6.997192e6, 1.596e9, None, _PRENAS),
    "PreNAS-Ti-8M": Network(_TINY, "6:101100011010", 7.996552e6, 1.753e9, None, _PRENAS),
    "PreNAS-Ti-9M": Network(_TINY, "6:333332333233", 8.967016e6, 2.0065e9, None, _PRENAS),
    "PreNAS-Ti-10M": Network(_TINY, "8:33333001321213", 9.978232e6, 2.2213e9, None, _PRENAS),
    "PreNAS-Ti-11M": Network(_TINY, "8:33333333333333", 10.517272e6, 2.3537e9, None, _PRENAS),
}  # fmt: skip

# Of table 4 of DNA: DNA-c scaled, whose architectures `pynas scale` gives, and EfficientNets: parameters, top-1 on ImageNet.
SCALED: dict[str, tuple[float, float]] = {
    "DNA-c1": (7.5e6, 79.7), "DNA-c2": (8.8e6, 80.5), "DNA-c3": (12e6, 81.8), "DNA-c4": (19e6, 82.9), "DNA-c5": (30e6, 83.4),
    "EfficientNet-B0": (5.3e6, 76.3), "EfficientNet-B1": (7.8e6, 78.8), "EfficientNet-B2": (9.2e6, 79.8),
    "EfficientNet-B3": (12e6, 81.1), "EfficientNet-B4": (19e6, 82.6), "EfficientNet-B5": (30e6, 83.3),
}  # fmt: skip


def published(text: str, space: str) -> str:
    """Return the architecture that a name stands for in a space; any other text as it is.

    Raises:
        InputError: a name of other spaces.
    """
    found = NETWORKS.get(text)
    if found is None:
        return text
    if space not in found.spaces:
        raise InputError(f"[{space}] expected an architecture of this space, got {text!r}, which is one of "
                         f"{' and '.join(found.spaces)}; use that space")  # fmt: skip
    return found.architecture
