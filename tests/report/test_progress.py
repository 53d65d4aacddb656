"""The figure of best scores so far, read off the SVG and the axes."""

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from pynas.errors import InputError
from pynas.report import draw_progress
from pynas.report.progress import _draw, _leave_out_the_start


def test_files(tmp_path):
    runs = {"random": [np.array([3.0, 2.0, 2.0]), np.array([4.0, 1.0])], "evolution": [np.array([3.0, 1.0, 0.5])]}
    paths = draw_progress(tmp_path / "progress", runs, optimum=0.4, title="mini")
    assert [path.name for path in paths] == ["progress.png", "progress.svg"]
    pixels = image.imread(paths[0])
    assert pixels.shape[0] > 500 and 0.01 < (pixels[..., :3].min(2) < 0.9).mean() < 0.5
    text = paths[1].read_text()
    for words in ("random (median of 2 runs)", "evolution", "optimum", "architectures rated", "(lower is better)"):
        assert words in text


def test_curves():
    axes = Figure().add_subplot()
    curves = [np.array([5.0, 4.0, 1.0]), np.array([3.0, 3.0, 3.0, 0.0]), np.array([9.0, 2.0, 2.0])]
    _draw(axes, "random", curves, "C0")
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [1, 2, 3] and line.get_ydata().tolist() == [5, 3, 2]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 9)


def test_the_first_ratings_do_not_take_all_the_room():
    axes = Figure().add_subplot()
    curve = np.concatenate([[90.0, 80.0], np.full(18, 7.0), np.full(20, 6.0)])
    _draw(axes, "random", [curve], "C0")
    _leave_out_the_start(axes, {"random": [curve]})
    assert axes.get_ylim() == pytest.approx((5.95, 7.05))


def test_bad_input(tmp_path):
    for runs in ({}, {"random": []}, {"random": [np.array([])]}):
        with pytest.raises(InputError, match="at least one rating in each run"):
            draw_progress(tmp_path / "progress", runs)


def test_trainings_of_blocks_stand_side_by_side():
    from pynas.report.training import joined_metrics

    first = [
        {"step": 1, "learning_rate": 0.1, "losses": {"block_1": 3.0}},
        {"step": 2, "learning_rate": 0.2, "losses": {"block_1": 2.0}},
    ]
    second = [{"step": 1, "learning_rate": 0.1, "losses": {"block_2": 5.0}}]
    assert joined_metrics([first, second]) == [
        {"step": 1, "learning_rate": 0.1, "losses": {"block_1": 3.0, "block_2": 5.0}},
        {"step": 2, "learning_rate": 0.2, "losses": {"block_1": 2.0}},
    ]
    assert joined_metrics([first]) == first and joined_metrics([]) == []
    assert first[0]["losses"] == {"block_1": 3.0}
