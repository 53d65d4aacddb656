"""Published architectures: their layers as the papers and the released code give them, and where their names are read."""

import json

import pytest
from typer.testing import CliRunner

from pynas import spaces
from pynas.cli import app
from pynas.errors import InputError
from pynas.spaces import NETWORKS

# Of DNA's released code: kernel and expansion of each layer, by block.
DNA = {
    "DNA-a": "k5e3 k3e3 k3e6 | k3e3 k3e3 k5e3 k3e6 | k7e6 k3e3 k5e3 k3e6 | k5e6 k5e3 k5e3 k5e6 | k5e6 k5e3 k5e3 k5e3 k5e6 | k3e6",
    "DNA-b": "k3e3 k5e3 k7e6 | k7e6 k5e3 k7e6 | k5e6 k5e3 k5e3 k3e6 | k5e6 k5e3 k5e3 k5e6 | k7e6 k5e3 k5e3 k5e3 k7e6 | k3e6",
    "DNA-c": "k5e6 k3e6 | k5e6 k5e6 k3e6 k5e6 | k5e6 k3e6 k5e6 k5e6 | k3e6 k5e6 k5e6 k5e3 | k5e6 k5e3 k5e6 k5e6 | k3e6",
    "DNA-d": "k7e6 k5e6 k7e6 | k7e6 k7e6 k7e6 k7e6 | k7e6 k5e6 k5e6 k7e6 | k7e6 k5e6 k7e6 k5e6 | "
    "k7e6 k5e6 k5e6 k5e6 k7e6 | k3e6",
}
# Of Pi-NAS's released code: the candidate of each of the 16 layers; ResNeSt-50 has the second one everywhere.
PINAS = {"Pi-NAS-cls": "3013231203213032", "Pi-NAS-trans": "3333113330011021", "ResNeSt-50": "1" * 16}
# Published with PreNAS: dimension, each layer's MLP ratio and heads.
PRENAS = {
    "PreNAS-Ti": (192, "4 4 4 4 4 3.5 3.5 4 4 3.5 4 4", "444433333434"),
    "PreNAS-Ti-7M": (216, "4 3.5 4 3.5 3.5 3.5 3.5 3.5 3.5 3.5 3.5 3.5", "444443334434"),
    "PreNAS-Ti-8M": (240, "4 3.5 4 4 3.5 3.5 3.5 4 4 3.5 4 3.5", "333333333333"),
    "PreNAS-Ti-9M": (240, "4 4 4 4 4 3.5 4 4 4 3.5 4 4", "444444444444"),
    "PreNAS-Ti-10M": (240, "4 4 4 4 4 3.5 3.5 4 4 3.5 4 3.5 4 4", "44444333443434"),
    "PreNAS-Ti-11M": (240, "4 " * 14, "4" * 14),
}


def chosen(space, architecture):
    """Descriptions of the layers, by block."""
    return [[layer[c] for layer, c in zip(cells[choice.cell].layers, choice.path, strict=True)]
            for cells, choice in zip(space.blocks, architecture, strict=True)]  # fmt: skip


@pytest.mark.parametrize("name", DNA)
def test_layers_of_dna(name):
    blocks = chosen(*spaces.network(name))
    assert " | ".join(" ".join(f"k{spec.kernel}e{spec.expand}" for spec in block) for block in blocks) == DNA[name]


@pytest.mark.parametrize("name", PINAS)
def test_candidates_of_pinas(name):
    _, architecture = spaces.network(name)
    assert "".join(str(c) for choice in architecture for c in choice.path) == PINAS[name]


@pytest.mark.parametrize("name", PRENAS)
def test_choices_of_prenas(name):
    space, architecture = spaces.network(name)
    dim, ratios, heads = PRENAS[name]
    assert space.describe(space, architecture) == {
        "dim": dim, "depth": len(heads), "heads": [int(h) for h in heads], "ratios": [float(r) for r in ratios.split()]
    }  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_every_space_of_a_name_reads_it(name):
    for space_name in NETWORKS[name].spaces:
        space, architecture = spaces.network(name, space_name)
        assert space.name == space_name and space.parse(f" {name} ") == space.resolve(name) == architecture
        assert space.format(architecture) == NETWORKS[name].architecture
    assert spaces.network(name)[0].name == NETWORKS[name].spaces[0]


def test_names_belong_to_their_spaces():
    assert spaces.get("hytra-se").parse("BossNet-T0") == spaces.get("hytra").parse("1|1|11101|000100000")
    assert spaces.network("BossNet-T1", "hytra-s1")[0].name == "hytra-s1"
    with pytest.raises(
        InputError, match=r"\[hytra\] expected .* got 'BossNet-T1', which is one of hytra-se-s1 and hytra-s1;"
    ):
        spaces.get("hytra").parse("BossNet-T1")
    with pytest.raises(
        InputError, match=r"\[mbconv-dna-single\] expected .* got 'DNA-a', which is one of mbconv-dna-a;"
    ):
        spaces.network("DNA-a", "mbconv-dna-single")
    for given in ("BosNet-T0", "bossnet-T0"):
        with pytest.raises(InputError, match="DNA-a, .* did you mean 'BossNet-T0'"):
            spaces.network(given, "hytra")


def test_the_command_lists_them_beside_the_printed_figures():
    result = CliRunner().invoke(app, ["spaces", "--networks", "--json"], catch_exceptions=False)
    content = json.loads(result.stdout)
    assert list(content) == list(NETWORKS)
    assert content["DNA-c"] == {
        "spaces": ["mbconv-dna-single"],
        "architecture": "10|1101|1011|0114|1411|0",
        "params": 5_273_896,
        "madds": 450_138_976,
        "published": {"params": 5.3e6, "flops": 466e6, "top1": 77.8, "source": NETWORKS["DNA-c"].source},
    }
    shown = CliRunner().invoke(app, ["spaces", "--networks"], catch_exceptions=False).stdout
    assert all(name in shown for name in NETWORKS) and "450.14M" in shown and "(466M)" in shown
