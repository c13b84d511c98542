from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture
def shared():
    """A file of real data by name; skips where it is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{name} is not in {SHARED}")
        return path

    return find


@pytest.fixture(scope="session")
def pictures():
    """Twelve color images, uint8, (12, 3, 5, 7): no two axes can be mistaken."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (12, 3, 5, 7), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="session")
def png():
    """Encode uint8 (channels, height, width) as PNG."""
    image_module = pytest.importorskip("PIL.Image")

    def encode(picture: torch.Tensor, mode: str | None = None) -> bytes:
        pixels = picture.permute(1, 2, 0).numpy()
        image = image_module.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        buffer = io.BytesIO()
        (image.convert(mode) if mode else image).save(buffer, "PNG")
        return buffer.getvalue()

    return encode


@pytest.fixture
def idx_bytes():
    """Encode uint8 numbers in the idx format, by its definition."""

    def encode(numbers: np.ndarray) -> bytes:
        sizes = struct.pack(f">{numbers.ndim}I", *numbers.shape)
        return bytes([0, 0, 8, numbers.ndim]) + sizes + numbers.tobytes()

    return encode


@pytest.fixture
def idx_files(tmp_path, pictures, idx_bytes):
    """An images and a labels file, gzipped or not; returns the path of the images."""

    def write(zipped: bool) -> Path:
        images, labels = pictures[:, 0].numpy(), (np.arange(12) % 4).astype(np.uint8)
        pack = gzip.compress if zipped else bytes
        end = ".gz" if zipped else ""
        path = tmp_path / f"train-images-idx3-ubyte{end}"
        path.write_bytes(pack(idx_bytes(images)))
        (tmp_path / f"train-labels-idx1-ubyte{end}").write_bytes(pack(idx_bytes(labels)))
        return path

    return write


@pytest.fixture
def parquet_file(tmp_path, pictures, png):
    """A parquet file as the hub writes them, in row groups of five."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    def write(name: str = "train.parquet", labels=None, metadata: str | None = None) -> Path:
        rows = [{"bytes": png(picture), "path": f"{i}.png"} for i, picture in enumerate(pictures)]
        columns = {"image": pa.array(rows)}
        if labels is not None:
            columns["label"] = pa.array(labels)
        table = pa.table(columns)
        if metadata:
            table = table.replace_schema_metadata({"huggingface": metadata})
        path = tmp_path / name
        pq.write_table(table, path, row_group_size=5)
        return path

    return write
