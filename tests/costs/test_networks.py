"""Sizes of the published networks against the figures that the papers print, each by the paper's way of counting."""

import pytest
import torch
from torch import nn

import pynas
from pynas import costs, export, spaces
from pynas.spaces import NETWORKS

IMAGES = (3, 224, 224)


def counted(name, space=None):
    """The network without weights, and its parameters and MAdds."""
    with torch.device("meta"):
        model = export.standalone(*spaces.network(name, space), 1000)
    return model, costs.count_module(model, IMAGES)[0]


def batch_norm_elements(model):
    """Output elements of all batch norms, for one image."""
    elements = []
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_hook(lambda module, inputs, output: elements.append(output.numel()))
    model.eval()(torch.zeros(1, *IMAGES, device="meta"))
    return sum(elements)


@pytest.mark.parametrize("name", ["DNA-a", "DNA-b", "DNA-c", "DNA-d"])
def test_dna_as_printed(name):
    """Table 2 prints parameters to 0.1 M and FLOPs to 1 M; FLOPs are MAdds and 2 per batch-norm output element."""
    model, found = counted(name)
    assert found["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert round(found["params"] / 1e6, 1) * 1e6 == pytest.approx(NETWORKS[name].params)
    assert round((found["madds"] + 2 * batch_norm_elements(model)) / 1e6) * 1e6 == NETWORKS[name].flops


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("BossNAS-size",)])
def test_printed_figures_are_near(name):
    """Within 5 percent: no printed figure belongs to another network."""
    _, found = counted(name)
    printed = NETWORKS[name]
    assert printed.flops == pytest.approx(found["madds"], rel=0.05)
    assert printed.params is None or printed.params == pytest.approx(found["params"], rel=0.011)


@pytest.mark.parametrize("name, params, madds", [
    ("ResNeSt-50", 27_483_240, 5.3712), ("Pi-NAS-cls", 27_048_648, 5.3323), ("Pi-NAS-trans", 27_039_016, 5.2536),
    ("PreNAS-Ti", 5_994_760, None), ("PreNAS-Ti-7M", 6_997_192, None), ("PreNAS-Ti-8M", 7_996_552, None),
    ("PreNAS-Ti-9M", 8_967_016, None), ("PreNAS-Ti-10M", 9_978_232, None), ("PreNAS-Ti-11M", 10_517_272, None),
])  # fmt: skip
def test_exact_counts_of_the_released_networks(name, params, madds):
    _, found = counted(name)
    assert found["params"] == params and madds in (None, round(found["madds"] / 1e9, 4))


def test_a_network_trains_from_scratch_by_one_call():
    model = export.standalone(*spaces.network("DNA-c"), num_classes=7)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def squeeze_costs(channels, hidden, se=0.25):
    """Parameters and MAdds for one image of two 1x1 convolutions with biases on a pooled map."""
    reduced = int(channels * se)
    return 2 * hidden * reduced + hidden + reduced, 2 * hidden * reduced


def test_without_squeeze_excitation():
    """Costs are those of the benchmark's space less each block's two squeeze convolutions, those of stem and head too."""
    text = "01|2310|3123|0012|3210"
    with_se, without = spaces.get("mbconv-boss"), spaces.get("mbconv-boss-no-se")
    whole, bare = (costs.count(pynas.supernet(space), IMAGES).of(space.parse(text)) for space in (with_se, without))
    specs = [
        layer[c]
        for (cell,), choice in zip(with_se.blocks, with_se.parse(text))
        for layer, c in zip(cell.layers, choice.path)
    ]
    hidden = [(32, 32), *((spec.in_channels, spec.in_channels * spec.expand) for spec in specs), (192, 192 * 6)]
    less = [sum(each) for each in zip(*(squeeze_costs(*widths) for widths in hidden))]
    assert [whole[name] - bare[name] for name in ("params", "madds")] == less
    model = export.standalone(without, text, 1000)
    assert not [name for name, _ in model.named_modules() if name.endswith("se.reduce")]
    assert sum(parameter.numel() for parameter in model.parameters()) == bare["params"]


def test_networks_without_squeeze_excitation_are_taken_out_and_kept(tmp_path):
    torch.manual_seed(0)
    blocks = ((2, ((1, 8), (2, 12))), (1, ((2, 16),)))
    space = spaces.mbconv(
        "small-no-se", blocks, ((6, 3), (3, 5)), spaces.mbconv_boss().stem, 32, 24, image_size=32, se=0
    )
    net = pynas.supernet(space, 3).eval()
    images = torch.randn(2, 3, 32, 32)
    model = export.subnet(net, "1:01|10")
    torch.testing.assert_close(model(images), net(images, space.parse("1:01|10")))
    export.save_subnet(
        tmp_path / "subnet.safetensors", model, space, space.parse("1:01|10"), 3, image_shape=[3, 32, 32]
    )
    again, _ = export.load_subnet(tmp_path / "subnet.safetensors", space)
    torch.testing.assert_close(again.eval()(images), model(images))
