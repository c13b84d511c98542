"""Pictures put every example where it belongs, at its brightness."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sde_score.data import Scaling, from_tensor, load
from sde_score.report import examples_figure, save_examples
from sde_score.report.curves import training_curve
from sde_score.report.files import save_samples
from sde_score.report.look import Look, mosaic
from sde_score.report.pictures import labeled_panels, png

TABLES = [(1,), (2,), (4,), (7,), (40,)]


def test_mosaic_reads_left_to_right_and_top_to_bottom():
    values = torch.tensor([0, 64, 128, 192, 255], dtype=torch.uint8)
    sheet = mosaic(values.reshape(5, 1, 1, 1).expand(5, 1, 2, 3), columns=3)
    assert sheet.shape == (2 * 3 - 1, 3 * 4 - 1, 1)
    corners = [sheet[3 * (i // 3), 4 * (i % 3), 0].item() for i in range(5)]
    assert corners == values.tolist()
    assert sheet[3:, 8:].eq(255).all()  # the place left over
    assert sheet[2].eq(255).all()  # the line between rows


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 8, 9), (2, 8, 8), (1, 4, 8, 8), *TABLES, (4, 5), (2, 1, 9)]
)
def test_any_shape_is_drawn(shape):
    drawn = png(examples_figure(torch.randn(9, *shape), columns=3, title="nine"))
    ink = np.asarray(Image.open(io.BytesIO(drawn)).convert("L"))
    assert ink.min() < 128 < ink.max()


def test_points_share_one_window():
    panels = [("a", torch.zeros(3, 2)), ("b", torch.full((3, 2), 4.0))]
    figure = labeled_panels([*panels, panels[0]], Look(), 1, 1.0, per_row=2)
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
    save_samples(x, tmp_path / "x.npz", scaling, torch.tensor([5, 6]))
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


def look_of(data):
    return Look(data.scaling, *data.value_range(), data.column_names)


@pytest.mark.parametrize(("black", "white"), [(0, 1), (-1, 1), (0, 255), (300, 340)])
@pytest.mark.parametrize("known", [True, False])
def test_continuous_images_are_drawn_from_black_to_white_of_their_own_range(black, white, known):
    """The picture is that of the same images as levels; a sample alone changes nothing if the
    range is known."""
    levels = torch.linspace(0, 255, 4 * 16 * 16).round().reshape(4, 1, 16, 16)
    data = from_tensor(black + (white - black) * levels / 255)
    look = look_of(data) if known else Look(data.scaling)
    drawn = look.images(data.tensor())
    assert drawn.shape == (4, 1, 1, 16, 16)
    error = (drawn[:, 0].double() - levels).abs().max()
    assert error <= (1 if known or black < 300 else 4)
    if known:
        assert torch.equal(look.images(data.tensor()[2:3]), drawn[2:3])


def test_levels_are_drawn_from_black_to_white():
    raw = torch.arange(17, dtype=torch.uint8).reshape(1, 1, 17, 1).expand(2, 1, 17, 17)
    scaling = Scaling.discrete(17)
    drawn = Look(scaling).images(scaling.to_model(raw))
    assert drawn[0, 0, 0, :, 0].tolist() == [round(255 * level / 16) for level in range(17)]


def test_what_is_no_number_or_beyond_the_range_is_drawn_all_the_same():
    x = torch.zeros(3, 1, 8, 8)
    x[0, 0, 0, 0], x[0, 0, 0, 1], x[0, 0, 0, 2] = torch.nan, 30.0, -torch.inf
    drawn = Look(Scaling(), (-1.0,), (1.0,)).images(x)
    assert drawn[0, 0, 0, 0, :3].tolist() == [128, 255, 128]


def test_channels_of_a_field_lie_apart_each_in_its_own_range():
    wave = torch.linspace(-1, 1, 64).expand(5, 64, 64)
    data = from_tensor(torch.stack([wave, 1e5 + 300 * wave.mT], 1))
    look = look_of(data)
    assert look.images(data.tensor()).shape == (5, 2, 1, 64, 64)
    sheet = look.sheet(data.tensor(), 3)
    assert sheet.shape == (2 * 65 - 1, 2 * (3 * 65 - 1) + 6, 3)
    first, second = sheet[:64, :64, 0], sheet[:64, 3 * 65 + 5 :][:, :64, 0]
    assert (first.int() - second.T.int()).abs().max() <= 1  # standardized by float32
    assert (first[0, 0].item(), first[0, -1].item()) == (0, 255)


def test_a_field_is_saved_as_a_map_for_each_channel_with_its_scale():
    wave = torch.linspace(-1, 1, 16).expand(5, 16, 16)
    data = from_tensor(torch.stack([wave, 1e5 + 300 * wave.mT], 1))
    figure = examples_figure(data.tensor(), 3, look=look_of(data))
    maps, scales = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title() for axes in maps] == ["channel 1", "channel 2"]
    assert [scale.get_ylim() for scale in scales] == [(-1, 1), pytest.approx((99700, 100300))]
    assert torch.as_tensor(maps[1].images[0].get_array()).shape == (2 * 65 - 1, 3 * 65 - 1, 3)
    for x, scaled in ((data.tensor()[:, 1:], True), (data.tensor(), True), (wave[:, None], False)):
        shown = from_tensor(x if scaled else x.float())
        assert look_of(shown).is_field(shown.tensor()) is scaled


def test_panels_of_fields_name_their_scales():
    data = from_tensor(torch.linspace(250, 290, 2 * 2 * 64).reshape(2, 2, 8, 8))
    figure = labeled_panels([("a", data.tensor())], look_of(data), 2, 1.0, 1)
    assert figure.get_supxlabel().endswith("black to white: 250 to 280; 260 to 290")


def test_a_volume_is_slices_side_by_side_evenly_spaced_in_depth(tmp_path):
    depth = torch.arange(12, dtype=torch.uint8).reshape(1, 1, 12, 1, 1).expand(2, 1, 12, 16, 17)
    scaling = Scaling.discrete(12)
    look, x = Look(scaling), scaling.to_model(depth)
    drawn = look.images(x)
    assert drawn.shape == (2, 1, 1, 16, 4 * 18 - 1)
    levels = [round(255 * level / 11) for level in (1, 4, 7, 10)]
    assert drawn[0, 0, 0, 5, ::18].tolist() == levels
    assert drawn[0, 0, 0, 5, 16:20].tolist() == [levels[0], 255, levels[1], levels[1]]
    assert look.images(x[:, :, :3]).shape[-1] == 3 * 18 - 1
    save_samples(x, tmp_path / "x.png", look)
    assert Image.open(tmp_path / "x.png").size == (71 * 4, 2 * 64 + 12)


def test_panels_show_series_in_the_range_of_the_data():
    data = from_tensor(torch.stack([torch.linspace(0, 4, 90).reshape(9, 10)] * 2, 1))
    x = data.tensor()
    figure = labeled_panels([("a", x), ("b", 9 * x)], look_of(data), 1, 1.0, 2)
    windows = [part.get_ylim() for axes in figure.axes[:2] for part in axes.child_axes]
    assert windows == [(-1, 5)] * 4


@pytest.mark.parametrize(
    ("widths", "parts"), [((1, 1, 1), 1), ((0.5, 1, 0.9), 1), ((3, 2, 2), 1), ((1, 40, 1e5), 3)]
)
def test_three_channels_of_one_range_are_colors(widths, parts):
    ramp = torch.linspace(0, 1, 400).reshape(4, 10, 10)
    data = from_tensor(torch.stack([width * ramp for width in widths], 1))
    assert look_of(data).images(data.tensor()).shape[1] == parts


def test_series_have_a_panel_for_each_channel_in_their_own_terms():
    data = from_tensor(torch.stack([torch.rand(9, 50), 7 + torch.rand(9, 50)], 1))
    figure = examples_figure(data.tensor(), look=look_of(data))
    assert len(figure.axes) == 2
    assert all(len(axes.lines) == 9 for axes in figure.axes)
    drawn = figure.axes[1].lines[3].get_ydata()
    torch.testing.assert_close(torch.as_tensor(drawn), data[3][1].double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("columns", "axes"), [(1, 1), (3, 9), (5, 25), (13, 15), (40, 1)])
def test_tables_are_drawn_as_columns_with_their_names(columns, axes):
    data = from_tensor(torch.randn(40, columns) * 5 + 100)
    names = tuple(f"column {i}" for i in range(columns))
    figure = examples_figure(data.tensor(), look=replace(look_of(data), column_names=names))
    assert len(figure.axes) == axes
    labels = {panel.get_xlabel() for panel in figure.axes}
    assert labels >= (set(names) if columns <= 30 else {"column"})
    edges = figure.axes[0].get_xlim()
    if columns <= 30:
        assert edges[0] > 50


def test_every_pixel_of_an_image_is_on_a_page():
    x = torch.zeros(16, 1, 200, 300)
    figure = labeled_panels([("a", x), ("b", x)], Look(), 4, 2.0, 4)
    figure.canvas.draw()
    for axes in figure.axes:
        window = axes.get_window_extent()
        rows, columns = axes.images[0].get_array().shape[:2]
        share = 110 / figure.dpi
        assert window.width * share >= columns - 1
        assert window.height * share >= rows - 1


@pytest.mark.parametrize("shape", [(1, 8, 9), (3, 8, 9)])
@pytest.mark.parametrize("levels", [256, None])
def test_a_folder_holds_an_image_for_each_sample(tmp_path, shape, levels):
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(256, (11, *shape), generator=generator, dtype=torch.uint8)
    data = from_tensor(raw if levels else raw / 255)
    (tmp_path / "s").mkdir()
    save_samples(data.tensor(), tmp_path / "s", look_of(data))
    assert sorted(path.name for path in (tmp_path / "s").iterdir())[:2] == ["00.png", "01.png"]
    assert torch.equal(load(tmp_path / "s").raw(), raw)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("shape", [(2,), (2, 9, 9), (3, 20)])
def test_a_folder_holds_an_array_for_each_sample_that_is_no_image(tmp_path, shape):
    data = from_tensor(torch.randn(3, *shape))
    save_samples(data.tensor(), tmp_path / "deep" / "s", look_of(data))
    found = [np.load(tmp_path / "deep" / "s" / f"{i}.npy") for i in range(3)]
    np.testing.assert_allclose(np.stack(found), data.raw().numpy(), atol=1e-5)


def test_a_folder_that_holds_files_is_refused_and_one_half_written_never_appears(
    tmp_path, monkeypatch
):
    data = from_tensor(torch.randn(3, 2))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine").write_text("")
    with pytest.raises(ValueError, match=r"s' is a folder that holds files: name a new or empty"):
        save_samples(data.tensor(), tmp_path / "s", look_of(data))
    monkeypatch.setattr("pathlib.Path.replace", _fail)
    with pytest.raises(OSError, match="full"):
        save_samples(data.tensor(), tmp_path / "t", look_of(data))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_tables_become_tables_with_the_names_of_their_columns(tmp_path):
    (tmp_path / "a.csv").write_text("time,mass\n1700000001,0.5\n1700000006,0.25\n1700000003,9\n")
    data = load(tmp_path / "a.csv")
    assert data.column_names == ("time", "mass")
    assert data.split(1)[0].column_names == ("time", "mass")
    save_samples(data.tensor(), tmp_path / "b.csv", look_of(data))
    again = load(tmp_path / "b.csv")
    assert again.column_names == ("time", "mass")
    torch.testing.assert_close(again.raw(), data.raw(), rtol=0, atol=1e-5)
    save_samples(data.tensor(), tmp_path / "c.csv", Look(data.scaling), torch.tensor([0, 1, 0]))
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert lines[0] == "x1,x2,label"
    assert [float(cell) for cell in lines[2].split(",")] == pytest.approx([1700000006, 0.25, 1])
    with pytest.raises(ValueError, match=r"of this run have the shape \(1, 2\): take \.npz"):
        save_samples(torch.zeros(2, 1, 2), tmp_path / "d.csv", Scaling())


def test_a_picture_holds_no_more_samples_than_is_bearable():
    assert Look().most((1, 8, 8)) > 256
    assert Look().most((3, 4096, 4096)) == 2
    assert Look().most((40, 4096, 4096)) == 1
