"""NAS-Bench-201's space against the published table."""

import numpy as np
import pytest

from pynas import spaces, tabular
from pynas.errors import InputError
from pynas.spaces import Architecture


def test_it_is_the_published_table_row_by_row():
    space, bench = spaces.get("nasbench201"), tabular.load("nasbench201")
    assert space.size == len(bench) == 5**6
    for row in np.random.default_rng(0).integers(0, len(bench), 300).tolist():
        architecture = space.parse(bench.architectures[row])
        assert architecture[0].path == tuple(bench.choices[row].tolist())
        assert space.format(architecture) == bench.architectures[row]
        assert space.parse(str(architecture)) == architecture


def test_pinas_ranks_729_of_them():
    space, bench = spaces.get("nasbench201-3"), tabular.load("nasbench201").without("none", "skip_connect")
    written = {space.format(Architecture((choice,))) for choice in space.paths(0)}
    assert space.size == 729 and written == set(bench.architectures)


@pytest.mark.parametrize(
    "text",
    [
        "|none~0|+|nor_conv_1x1~0|nor_conv_1x1~1|+|nor_conv_1x1~0|nor_conv_1x1~1|nor_conv_1x1~2|",
        "|nor_conv_1x1~0|+|nor_conv_1x1~0|nor_conv_1x1~1|",
        "|nor_conv_1x1~1|+|nor_conv_1x1~0|nor_conv_1x1~1|+|nor_conv_1x1~0|nor_conv_1x1~1|nor_conv_1x1~2|",
        "|conv~0|",
    ],
)
def test_what_is_no_cell_of_the_space_is_refused(text):
    with pytest.raises(InputError, match=r"\[nasbench201\] expected"):
        spaces.get("nasbench201-3").parse(text)


@pytest.mark.parametrize(
    "bad", [{"ops": ("conv",)}, {"ops": ()}, {"ops": ("none", "none")}, {"n": 0}, {"channels": ()}]
)
def test_bad_arguments(bad):
    with pytest.raises(InputError, match=r"\[nasbench201\] expected"):
        spaces.nasbench201(**bad)
