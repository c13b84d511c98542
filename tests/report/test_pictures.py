"""Pictures put every example where it belongs, at its brightness."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sde_score.data import Scaling, from_tensor
from sde_score.report import examples_figure, save_examples
from sde_score.report.files import save_samples
from sde_score.report.pictures import in_shown_range, labeled_panels, mosaic, png, training_curve


def test_mosaic_reads_left_to_right_and_top_to_bottom():
    values = torch.linspace(-1, 1, 5)
    sheet = mosaic(values.reshape(5, 1, 1, 1).expand(5, 1, 2, 3), columns=3)
    assert sheet.shape == (2 * 3 - 1, 3 * 4 - 1, 1)
    corners = [sheet[3 * (i // 3), 4 * (i % 3), 0].item() for i in range(5)]
    assert corners == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert sheet[3:, 8:].eq(1).all()  # the place left over
    assert sheet[2].eq(1).all()  # the line between rows


def test_mosaic_keeps_colors_and_clips():
    red = torch.tensor([3.0, -1.0, -5.0]).reshape(1, 3, 1, 1)
    assert mosaic(red, 1).flatten().tolist() == [1, 0, 0]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 9), (2,), (7,), (4, 5)])
def test_any_shape_is_drawn(shape):
    drawn = png(examples_figure(torch.randn(9, *shape), columns=3, title="nine"))
    ink = np.asarray(Image.open(io.BytesIO(drawn)).convert("L"))
    assert ink.min() < 128 < ink.max()


def test_points_share_one_window():
    panels = [("a", torch.zeros(3, 2)), ("b", torch.full((3, 2), 4.0))]
    figure = labeled_panels([*panels, panels[0]], 1, 1.0, per_row=2)
    drawn = figure.axes[:3]
    assert [axes.get_xlim() for axes in drawn] == [(-4, 4)] * 3
    assert [axes.get_title() for axes in drawn] == ["a", "b", "a"]
    assert not figure.axes[3].axison  # the place left over


def test_training_curve_shows_the_records():
    records = [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25}]
    line = training_curve(records).axes[0].lines[0]
    assert line.get_xdata().tolist() == [10, 20]
    assert line.get_ydata().tolist() == [0.5, 0.25]


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_examples(torch.zeros(4, 1, 8, 8), path)
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", _fail)
    with pytest.raises(OSError, match="full"):
        save_examples(torch.ones(4, 1, 8, 8), path)
    assert path.read_bytes() == before


def _fail(*_):
    raise OSError("disk full")


def test_samples_on_disk_are_raw_levels(tmp_path):
    scaling = Scaling.discrete(4)
    x = scaling.to_model(torch.tensor([[0, 1], [2, 3]]))
    save_samples(x, tmp_path / "x.npz", scaling, labels=torch.tensor([5, 6]))
    stored = np.load(tmp_path / "x.npz", allow_pickle=False)
    assert stored["samples"].tolist() == [[0, 1], [2, 3]]
    assert stored["labels"].tolist() == [5, 6]


@pytest.mark.parametrize("shape", [(3, 128, 96), (1, 20, 200)])
def test_large_images_are_drawn_pixel_by_pixel(tmp_path, shape):
    scaling = Scaling.discrete(256)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(256, (5, *shape), generator=generator, dtype=torch.uint8)
    save_samples(scaling.to_model(raw), tmp_path / "x.png", scaling)
    drawn = torch.as_tensor(np.array(Image.open(tmp_path / "x.png").convert("RGB")))
    height, width = shape[1] + 1, shape[2] + 1
    assert drawn.shape == (3 * height - 1, 2 * width - 1, 3)
    for index, image in enumerate(raw):
        top, left = index // 2 * height, index % 2 * width
        here = drawn[top : top + height - 1, left : left + width - 1]
        difference = here.int() - image.expand(3, -1, -1).permute(1, 2, 0).int()
        assert difference.abs().max() <= 1


@pytest.mark.parametrize(("black", "white"), [(0, 1), (-1, 1), (0, 255), (300, 340)])
def test_continuous_images_are_drawn_from_black_to_white_of_their_own_range(black, white):
    """The picture is that of the same images as levels."""
    levels = torch.linspace(0, 255, 4 * 16 * 16).round().reshape(4, 1, 16, 16)
    data = from_tensor(black + (white - black) * levels / 255)
    drawn = in_shown_range(data.tensor(), data.scaling)
    expected = Scaling.discrete(256).to_model(levels.to(torch.uint8))
    assert (drawn - expected).abs().max() < (0.01 if black < 300 else 0.03)
    assert torch.equal(in_shown_range(expected, Scaling.discrete(256)), expected)


def test_a_few_samples_beyond_the_range_do_not_change_it():
    data = from_tensor(torch.rand(10, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    x = data.tensor()
    before = in_shown_range(x, data.scaling)
    x[0, 0, 0, :8] = 30.0
    assert torch.equal(in_shown_range(x, data.scaling)[1:], before[1:])
