"""What unpacks to too much is refused from its header, with the argument that raises the limit."""

from __future__ import annotations

import inspect
import io
import os
import socket
import struct
import zipfile

import numpy as np
import pytest
import torch

from sde_score._core import memory, statistics
from sde_score._core.statistics import largest_distance, largest_spread, mean_squares, moments
from sde_score.data import FORMATS, DataError, from_torch, limits, load
from sde_score.data.formats import csv_tables


@pytest.fixture
def image_module():
    return pytest.importorskip("PIL.Image")


def refusal(spec) -> str:
    with pytest.raises(DataError) as caught:
        load(str(spec))
    return str(caught.value)


def picture(image_module, mode: str, *size: int) -> bytes:
    buffer = io.BytesIO()
    image_module.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_of_81_megapixels_is_refused_from_its_header(tmp_path, image_module):
    (tmp_path / "a.png").write_bytes(picture(image_module, "1", 9000, 9000))
    said = refusal(tmp_path)
    assert "a.png" in said
    assert "81 megapixels" in said
    assert said.endswith("give max_pixels=81000000 where that is meant")


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_max_pixels_is_raised_and_lowered_where_images_are_read(
    form, tmp_path, image_module, parquet_file, monkeypatch
):
    if form == "parquet":
        path = parquet_file()
    else:
        path = tmp_path
        (path / "a.png").write_bytes(picture(image_module, "L", 5, 7))
    assert "give max_pixels=35 " in refusal(f"{path}(max_pixels=34)")
    monkeypatch.setattr(image_module, "MAX_IMAGE_PIXELS", 10)  # PIL refuses twice as many
    assert load(f"{path}(max_pixels=35)").event_shape[1:] in ((5, 7), (7, 5))
    assert image_module.MAX_IMAGE_PIXELS == 10


def test_more_pixels_need_no_second_flag():
    raised = limits.Limits(stored=9, max_pixels=10**9)
    raised.require_unpacked(3 * 10**9)
    with pytest.raises(DataError, match="max_bytes=3000000001"):
        raised.require_unpacked(3 * 10**9 + 1)


def test_a_gzipped_header_of_more_bytes_is_refused_before_they_are_read(tmp_path):
    import gzip

    path = tmp_path / "train-images-idx3-ubyte.gz"
    head = b"\0\0\x08\x03" + struct.pack(">3I", 110, 1000, 1000)
    path.write_bytes(gzip.compress(head + np.random.default_rng(0).bytes(110_000)))
    assert "unpack to 110 MB, beyond the limit of 100 MB: give max_bytes=110000000" in refusal(path)
    assert "holds only" in refusal(f"{path}(max_bytes=110000000)")


def test_members_of_an_archive_are_measured_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_UNPACKED", 10**6)
    content = io.BytesIO()
    np.save(content, np.zeros((1, 1), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content.getvalue() + bytes(2_000_000))
        archive.writestr("other.npy", bytes(10))
    assert "unpack to 2 MB, beyond the limit of 1 MB: give max_bytes=2000129 " in refusal(
        tmp_path / "a.npz"
    )


def test_many_tiny_images_are_refused_by_the_bytes_that_hold_them(tmp_path, image_module):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row, count = {"bytes": picture(image_module, "L", 4, 4), "path": "a"}, 2000
    pq.write_table(pa.table({"image": pa.array([row] * count)}), tmp_path / "a.parquet")
    size = count * len(row["bytes"])
    assert f"give max_bytes={size} " in refusal(f"{tmp_path}/a.parquet(max_bytes={size - 1})")
    assert len(load(f"{tmp_path}/a.parquet(max_bytes={size})")) == count


@pytest.mark.parametrize("name", ["mnist", "folder", "parquet", "array"])
def test_every_reader_that_unpacks_names_its_limit_alike(name):
    parameter = inspect.signature(FORMATS[name]).parameters["max_bytes"]
    assert parameter.default is None
    with pytest.raises(ValueError, match=r"max_bytes=1\.5 must be an integer"):
        FORMATS[name](path=".", max_bytes=1.5)
    assert "max_bytes: limit" in inspect.getdoc(FORMATS[name])


def test_photographs_beyond_the_memory_are_read_smaller(tmp_path, image_module, monkeypatch):
    for i in range(3):
        image = image_module.new("RGB", (64 + i, 48), (60 * i, 10, 10))
        image.save(tmp_path / f"{i}.jpg")
    monkeypatch.setattr(limits, "total_memory", lambda: 20_000)
    said = refusal(tmp_path)
    assert "the examples take 27.6 kB, more than the 20 kB of memory" in said
    assert "with size=64" in said
    monkeypatch.setattr(limits, "total_memory", memory.total_memory)
    assert "give size=64" in refusal(tmp_path)  # they differ in width
    data = load(f"{tmp_path}/(size=8)")
    assert data.event_shape == (3, 8, 8)
    assert data.raw().float().std((2, 3)).max() == 0  # each is one color


def test_scaling_keeps_the_middle(tmp_path, image_module):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 8:24] = 200
    image_module.fromarray(pixels).save(tmp_path / "a.png")
    assert load(f"{tmp_path}/(size=4)").raw().unique().tolist() == [200]


def test_a_torch_data_set_beyond_the_memory_is_refused_after_its_first_item(monkeypatch):
    class Large(torch.utils.data.Dataset):
        def __len__(self):
            return 10**9

        def __getitem__(self, index):
            return torch.zeros(10**3)

    with pytest.raises(DataError, match="the examples take 4 TB"):
        from_torch(Large(), frozen=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["a", "a.npy", "a.csv", "a.parquet", "a.gz", "folder/a.png"])
def test_a_pipe_is_refused_and_not_waited_for(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    place = path.parent if name.startswith("folder") else path
    assert "is a pipe; accepted: a file or a folder" in refusal(place)
    assert path.name in refusal(place)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_device_and_what_is_absent_are_refused_by_every_reader(name):
    if os.path.exists("/dev/zero"):
        assert "is a device" in refusal(f"{name}:/dev/zero")
    with pytest.raises(DataError, match=r"'no/such\\nthing' cannot be opened: No such file"):
        FORMATS[name](path="no/such\nthing")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs sockets")
def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # such names are short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("s.npy")
        assert "is a socket" in refusal("s.npy")


def test_links_that_lead_nowhere_are_named(tmp_path, image_module):
    (tmp_path / "loop").symlink_to("pool")
    (tmp_path / "pool").symlink_to("loop")
    assert "is a link that leads to 'pool'" in refusal(tmp_path / "loop")
    assert "the link loop leads to pool, which is absent" in refusal(tmp_path)


def test_a_line_without_end_is_no_line_of_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_tables, "_LONGEST", 100)
    (tmp_path / "a.csv").write_text("1,2\n" + "1," * 50 + "1")
    said = refusal(tmp_path / "a.csv")
    assert "line 2 is longer than 100 characters: save such rows as .npy" in said


def test_a_table_beyond_the_memory_is_refused_by_the_size_of_its_file(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("1,2\n" * 100)
    monkeypatch.setattr(limits, "total_memory", lambda: 7999)
    assert "the examples take 8 kB" in refusal(tmp_path / "a.csv")


def test_large_events_are_measured_in_parts(monkeypatch):
    x = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([0, 2, 3])
    wanted = moments(x[rows], lambda piece: 2 * piece)[1].mean().item()
    distance = largest_distance(2 * x[rows])
    whole = (mean_squares(x, lambda p: 2 * p, rows)[1], largest_spread(x, lambda p: 2 * p, rows))
    assert whole == (wanted, distance)
    seen = []
    monkeypatch.setattr(statistics, "_CHUNK", 16)

    def twice(piece):
        seen.append(piece.numel())
        return 2 * piece

    assert mean_squares(x, twice, rows)[1] == pytest.approx(wanted, rel=1e-12)
    assert max(seen) <= 16
    assert largest_spread(x, twice, rows) == pytest.approx(distance, rel=1e-12)
    assert max(seen) <= 3 * 16


def test_parts_of_a_file_are_measured_without_a_copy_of_all(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32))
    part = load(str(tmp_path / "a.npy")).split(0.5)[0]
    wanted = (part.info(), part.tensor(7))
    monkeypatch.setattr(statistics, "_CHUNK", 64)
    monkeypatch.setattr(type(part), "_all", lambda self: pytest.fail("a copy of everything"))
    found = part.info()
    assert torch.equal(part.tensor(7), wanted[1])
    assert (found.raw_min, found.raw_max) == (wanted[0].raw_min, wanted[0].raw_max)
    assert found.sigma_data == pytest.approx(wanted[0].sigma_data, rel=1e-9)


def test_names_in_an_archive_are_told_on_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a\nb.npy", b"")
    assert "holds the keys a b; accepted" in refusal(tmp_path / "a.npz")


def test_a_side_beyond_the_limit_of_pixels_is_refused_by_its_name(tmp_path):
    message = r"size=100000 makes images .* give max_pixels=10000000000"
    with pytest.raises(ValueError, match=message):
        load(f"{tmp_path}/(size=100000)")


def test_limits_are_looked_at_before_the_file(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    with pytest.raises(ValueError, match="max_bytes=0"):
        load(f"{tmp_path}/x.npy(max_bytes=0)")
