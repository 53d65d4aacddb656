"""The figure of a front: both files, with every point."""

import re

from pynas.report import draw_front


def test_every_point_is_drawn(tmp_path):
    front = [(1e6, 5.0), (2e6, 4.0), (3e6, 3.5)]
    png, svg = draw_front(tmp_path / "front", "madds", front, front[1:], limit=2.5e6)
    assert png.read_bytes()[:4] == b"\x89PNG" and png.stat().st_size > 5000
    text = svg.read_text()
    # matplotlib writes a scatter as one group of <use> marks; labels are drawn as outlines with the text in a comment.
    marks = [
        len(re.findall("<use ", part)) for part in re.findall(r'id="PathCollection_\d+">(.*?)</g>\s*</g>', text, re.S)
    ]
    assert marks[:2] == [3, 2]
    for label in ("front (3 architectures)", "chosen", "limit", "MAdds", "best"):
        assert f"<!-- {label} -->" in text
    assert draw_front(tmp_path / "again", "madds", front, front[1:], limit=2.5e6)[0].read_bytes() == png.read_bytes()


def test_a_front_of_one_point(tmp_path):
    assert all(path.exists() for path in draw_front(tmp_path / "one", "latency", [(1.0, 2.0)]))
