from __future__ import annotations

import io
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from rlhf_lessons.classroom import style


def lab_of(rgb):
    """CIELAB of an sRGB colour in 0..1 (D65), from the CIE's formulas."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(matrix) @ linear / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes 2009, severity 1: how people without one cone type see colours.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


def rgb_of(color):
    return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_first_four_colours_stay_apart(deficiency):
    seen = [
        lab_of(np.clip(np.array(DEFICIENCIES[deficiency]) @ rgb_of(color), 0, 1))
        for color in style.COLORS[:4]
    ]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(distances) > 18


def test_every_colour_has_its_own_line_style():
    assert len(set(style.COLORS)) == len(set(style.LINE_STYLES)) == 6
    cycle = list(style._settings()["axes.prop_cycle"])
    assert [c["color"] for c in cycle] == list(style.COLORS)
    assert [c["linestyle"] for c in cycle] == list(style.LINE_STYLES)


@pytest.mark.parametrize("color", style.TEXT_COLORS)
def test_labels_can_be_read_on_white(color):
    rgb = rgb_of(color)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5


def test_a_picture_is_white_opaque_and_the_same_each_time():
    figure = style.new_figure((4.0, 2.0))
    figure.subplots().plot([0, 1], [0, 1])
    first = style.png(figure)
    image = Image.open(io.BytesIO(first))
    assert image.mode == "RGB"
    assert image.size == (600, 300)
    assert image.getpixel((1, 1)) == (255, 255, 255)
    assert style.png(figure) == first
    assert image.info == {} or set(image.info) <= {"dpi"}


def test_fast_compression_shows_the_same_pixels():
    figure = style.new_figure((4.0, 2.0))
    figure.subplots().plot([0, 1], [0, 1])
    small, fast = (Image.open(io.BytesIO(style.png(figure, level))) for level in (9, 1))
    assert np.array_equal(np.asarray(small), np.asarray(fast))


def test_settings_are_put_back_after_drawing():
    before = matplotlib.rcParams["axes.grid"]
    with style.drawing():
        assert matplotlib.rcParams["axes.grid"] is True
        assert matplotlib.rcParams["figure.facecolor"] == "white"
    assert matplotlib.rcParams["axes.grid"] == before


def test_use_style_stays():
    with matplotlib.rc_context():
        style.use_style()
        assert matplotlib.rcParams["axes.grid"] is True
        assert matplotlib.rcParams["axes.spines.top"] is False


def test_an_image_names_itself_and_keeps_its_place():
    element = style.img(b"\x89PNG", 'a "quote" & <sign>', (7.2, 3.6))
    assert 'alt="a &quot;quote&quot; &amp; &lt;sign&gt;"' in element
    assert 'width="720" height="360"' in element
    assert re.search(r'src="data:image/png;base64,iVBORw=="', element)


def test_a_label_sits_at_the_end_of_its_line():
    figure = style.new_figure()
    axes = figure.subplots()
    (line,) = axes.plot([0, 1, 5], [2, 3, 7])
    label = style.label_line(axes, line, "γ = 0.9", index=2)
    assert label.xy == (5, 7)
    assert label.get_text() == "γ = 0.9"
    assert label.get_color() == style.TEXT_COLORS[2]


def test_importing_the_classroom_is_light():
    """Pictures and models are imported when they are first needed."""
    code = (
        "import sys, rlhf_lessons.classroom; "
        "print([m for m in ('matplotlib', 'transformers', 'torch') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
