"""Small stand-ins of other projects' supernets, written anew in their style: for tests, and for `bench.rating --case others`."""

from __future__ import annotations

from collections.abc import Callable

from bench.families import autoformer, bossnas, cells, darts, once_for_all, single_path, vision
from bench.families.family import NORMS, Family

# By name; called with "test" or "bench" for the size.
FAMILIES: dict[str, Callable[[str], Family]] = {
    "ofa-layers": once_for_all.elastic_layers,
    "ofa-depth": once_for_all.elastic_layers_and_depth,
    "ofa-resnet": once_for_all.resnet,
    "ofa-networks": once_for_all.networks,
    "autoformer": autoformer.layers,
    "autoformer-networks": autoformer.networks,
    "prenas": autoformer.layers_and_depth,
    "spos": single_path.one_shot,
    "few-shot": single_path.few_shot,
    "dna-layers": single_path.dna_layers,
    "dna-block": single_path.dna_block,
    "dna-codes": single_path.dna_codes,
    "bossnas-mbconv": bossnas.mbconv,
    "bossnas-nats": bossnas.nats,
    "bossnas-hytra": bossnas.hytra,
    "nasbench201": cells.bench_cell,
    "nasbench201-untracked": cells.bench_cell_untracked,
    "nasbench201-edges": cells.bench_edges,
    "nasbench301": darts.networks,
    "pc-darts": darts.partial_networks,
    "resnet18": vision.resnet18,
    "mobilenet-v3": vision.mobilenet_v3,
    "timm-efficientnet": vision.timm_efficientnet,
    "timm-vit": vision.timm_vit,
    "timm-convnext": vision.timm_convnext,
    "torch-encoder": vision.encoder_layers,
}

__all__ = ["FAMILIES", "NORMS", "Family"]
