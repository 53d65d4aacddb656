"""The figure of accuracies: its lines, and the runs that it refuses."""

import pytest
from matplotlib.figure import Figure

from pynas.errors import InputError
from pynas.report import draw_accuracies


def test_lines_are_means_over_runs(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **more: (drawn.append(self), save(self, *args, **more)))
    runs = {"balanced": [([1e6, 2e6], [50, 60]), ([1e6, 3e6], [54, 62])], "spos": [([1e6, 2e6], [40, 41])]}
    paths = draw_accuracies(tmp_path / "found", runs, title="digits")
    assert [path.name for path in paths] == ["found.png", "found.svg"] and all(path.stat().st_size for path in paths)
    (axes,) = drawn[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines == {"balanced (mean of 2 seeds)": [[1e6, 52], [2.5e6, 61]], "spos": [[1e6, 40], [2e6, 41]]}


@pytest.mark.parametrize("runs", [{}, {"a": []}, {"a": [([1], [2]), ([1, 2], [3, 4])]}, {"a": [([1, 2], [3])]}])
def test_runs_that_cannot_be_averaged_are_named(runs, tmp_path):
    with pytest.raises(InputError, match="equally many architectures"):
        draw_accuracies(tmp_path / "found", runs)
