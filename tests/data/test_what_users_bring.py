"""Tables, masks, labels, layouts and pictures as users bring them: read as they are meant."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch

from sde_score.data import DataError, Scaling, from_tensor, from_torch, load
from sde_score.data.decoding import decode

RNG = np.random.default_rng(0)


@pytest.fixture
def saved(tmp_path):
    """Save an array as a file of NumPy and return its path."""

    def save(values, name="x.npy"):
        path = tmp_path / name
        np.save(path, values) if name.endswith("npy") else np.savez(path, x=values)
        return str(path)

    return save


@pytest.mark.parametrize("form", ["npy", "npz", "tensor", "array", "torch"])
def test_each_column_of_a_table_has_its_own_scale(saved, form):
    table = RNG.normal(size=(500, 2)) * [1000.0, 0.001] + [5.0, 7.0]
    source = {
        "npy": lambda: saved(table),
        "npz": lambda: saved(table, "x.npz"),
        "tensor": lambda: torch.as_tensor(table),
        "array": lambda: table,
        "torch": lambda: [torch.as_tensor(row) for row in table],
    }[form]()
    found = load(source)
    assert found.tensor().std(0, unbiased=False).tolist() == pytest.approx([1, 1])
    assert found.scaling.width == pytest.approx(tuple(table.std(0)))
    back = found.scaling.from_model(found.tensor().double()).numpy()
    assert back == pytest.approx(table, rel=1e-3)


def test_images_series_and_given_scalings_keep_one_scale():
    x = torch.randn(9, 2, 5)
    assert isinstance(from_tensor(x).scaling.width, float)
    assert from_tensor(x[:, 0], scaling=Scaling(0.0, 2.0)).scaling == Scaling(0.0, 2.0)


def test_a_constant_column_is_named():
    x = torch.randn(9, 3)
    x[:, 1] = 4.0
    with pytest.raises(DataError, match="feature 1 is constant: drop it"):
        from_tensor(x)


@pytest.mark.parametrize("levels", [2, 3, 17, 32])
def test_few_even_levels_are_taken_as_such(saved, png, tmp_path, levels):
    masks = torch.arange(4 * 8 * 8).reshape(4, 1, 8, 8).remainder(levels).byte()
    assert from_tensor(masks).scaling == Scaling.discrete(levels)
    assert load(saved(masks.numpy())).scaling == Scaling.discrete(levels)
    (tmp_path / "masks").mkdir()
    for i, mask in enumerate(masks):
        (tmp_path / "masks" / f"{i}.png").write_bytes(png(mask))
    assert load(tmp_path / "masks").scaling == Scaling.discrete(levels)
    assert from_tensor(masks).tensor().std() > 0.5


@pytest.mark.parametrize("values", [(0, 255), (0, 32), (7,), (0,), (0, 128, 255)])
def test_all_else_of_eight_bits_has_256_levels(values):
    picture = torch.tensor(values, dtype=torch.uint8).repeat(12).reshape(-1, 1, 1, 1)
    if values == (7,):
        with pytest.raises(DataError, match=r"the only values are 7, .*levels=8 or levels=256"):
            from_tensor(picture)
    else:
        assert from_tensor(picture).scaling == Scaling.discrete(256)


def test_few_levels_with_gaps_are_refused_with_the_argument_that_says(saved, png, tmp_path):
    masks = torch.tensor([0, 1, 3] * 64, dtype=torch.uint8).reshape(3, 1, 8, 8)
    with pytest.raises(DataError, match=r"0, 1, 3, .*levels=4 or levels=256"):
        from_tensor(masks)
    path = saved(masks.numpy())
    assert load(f"{path}(levels=4)").scaling == Scaling.discrete(4)
    assert load(f"{path}(levels=256)").scaling == Scaling.discrete(256)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "0.png").write_bytes(png(masks[0]))
    assert load(f"{tmp_path / 'masks'}(levels=4)").scaling == Scaling.discrete(4)
    with pytest.raises(DataError, match="2 levels are 0"):
        load(f"{path}(levels=2)")


def test_integers_of_other_types_are_read_with_their_levels(saved):
    values = RNG.integers(0, 1024, (6, 1, 8, 8)).astype(np.int64)
    found = load(saved(values) + "(levels=1024)")
    assert found.scaling == Scaling.discrete(1024)
    assert torch.equal(found.raw().long(), torch.as_tensor(values))


@pytest.mark.parametrize(
    "given", [(1, 2, 3), (-1 + 1, 2, 3), (10, 20, 30), (2**40, 2**40 + 1, 7), (1, 2, 2)]
)
def test_labels_that_occur_are_the_classes_and_keep_their_names(saved, given):
    labels = torch.tensor(given * 4)
    found = from_tensor(torch.randn(12, 2), labels)
    names = sorted(set(given))
    assert found.class_names == tuple(map(str, names))
    assert found.num_classes == len(names)
    assert torch.equal(torch.tensor(names)[found.labels], labels)


def test_labels_from_zero_are_as_they_were():
    labels = torch.tensor([2, 0, 1, 2])
    found = from_tensor(torch.randn(4, 2), labels)
    assert (found.num_classes, found.class_names) == (3, ())
    assert torch.equal(found.labels, labels)


def ways(saved, x, **told):
    """The same examples from a file, an array and a data set of torch, by functions."""
    words = ", ".join(f"{name}={value!r}" for name, value in told.items())
    return {
        "file": lambda: load(f"{saved(x)}({words})" if told else saved(x)),
        "array": lambda: from_tensor(x, **told),
        "torch": lambda: from_torch(list(x), **told),
    }


@pytest.mark.parametrize("form", ["file", "array", "torch"])
@pytest.mark.parametrize("kind", [np.float32, np.uint8])
@pytest.mark.parametrize("sides", [(32, 31), (5, 6, 7)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_last_are_refused_with_the_fix_that_works(saved, form, kind, sides, channels):
    images = (255 * RNG.random((5, *sides, channels))).astype(kind)
    with pytest.raises(DataError, match=r"look like channels last: give channels='last' to from_t"):
        ways(saved, images)[form]()
    found, moved = ways(saved, images, channels="last")[form](), np.moveaxis(images, -1, 1)
    assert np.array_equal(found.raw().numpy(), moved)
    assert found[:2].is_contiguous()
    if kind is np.float32 or len(sides) == 3:
        assert ways(saved, images, channels="first")[form]().event_shape == images.shape[1:]


@pytest.mark.parametrize("form", ["file", "array", "torch"])
@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_gray_images_without_a_channel_are_told_from_series(saved, form, kind):
    images = (255 * RNG.random((5, 28, 28))).astype(kind)
    if form != "file" or kind is np.float32:  # files of 8 bits are images
        with pytest.raises(DataError, match=r"28 x 28 pixels or series.* channels='none'"):
            ways(saved, images)[form]()
    found = ways(saved, images, channels="none")[form]()
    assert np.array_equal(found.raw().numpy(), images[:, None])
    assert ways(saved, images, channels="first")[form]().event_shape == (28, 28)
    oblong = from_tensor(images[:, :9])  # three times as long as high: a series of 9 channels
    assert oblong.event_shape == (9, 28)


def test_series_take_their_channels_from_behind_or_from_nowhere(saved):
    steps = RNG.random((7, 50, 3))
    found = load(f"{saved(steps)}(channels='last')")
    assert np.array_equal(found.raw().numpy(), steps.transpose(0, 2, 1))
    assert from_tensor(steps[..., 0], channels="none").event_shape == (1, 50)
    with pytest.raises(DataError, match=r"channels='last' needs examples \(\*sides, channels\)"):
        from_tensor(steps[..., 0], channels="last")
    with pytest.raises(TypeError, match=r"channels='middle'.*'first', 'last' or 'none'"):
        from_tensor(steps, channels="middle")


@pytest.mark.parametrize(
    "text",
    [
        "0,1,2\n.5,.2,1\n3,1,2\n",
        "0,1\n.5,2\n",
        "1990,1991\n1.5,2\n",
        "0,1,2\n5,3,7\n",
        "1,2,3\n4,4,4",
    ],
)
def test_a_first_line_that_may_be_a_header_is_refused_until_it_is_said(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"give header=True or header=False"):
        load(path)
    lines = text.strip().count("\n")
    assert len(load(f"{path}(header=False)")) == lines + 1
    if lines > 1:
        assert len(load(f"{path}(header=True)")) == lines


@pytest.mark.parametrize(
    "text", ["1,2\n3,5\n", "0.0,1.0,2.0\n5,3,7\n", "3,1,2\n.5,.1,.3\n", "0,2\n.1,.3"]
)
def test_other_first_lines_of_numbers_are_numbers(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert len(load(path)) == text.strip().count("\n") + 1


def test_a_photograph_is_turned_as_it_is_shown(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    pixels = (255 * RNG.random((16, 24, 3))).astype(np.uint8)
    image = image_module.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    upright = np.rot90(pixels, -1).transpose(2, 0, 1)
    assert np.array_equal(decode(buffer.getvalue()).numpy(), upright)
    opened = image_module.open(io.BytesIO(buffer.getvalue()))
    assert np.array_equal(from_torch([opened, opened]).raw()[0].numpy(), upright)


def _png(kind, depth, samples):
    """A PNG by its definition: color type, bits, and samples (height, width, channels)."""
    raw = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in samples)
    size = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, kind, 0, 0, 0)

    def chunk(name, content):
        end = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + end

    parts = chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_and_never_cut(kind, channels):
    """Gray, color, and both with an opaque alpha."""
    image_module = pytest.importorskip("PIL.Image")
    samples = RNG.integers(0, 65536, (8, 8, channels))
    if channels in (2, 4):
        samples[..., -1] = 65535
    content = _png(kind, 16, samples)
    with pytest.raises(DataError, match=r"16 bits per channel|mode I;16") as refused:
        decode(content)
    assert "damaged" not in str(refused.value)
    with pytest.raises(DataError, match=r"16 bits per channel|mode I;16"):
        from_torch([image_module.open(io.BytesIO(content))])
    samples = np.where(samples == 65535, 255, samples % 256)
    assert decode(_png(kind, 8, samples)).dtype == torch.uint8


def test_a_transparent_image_is_not_called_damaged():
    with pytest.raises(DataError, match=r"is partly transparent; .*background") as refused:
        decode(_png(6, 8, RNG.integers(0, 250, (8, 8, 4))))
    assert "damaged" not in str(refused.value)


@pytest.mark.parametrize("name", ["3.png", "more", "dog/3.jpg"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, png, pictures, name):
    folder = tmp_path / "images" / ("dog" if "/" in name else "")
    folder.mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.png").write_bytes(png(pictures[i]))
    assert len(load(tmp_path / "images")) == 3
    os.symlink("unmounted/3.png", tmp_path / "images" / name)
    with pytest.raises(DataError, match=f"{name.split('/')[-1]} leads to unmounted/3.png"):
        load(tmp_path / "images")


def test_labels_that_are_no_array_are_refused(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros((3, 2)))
        archive.writestr("x.npy", buffer.getvalue())
        archive.writestr("labels", b"1 2 3")
    with pytest.raises(DataError, match="labels"):
        load(tmp_path / "d.npz")


@pytest.mark.parametrize("levels", [4, 1000])
def test_an_archive_may_tell_its_levels(tmp_path, levels):
    x = np.array([[[[0, 1], [3, 3]]]], dtype=np.uint8 if levels == 4 else np.int32)
    np.savez(tmp_path / "x.npz", x=x, levels=np.array(levels))
    assert load(tmp_path / "x.npz").scaling == Scaling.discrete(levels)
    assert load(f"{tmp_path / 'x.npz'}(levels=5)").scaling == Scaling.discrete(5)
    for wrong in (np.array(1), np.array([2, 2]), np.array(2.5), np.array("4")):
        np.savez(tmp_path / "x.npz", x=x, levels=wrong)
        with pytest.raises(DataError, match="under levels"):
            load(tmp_path / "x.npz")
