"""Whatever happens to a file, the answer is one `DataError` that names it, or sound data."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile

import numpy as np
import pytest
import torch

from sde_score.data import DataError, load


@pytest.fixture
def good_file(tmp_path, pictures, png, idx_files, parquet_file):
    """A sound file of each kind, by the word for it."""

    def write(kind: str):
        if kind == "idx":
            return idx_files(zipped=False)
        if kind == "idx.gz":
            return idx_files(zipped=True)
        if kind == "parquet":
            return parquet_file(
                labels=[i % 3 for i in range(12)], metadata='{"info": {"features": {}}}'
            )
        path = tmp_path / kind
        if kind == "a.npy":
            np.save(path, pictures.numpy())
        elif kind == "a.npz":
            np.savez_compressed(path, x=pictures.numpy(), labels=np.arange(12))
        elif kind == "a.csv":
            path.write_text("a,b,c\n" + "".join(f"{i},{i * i},-{i}.5\n" for i in range(12)))
        else:
            path = tmp_path / "pictures" / kind
            path.parent.mkdir()
            path.write_bytes(png(pictures[0]) if kind.endswith("png") else jpeg(pictures[0]))
        return path

    return write


def jpeg(picture: torch.Tensor) -> bytes:
    image_module = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image_module.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "JPEG")
    return buffer.getvalue()


def spec_of(path) -> str:
    return str(path.parent if path.parent.name == "pictures" else path)


KINDS = ["idx", "idx.gz", "parquet", "a.npy", "a.npz", "a.csv", "a.png", "a.jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_file_is_read(good_file, kind):
    assert len(load(spec_of(good_file(kind)))) in (1, 12)


def attempt(path, content: bytes) -> torch.Tensor | None:
    """What is read from the file with this content; None if that is refused by name."""
    path.write_bytes(content)
    try:
        return load(spec_of(path)).tensor()
    except DataError as error:
        message = str(error)
    assert path.name in message
    assert "\n" not in message
    return None


@pytest.mark.parametrize("kind", ["idx", "idx.gz", "parquet", "a.npy", "a.npz"])
def test_a_truncated_file_is_refused_by_name(good_file, kind):
    path = good_file(kind)
    content = path.read_bytes()
    size = len(content)
    for cut in sorted({*range(20), size // 2, *range(size - 20, size)}):
        assert attempt(path, content[:cut]) is None


@pytest.mark.parametrize("kind", ["a.png", "a.jpg"])
def test_a_truncated_picture_is_refused_unless_all_its_pixels_are_there(good_file, kind):
    path = good_file(kind)
    content = path.read_bytes()
    sound = attempt(path, content)
    pictures = [attempt(path, content[:cut]) for cut in range(len(content))]
    assert all(p is None for p in pictures[: len(content) - 20])
    assert all(p is None or torch.equal(p, sound) for p in pictures)


def test_a_table_cut_anywhere_is_refused_or_a_shorter_table(good_file):
    path = good_file("a.csv")
    content = path.read_bytes()
    raw = load(str(path)).raw(torch.arange(12))
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        try:
            data = load(str(path))
        except DataError:
            continue
        whole = content[:cut].count(b"\n") - 1  # the last line may have lost digits
        assert len(data) - whole in (0, 1)
        columns = data.coding.decode(data.raw(torch.arange(whole))).values()  # constants too
        assert torch.equal(torch.tensor(np.stack([*columns], 1)), raw[:whole])


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_give_a_data_error_or_data(good_file, kind):
    """Three hundred damaged versions: bytes flipped anywhere, often in the first and last 60."""
    path, draw = good_file(kind), random.Random(kind)
    content = path.read_bytes()
    size, read = len(content), 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(draw.choice([1, 1, 2, 8])):
            near_ends = (draw.randrange(60), size - 1 - draw.randrange(60))
            place = draw.choice([draw.randrange(size), *near_ends])
            damaged[place % size] = draw.choice([0, 255, 0x80, draw.randrange(256)])
        x = attempt(path, bytes(damaged))
        assert x is None or torch.isfinite(x).all()
        read += x is not None
    assert read < 300


@pytest.mark.parametrize("kind", ["idx.gz", "a.npz"])
def test_a_flipped_byte_of_compressed_numbers_never_passes(good_file, kind):
    """Compressed files carry a sum of what they hold: no wrong number may come through."""
    path, draw = good_file(kind), random.Random(1)
    content = path.read_bytes()
    sound = attempt(path, content)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        x = attempt(path, bytes(damaged))
        assert x is None or torch.equal(x, sound)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x08\x03" + struct.pack(">3I", 2, 2, 2) + bytes(7), "holds only 7"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 2, 2, 2) + bytes(9), "but holds more"),
        (b"\0\0\x0d\x03" + struct.pack(">3I", 1, 1, 1) + bytes(4), "type 0x0d"),
        (b"\0\0\x08\x03" + struct.pack(">3I", *[2**32 - 1] * 3) + bytes(9), "cannot hold"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 0, 2, 2), "cannot hold"),
        (b"\0\0\x08\x01" + struct.pack(">I", 4) + bytes(4), "look like labels"),
        (b"\0\0\x08\x02" + struct.pack(">2I", 2, 2) + bytes(4), "in 2 dimensions"),
        (b"\0\0\x08\0", "not an idx file"),
        (b"\1\0\x08\x03" + struct.pack(">3I", 2, 2, 2) + bytes(8), "not an idx file"),
        (b"", "not an idx file"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_wrong_with_an_idx_file_is_said(tmp_path, content, message, pack):
    path = tmp_path / "t-images-idx3-ubyte"
    path.write_bytes(pack(content))
    with pytest.raises(DataError, match=message) as caught:
        load(f"mnist:{path}")
    assert path.name in str(caught.value)


def test_idx_labels_that_do_not_fit_are_refused(idx_files, idx_bytes):
    path = idx_files(zipped=False)
    labels = path.with_name("train-labels-idx1-ubyte")
    labels.write_bytes(idx_bytes(np.zeros(11, np.uint8)))
    with pytest.raises(DataError, match="labels have shape \\(11,\\) for 12 examples"):
        load(str(path))
    labels.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: is not an idx file"):
        load(str(path))


def test_a_folder_with_several_idx_files_must_be_told_which(idx_files, tmp_path):
    idx_files(zipped=False)
    idx_files(zipped=True)
    with pytest.raises(DataError, match="holds 2 files of images-idx3"):
        load(f"mnist:{tmp_path}")


def test_the_odd_picture_of_a_folder_is_named(tmp_path, pictures, png):
    (tmp_path / "a.png").write_bytes(png(pictures[0]))
    for odd, message in (
        (png(pictures[1][:, :4]), "odd.png: is 3x4x7 .* first image is 3x5x7"),
        (png(pictures[1][:1]), "odd.png: is 1x5x7"),
        (b"not a picture", "odd.png: cannot be read as an image"),
        (b"", "odd.png: cannot be read as an image"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "odd.png: cannot be read as an image",
        ),
    ):
        (tmp_path / "odd.png").write_bytes(odd)
        with pytest.raises(DataError, match=message):
            load(str(tmp_path))


def test_pictures_that_would_lose_something_are_refused(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    path = tmp_path / "odd.png"
    image_module.new("RGBA", (4, 4), (10, 20, 30, 254)).save(path)
    with pytest.raises(DataError, match=r"odd.png.*partly transparent"):
        load(str(tmp_path))
    image_module.new("I;16", (4, 4)).save(path)
    with pytest.raises(DataError, match=r"odd.png.*has mode I;16"):
        load(str(tmp_path))
    image_module.new("L", (4, 4)).save(path, format="PCX")
    with pytest.raises(DataError, match=r"odd.png.*cannot be read as an image"):
        load(str(tmp_path))
    path.unlink()
    frames = [image_module.new("L", (4, 4), shade) for shade in (0, 200)]
    frames[0].save(tmp_path / "odd.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"odd.gif.*several frames"):
        load(str(tmp_path))


def test_folders_of_unclear_layout_are_refused(tmp_path, pictures, png):
    with pytest.raises(DataError, match="holds no images"):
        load(str(tmp_path))
    (tmp_path / "a.png").write_bytes(png(pictures[0]))
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match=r"a.png.*beside folders.*cats"):
        load(str(tmp_path))
    (tmp_path / "a.png").rename(tmp_path / "cats" / "a.png")
    (tmp_path / "dogs").mkdir()
    with pytest.raises(DataError, match="class folder dogs holds no images"):
        load(str(tmp_path))


def test_parquet_files_of_another_kind_are_refused(tmp_path, parquet_file, pictures, png):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    image, sound = {"bytes": b"x", "path": None}, {"bytes": png(pictures[0]), "path": None}
    for columns, message in (
        ({"x": [["a"], ["b"]], "y": [1, 2]}, "0 columns of images among x, y"),
        ({"x": [image], "y": [image]}, "2 columns of images among x, y"),
        (
            {"image": pa.array([], pa.struct({"bytes": pa.binary(), "path": pa.string()}))},
            "0 images",
        ),
        ({"image": [{"bytes": None, "path": "a.png"}, image]}, "row 0: the image holds no bytes"),
        ({"image": pa.array([None, image])}, "row 0: the image holds no bytes"),
        ({"image": [image]}, "row 0: cannot be read as an image"),
        ({"image": [sound, sound, image]}, "row 2: cannot be read as an image"),
        ({"image": [sound, sound, {"path": "a.png"}]}, "row 2: the image holds no bytes"),
    ):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(DataError, match=message):
            load(str(path))
    for labels, message in (
        (["cat"] * 12, "holds 'cat'; accepted: integers"),
        ([1.5] * 12, "holds 1.5"),
        ([None, *[1] * 11], "holds None"),
        ([True] * 12, "holds True"),
        ([-1, *[1] * 11], "run from -1 to 1"),
    ):
        with pytest.raises(DataError, match=message):
            load(str(parquet_file(labels=labels)))
    with pytest.raises(DataError, match="hub metadata"):
        load(str(parquet_file(labels=[0] * 12, metadata="{")))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 5, 5, 3), np.uint8), "look like channels last"),
        (np.zeros((4, 3, 5, 3), np.uint8), "are ambiguous"),
        (np.zeros((4, 5), np.int32), "holds int32; accepted"),
        (np.zeros((4, 5), bool), "holds bool"),
        (np.zeros((4, 5), complex), "holds complex128"),
        (np.zeros((4, 5), np.longdouble), "up to 64 bits"),
        (np.array([["a"]]), "holds <U1"),
        (np.zeros(3, [("a", float)]), "accepted: floating-point"),
        (np.zeros(3), "reshape"),
        (np.float64(3.0), "reshape"),
        (np.zeros((0, 3)), "at least one"),
        (np.array([[1.0], [np.nan]]), "example 1 holds NaN"),
        (np.ones((3, 3)), "nothing to learn"),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, values, message):
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", x=values)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match=message) as caught:
            load(str(tmp_path / name))
        assert name in str(caught.value)


def test_pickled_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    (tmp_path / "b.npy").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for name in ("a.npy", "a.npz", "b.npy"):
        with pytest.raises(DataError, match=f"{name}: cannot be read as a NumPy file"):
            load(str(tmp_path / name))


def test_npz_files_without_one_known_key_are_refused(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 2))
    for keys, message in (
        ({"arr_0": x}, "holds the keys arr_0; accepted: exactly one of x, data"),
        ({"x": x, "data": x}, "holds the keys x, data"),
        ({"x": x, "labels": np.array([0.5] * 4)}, "labels are float64"),
        ({"x": x, "labels": np.arange(3)}, "for 4 examples"),
    ):
        np.savez(tmp_path / "a.npz", **keys)
        with pytest.raises(DataError, match=message):
            load(str(tmp_path / "a.npz"))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x", "not an array")
    with pytest.raises(DataError, match=r"a.npz"):
        load(str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "holds no lines of numbers"),
        (b"a,b\n", "holds no lines of numbers"),
        (b"a,b\n1,2\n3,x\n", "line 3, column b: 'x' is not a finite number"),
        (b"5,2\n\n3,inf\n", "line 3, column 2: 'inf' is not a finite number"),
        (b"a,b\n1,nan\n", "column b is empty: leave it out"),
        (b"a,b\n1,2\n1e999,4\n", "line 3, column a: '1e999'"),
        (b"1,2\n1_000,4\n", "line 2, column 1: '1_000'"),
        (b"1,b\n2,3\n", "line 1, column 2: 'b'"),
        (b"a,b\n1,2\n3\n", "line 3 has 1 cells where 2 are expected"),
        (b"a,b\n1,2,3\n", "line 2 has 3 cells where 2 are expected"),
        (b"a,b\n1,2\n1,2\n", "nothing to learn: every column is constant"),
        (b"a,b,a\n1,2,4\n1,3,5\n", "several columns named 'a'"),
        (b'a,b\n1,"2\n', "cannot be read as a CSV table"),
        (b"a,b\n1,\xff\n", "cannot be read as a CSV table"),
        (b"a,b\n1,\x002\n", "not a finite number|cannot be read as a CSV table"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_place(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    with pytest.raises(DataError, match=message) as caught:
        load(str(path))
    assert str(path) in str(caught.value)


def test_a_delimiter_is_one_character(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    with pytest.raises(ValueError, match="delimiter=', ' must be one character"):
        load(f"{tmp_path}/a.csv(delimiter=', ')")


@pytest.mark.parametrize(("kind", "package"), [("parquet", "pyarrow"), ("a.png", "PIL")])
def test_a_missing_extra_is_named_with_how_to_install_it(good_file, monkeypatch, kind, package):
    path = good_file(kind)
    for module in (package, "pyarrow.parquet", "PIL.Image"):
        if module.partition(".")[0] == package:
            monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(DataError, match=rf"{package}.*pip install 'sde-score\[data\]'") as caught:
        load(spec_of(path))
    assert "\n" not in str(caught.value)
