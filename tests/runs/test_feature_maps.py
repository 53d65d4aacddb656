"""Feature maps of teacher and student (DNA, figure 10): their channels and values, and the pictures."""

import numpy as np
import pytest
import torch

from pynas import runs
from pynas.runs.feature_maps import FILE, read_feature_maps
from pynas.runs.report import run_page
from pynas.supernets.modes import batch_statistics


@pytest.mark.parametrize("width", ["projection", "teacher"])
def test_the_maps_are_the_teachers_and_the_paths(tmp_path, width):
    run = runs.create(
        tmp_path / "run", data="digits", limit_images=100, batch_size=25, epochs=1, options={"width": width}
    )
    run.train()
    run.rate("relative_l1")
    run.search()
    exported = run.export()
    blocks, teacher, student = read_feature_maps(run.folder / FILE)
    assert blocks == [1, 2, 3, 4]
    method, _ = run.trained_method()
    images, _ = next(iter(run.loader("val")))
    features, _ = method.targets(images)
    x, architecture = method.net.enter(images), run.space.parse(exported["architecture"])
    for b, choice in enumerate(architecture):
        theirs = features[b][0].flatten(1)
        order = theirs.var(1).argsort(descending=True)[:8]
        torch.testing.assert_close(torch.from_numpy(teacher[b]), features[b][0][order], atol=1e-4, rtol=1e-3)
        with batch_statistics(method.net), torch.no_grad():
            output = method.net.run_path(b, choice, x)[0]
        torch.testing.assert_close(torch.from_numpy(student[b]), output[order], atol=1e-3, rtol=1e-3)
        x = features[b]
    assert all((run.folder / f"feature_maps.{ending}").exists() for ending in ("png", "svg"))
    _, html, sections = run_page(run.folder)
    assert "Teacher and student" in sections and html.count("<image") == 2 * sum(map(len, teacher))


def test_a_student_that_is_the_teacher_has_the_same_maps(tmp_path):
    from pynas.report.feature_maps import feature_maps_figure

    maps = [np.random.default_rng(0).random((3, 4, 4))]
    figure = feature_maps_figure([2], maps, maps)
    panels = [axes.images[0] for axes in figure.axes]
    assert len(panels) == 6
    for theirs, ours in zip(panels[:3], panels[3:]):
        assert np.array_equal(theirs.get_array(), ours.get_array()) and theirs.get_clim() == ours.get_clim()
