"""Every product counts: by formulas written out here, and against fvcore, which counts in torch's traced graph."""

import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas import costs
from pynas.costs.operators import counting


def madds(call, *shapes):
    torch.manual_seed(0)
    with torch.no_grad(), counting() as counter:
        call(*(torch.randn(*shape) for shape in shapes))
    return counter.madds, counter.uncounted


PRODUCTS = [
    ("matrix times vector", lambda a, b: a @ b, [(3, 4), (4,)], 12),
    ("addmv", torch.addmv, [(3,), (3, 4), (4,)], 12),
    ("dot", torch.dot, [(5,), (5,)], 5),
    ("vdot", torch.vdot, [(5,), (5,)], 5),
    ("inner", torch.inner, [(2, 5), (3, 5)], 30),
    ("outer", torch.outer, [(3,), (4,)], 12),
    ("ger", lambda a, b: a.ger(b), [(3,), (4,)], 12),
    ("addr", torch.addr, [(3, 4), (3,), (4,)], 12),
    ("addbmm", torch.addbmm, [(2, 4), (3, 2, 5), (3, 5, 4)], 3 * 2 * 5 * 4),
    ("baddbmm", torch.baddbmm, [(3, 2, 4), (3, 2, 5), (3, 5, 4)], 3 * 2 * 5 * 4),
    ("in place", lambda a, b, c: a.addmm_(b, c), [(2, 4), (2, 5), (5, 4)], 40),
    ("into a tensor", lambda a, b: torch.mm(a, b, out=torch.empty(2, 4)), [(2, 5), (5, 4)], 40),
    ("einsum", lambda a, b: torch.einsum("bi,ij->bj", a, b), [(2, 5), (5, 4)], 40),
    ("einsum to a number", lambda a, b: torch.einsum("bi,bi->", a, b), [(2, 5), (2, 5)], 10),
    ("tensordot", lambda a, b: torch.tensordot(a, b, 2), [(3, 4), (3, 4)], 12),
    ("multi_dot", lambda *all: torch.linalg.multi_dot(all), [(2, 3), (3, 4), (4, 5)], 24 + 40),
    ("power", lambda a: torch.linalg.matrix_power(a, 3), [(4, 4)], 128),
    ("bilinear", F.bilinear, [(2, 3), (2, 4), (5, 3, 4)], 2 * 60),
    ("transposed convolution", F.conv_transpose2d, [(2, 3, 5, 5), (3, 4, 2, 2)], 2 * 25 * 3 * 4 * 4),
    ("conv_tbc", torch.conv_tbc, [(7, 2, 3), (3, 3, 4), (4,)], 5 * 2 * 3 * 3 * 4),
    ("attention", F.scaled_dot_product_attention, [(2, 3, 5, 4)] * 3, 2 * 2 * 3 * 25 * 4),
    ("attention of other lengths", F.scaled_dot_product_attention, [(1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 4)], 2 * 2 * 35 * 4),
    ("affine grid", lambda a: F.affine_grid(a, [2, 3, 4, 5], align_corners=False), [(2, 2, 3)], 2 * 20 * 6),
]  # fmt: skip


@pytest.mark.parametrize("call, shapes, right", [pytest.param(*case[1:], id=case[0]) for case in PRODUCTS])
def test_products(call, shapes, right):
    assert madds(call, *shapes) == (right, set())


def test_elementwise_and_the_like_are_no_products():
    def call(x, grid):
        x = F.avg_pool2d(F.gelu(x * x + x), 2).cumsum(1) / x.std()
        return F.grid_sample(F.interpolate(x, scale_factor=2, mode="bilinear"), grid, align_corners=False).sort().values

    assert madds(call, (2, 3, 8, 8), (2, 4, 4, 2)) == (0, set())


@pytest.mark.parametrize("call, shapes, names", [
    (lambda x: torch.fft.rfft(x), [(3, 4)], {"aten._fft_r2c"}),
    (torch.cdist, [(3, 4), (5, 4)], {"aten._cdist_forward"}),
    (torch.linalg.inv, [(3, 3)], {"aten.linalg_inv_ex"}),
    (torch.linalg.solve, [(3, 3), (3, 2)], {"aten._linalg_solve_ex"}),
    (lambda x: torch.sparse.mm(x.to_sparse(), x), [(3, 3)], {"aten._sparse_addmm"}),
])  # fmt: skip
def test_operators_without_a_formula_are_listed(call, shapes, names):
    assert madds(call, *shapes) == (0, names)


@pytest.fixture(scope="module")
def doubling():
    library = torch.library.Library("pynas_tests", "DEF")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda x: 2 * x, "CompositeExplicitAutograd")
    torch.library.register_fake("pynas_tests::double", torch.empty_like, lib=library)
    yield torch.ops.pynas_tests.double
    library._destroy()


def test_uncounted_operators_are_said(doubling):
    class Double(nn.Module):
        def forward(self, x):
            return doubling(torch.fft.fft(x).real)

    names = ["aten._fft_r2c", "pynas_tests.double"]
    with pytest.warns(UserWarning, match="got aten._fft_r2c, pynas_tests.double, which count 0"):
        assert costs.count_module(Double(), (4,))[0]["madds"] == 0
    assert costs.uncounted(Double(), (4,)) == names and costs.uncounted(nn.Linear(4, 4), (4,)) == []
    net = pynas.Supernet([[[[Double(), nn.Linear(4, 4)]]]])
    with pytest.warns(UserWarning, match="count 0") as caught:
        table = costs.count(net, (4,))
    assert len(caught) == 1 and table.metadata["uncounted"] == names


class First(nn.Module):
    """The first output of a module, which may look at values, so that it does not run on the meta device."""

    def __init__(self, module, look=False):
        super().__init__()
        self.module, self.look = module, look

    def forward(self, x):
        x = x * float(x.max() > 0) if self.look else x
        output = self.module(x, x, x) if isinstance(self.module, nn.MultiheadAttention) else self.module(x)
        return output[0] if isinstance(output, tuple) else output


ATTENTION = 5 * 4 * 64 + 2 * 25 * 8
LAYERS = [
    (nn.GRU(8, 6, batch_first=True), 5 * 18 * (8 + 6)),
    (nn.RNN(8, 6), 5 * 6 * (8 + 6)),
    (nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True), 5 * 2 * 24 * (8 + 6 + 12 + 6)),
    (nn.LSTM(8, 6, proj_size=2, batch_first=True), 5 * (24 * (8 + 2) + 2 * 6)),
    (nn.GRUCell(8, 6), 18 * (8 + 6)),
    (nn.MultiheadAttention(8, 2, batch_first=True), ATTENTION),
    (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), ATTENTION + 5 * 2 * 128),
    (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True).eval(), ATTENTION + 5 * 2 * 128),
]


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("module, right", LAYERS)
def test_recurrent_and_attention_layers(module, right, look):
    shape = (8,) if isinstance(module, nn.GRUCell) else (5, 8)
    counted, output = costs.count_module(First(module, look), shape)
    assert counted["madds"] == right and counted["params"] == sum(p.numel() for p in module.parameters())
    assert costs.uncounted(First(module, look), shape) == [] and output[:-1] == shape[:-1]


def test_a_gru_alone():
    counted, shape = costs.count_module(nn.GRU(128, 128, batch_first=True), (32, 128))
    assert shape == (32, 128)
    assert counted["params"] == 99_072 and counted["madds"] == 32 * 3 * 128 * (128 + 128) == 3_145_728
    assert counted["memory"] == 4 * (99_072 + 32 * 128 + 128)


def test_packed_sequences():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(8, 6, batch_first=True)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, [5] * len(x), batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]

    assert costs.count_module(Packed(), (5, 8))[0]["madds"] == 5 * 24 * (8 + 6)


@pytest.mark.parametrize("causal", [False, True])
def test_fused_layers_count_as_their_parts(causal):
    """torch's fused encoder layer, called as its fast path does."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    attention, mask = layer.self_attn, torch.zeros(5, 5, dtype=torch.bool) if causal else None

    def fused(x):
        return torch._transformer_encoder_layer_fwd(
            x, 8, 2, attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias,
            False, False, 1e-5, layer.norm1.weight, layer.norm1.bias, layer.norm2.weight, layer.norm2.bias,
            layer.linear1.weight, layer.linear1.bias, layer.linear2.weight, layer.linear2.bias, mask, 0 if causal else None,
        )  # fmt: skip

    assert madds(fused, (1, 5, 8)) == (ATTENTION + 5 * 2 * 128, set())


# Names of timm's models, and the size of their images in the quick set.
QUICK = {"resnet18": 64, "mobilenetv3_small_050": 64, "convnext_atto": 64, "vit_tiny_patch16_224": 224, "poolformer_s12": 64,
         "resnest14d": 64}  # fmt: skip
SLOW = ["efficientnet_b0", "regnetx_002", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224",
        "levit_128s", "ghostnet_050", "cait_xxs24_224", "coatnet_pico_rw_224", "densenet121", "mobilevit_xxs", "pit_ti_224",
        "xcit_nano_12_p16_224", "edgenext_xx_small"]  # fmt: skip
# fvcore counts norms and pooling too, under names of their own, and no fused attention, which timm can do without.
MATRIX = ("conv", "linear", "addmm", "mm", "bmm", "matmul", "einsum")


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_timm_models_as_fvcore_counts_them(name):
    counter = pytest.importorskip("fvcore.nn")
    model = timm.create_model(name, num_classes=10).eval()
    for part in model.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    side = QUICK.get(name, model.default_cfg["input_size"][1])
    counted, _ = costs.count_module(model, (3, side, side))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        analysis = counter.FlopCountAnalysis(model, torch.zeros(1, 3, side, side))
        by_operator = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    assert counted["madds"] == sum(by_operator[operator] for operator in MATRIX)
    assert counted["params"] == sum(parameter.numel() for parameter in model.parameters())
