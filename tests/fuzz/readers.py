"""Readers: files of every kind with mutated bytes.

    python tests/fuzz/readers.py --tries 10000

A damaged file is read like a sound one, or refused by one of the package's errors in one line that
names the file; what is a cache or a log is never refused. Verdicts: `foreign` (another exception),
`nameless` (refused without the file), `lines` (refused in several lines), `refused` (a log or cache
stopped the work), `believed` (a damaged cache was taken), `hang`, `code` (the file made the reader
load a class or start a program).
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import shutil
import struct
import sys
import tarfile
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import Hung, is_ours, short, time_limit

from sde_score import sdes
from sde_score.data import load
from sde_score.evaluation.benchmarks import reference_flow, targets
from sde_score.evaluation.features.classifier import ClassifierExtractor, train_classifier
from sde_score.evaluation.journal import Journal
from sde_score.evaluation.metrics.frechet import FeatureStatistics
from sde_score.report.views.table import comparison_section
from sde_score.samplers.grids.files import GridFile, read_grid_file, write_grid_file
from sde_score.training import TrainConfig, load_run, train

FAILURES = ("foreign", "nameless", "lines", "refused", "believed", "hang", "code")


class Reader(NamedTuple):
    """A file, and what reads it.

    Args:
        path: of the file that is damaged.
        read: called without arguments.
        names: what a refusal must hold one of.
        lenient: whether the file is a log or a cache, which is never refused.
        right: the answer that a damaged file must not change; None where it may.
    """

    path: Path
    read: Callable[[], Any]
    names: tuple[str, ...]
    lenient: bool = False
    right: Any = None


def _data(path: Path, source: Path | None = None) -> Reader:
    source = source or path
    return Reader(path, lambda: load(str(source)).tensor(), (path.name, source.name))


def data_readers(folder: Path) -> dict[str, Reader]:
    """A sound file of every format of data."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (12, 3, 5, 7), dtype=np.uint8)
    table, labels = rng.normal(size=(12, 3)).astype(np.float32), np.arange(12) % 4
    np.save(folder / "a.npy", table)
    np.save(folder / "pictures.npy", pictures)
    np.savez_compressed(folder / "packed.npz", x=pictures, labels=labels)
    np.savez(folder / "plain.npz", x=table, labels=labels)
    rows = "".join(f"{i},{i * i},-{i}.5e-1\n" for i in range(12))
    (folder / "a.csv").write_text("a,b,c\n" + rows)
    (folder / "a.tsv").write_text("a\tb\tc\n" + rows.replace(",", "\t"))
    found = {
        name: _data(folder / name)
        for name in ("a.npy", "pictures.npy", "packed.npz", "plain.npz", "a.csv", "a.tsv")
    }
    for end, pack in (("", bytes), (".gz", gzip.compress)):
        place = folder / f"idx{end}"
        place.mkdir()
        images = place / f"train-images-idx3-ubyte{end}"
        names = place / f"train-labels-idx1-ubyte{end}"
        images.write_bytes(pack(_idx(pictures[:, 0])))
        names.write_bytes(pack(_idx(labels.astype(np.uint8))))
        found[f"idx{end}"] = _data(images)
        found[f"idx labels{end}"] = _data(names, images)
    return found | _picture_readers(folder, pictures) | _parquet_readers(folder, pictures, labels)


def _idx(numbers: np.ndarray) -> bytes:
    sizes = struct.pack(f">{numbers.ndim}I", *numbers.shape)
    return bytes([0, 0, 8, numbers.ndim]) + sizes + numbers.tobytes()


def _picture_readers(folder: Path, pictures: np.ndarray) -> dict[str, Reader]:
    try:
        from PIL import Image
    except ImportError:
        return {}
    found = {}
    for end in ("png", "jpg", "bmp", "gif", "tif", "webp", "ppm"):
        place = folder / f"{end}s"
        place.mkdir()
        try:
            Image.fromarray(pictures[0].transpose(1, 2, 0)).save(place / f"one.{end}")
        except (KeyError, OSError):  # a format that this Pillow was built without
            continue
        found[end] = _data(place / f"one.{end}", place)
    return found


def _parquet_readers(folder: Path, pictures: np.ndarray, labels: np.ndarray) -> dict[str, Reader]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from PIL import Image
    except ImportError:
        return {}
    rows = []
    for index, picture in enumerate(pictures):
        buffer = io.BytesIO()
        Image.fromarray(picture.transpose(1, 2, 0)).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": f"{index}.png"})
    path = folder / "a.parquet"
    written = pa.table({"image": pa.array(rows), "label": pa.array(labels)})
    info = {"info": {"features": {"label": {"names": ["a", "b", "c", "d"], "_type": "ClassLabel"}}}}
    written = written.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(written, path, row_group_size=5)
    lazy = folder / "a.parquet(lazy=True)"
    found = {"parquet": _data(path), "lazy parquet": _data(path, lazy), **_tar_reader(folder, rows)}
    saved = folder / "saved"
    saved.mkdir()
    files = {"_data_files": [{"filename": "data.arrow"}], "_indices_data_files": None}
    (saved / "state.json").write_text(json.dumps(files))
    (saved / "dataset_info.json").write_text(json.dumps(info["info"]))
    with pa.ipc.new_stream(str(saved / "data.arrow"), written.schema) as writer:
        writer.write_table(written, max_chunksize=5)
    names = ("data.arrow", "state.json", "dataset_info.json")
    return found | {f"saved {name}": _data(saved / name, saved) for name in names}


def _tar_reader(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Reader]:
    path = folder / "a.tar"
    with tarfile.open(path, "w") as file:
        for index, row in enumerate(rows):
            for ending, content in (("png", row["bytes"]), ("json", b'{"label": 3}')):
                told = tarfile.TarInfo(f"{index:03}.{ending}")
                told.size, told.pax_headers = len(content), {"mtime": "0.5"}
                file.addfile(told, io.BytesIO(content))
    skipping = folder / "a.tar(on_bad_example='skip')"
    return {"tar": _data(path), "skipping tar": _data(path, skipping)}


def own_readers(folder: Path) -> dict[str, Reader]:
    """A sound file of every kind that the package writes."""
    grid = folder / "grid.json"
    write_grid_file(grid, GridFile((5.0, 1.0, 0.1), "heun(steps=3)", 5, "x", {"error": 0.1}))
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    kept = folder / "kept.safetensors"
    train_classifier(x, (x[:, 0] > 0).long(), 2, name="kept", steps=2).save(kept)
    moments = folder / "moments.npz"
    FeatureStatistics.of(x).save(moments)
    journal = folder / "journal.jsonl"
    Journal(journal).put("a", {"nfe": 3, "value": [0.5, 0.1]})
    Journal(journal).put("b", None)
    return {
        "grid file": Reader(grid, lambda: read_grid_file(grid), (grid.name,)),
        "classifier": Reader(kept, lambda: ClassifierExtractor.load(kept), (kept.name,)),
        "statistics": Reader(moments, lambda: FeatureStatistics.load(moments), (moments.name,)),
        "journal": Reader(journal, lambda: Journal(journal), (journal.name,)),
        **_flow_reader(folder),
    }


def _flow_reader(folder: Path) -> dict[str, Reader]:
    target = targets.TARGETS.create("ring")
    target = target if isinstance(target, targets.BenchmarkTarget) else None
    if target is None:
        return {}
    ends = reference_flow.FlowEnds(target, folder / "flow")
    right = ends(0, 3)

    def read() -> torch.Tensor:
        return reference_flow.FlowEnds(target, folder / "flow")(0, 3)

    (path,) = (folder / "flow").iterdir()
    return {"flow": Reader(path, read, (path.name,), lenient=True, right=right)}


def run_readers(folder: Path) -> dict[str, Reader]:
    """The files of a run directory."""
    run = folder / "run"
    config = TrainConfig(
        data="ring(n=60)", sde=str(sdes.VP()), backbone="mlp(width=4, depth=1)", steps=2,
        batch_size=4, checkpoint_every=1, log_every=1,
    )  # fmt: skip
    train(config, run, progress=False)
    shutil.copytree(run, folder / "sound")

    def opened() -> Any:
        return load_run(run).metrics

    def resumed() -> Any:
        return train(config, run, progress=False).step

    found = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".yaml", ".jsonl", ".safetensors"):
            names = (path.name, path.parent.name, run.name)
            lenient = path.name == "metrics.jsonl"
            found[f"run {path.relative_to(run)}"] = Reader(path, opened, names, lenient)
            found[f"resume {path.relative_to(run)}"] = Reader(path, resumed, names, lenient)
    comparison = run / "comparison.json"
    comparison.write_text(json.dumps(_COMPARISON))
    (run / "comparison.png").write_bytes(b"png")
    found["comparison"] = Reader(
        comparison, lambda: comparison_section(run), (comparison.name,), lenient=True
    )
    return found


_COMPARISON = {"rows": [{"view": "sde", "sampler": "x", "nfe": 3, "seconds": 0.1}], "bits": {}}

TOKENS = [
    b"null", b"true", b"NaN", b"-1", b"0", b"1e999", b"9" * 400, b"[]", b"{}", b'""', b'"\\ud800"',
    b"[" * 3000, b"\xff\xfe", b"\0", b"!!python/object:os.system", b"&a [*a]",
    b"18446744073709551616",
]  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Other content: bits turned, pieces cut, doubled, moved or replaced by what is never there."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        place = rng.randrange(len(found) + 1)
        size = rng.choice([1, 1, 2, 4, 8, 64])
        what = rng.randrange(8)
        if what == 0 and found:
            found[place % len(found)] ^= 1 << rng.randrange(8)
        elif what == 1:
            found[place : place + size] = rng.randbytes(size)
        elif what == 2:
            del found[place : place + size]
        elif what == 3:
            del found[place:]
        elif what == 4:
            found[place:place] = found[place : place + size]
        elif what == 5:
            found[place : place + size] = bytes(size)
        elif what == 6:
            found[place : place + size] = b"\xff" * size
        else:
            found[place : place + rng.choice([0, 1, size])] = rng.choice(TOKENS)
    return bytes(found)


_watched: list[str] = []
_watching: list[bool] = []  # a hook cannot be taken away again


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in (
        "os.system",
        "subprocess.Popen",
        "os.exec",
        "os.posix_spawn",
        "pickle.find_class",
    ):
        _watched.append(f"{event} {arguments[:2]}"[:200])


def verdict(reader: Reader, seconds: float = 10.0) -> tuple[str, str]:
    """Read: one of `FAILURES`, `read` or `named`, with what was said."""
    _watched.clear()
    _watching.append(True)
    try:
        with time_limit(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = reader.read()
    except Hung:
        return "hang", f"no answer in {seconds} s"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if _watched:
            return "code", _watched[0]
        if not is_ours(error):
            return "foreign", said
        if reader.lenient:
            return "refused", said
        if not any(name in str(error) for name in reader.names):
            return "nameless", said
        return ("lines", said) if "\n" in str(error) else ("named", said)
    finally:
        _watching.clear()
    if _watched:
        return "code", _watched[0]
    if reader.right is not None and not torch.equal(answer, reader.right):
        return "believed", ""
    return "read", ""


def all_readers(folder: Path) -> dict[str, Reader]:
    """Every reader, each with a sound file of its own."""
    return data_readers(folder) | own_readers(folder) | run_readers(folder)


def attempts(folder: Path, tries: int, seed: int) -> list[tuple[str, str, str]]:
    """Damage every file in turn: the reader, the verdict, and what was said."""
    readers = all_readers(folder)
    sound = {name: reader.path.read_bytes() for name, reader in readers.items()}
    rng, found, names = random.Random(seed), [], list(readers)
    sys.addaudithook(_watch)
    for index in range(tries):
        name = names[index % len(names)]
        reader = readers[name]
        run = folder / "run"
        if name.startswith(("run ", "resume ")) and index >= len(names):
            shutil.rmtree(run)
            shutil.copytree(folder / "sound", run)
        reader.path.write_bytes(mutated(sound[name], rng))
        found.append((name, *verdict(reader)))
        if reader.path.parent.exists():
            reader.path.write_bytes(sound[name])
    return found


def main(words: list[str] | None = None) -> int:
    """Read damaged files; print what failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        found = attempts(Path(folder), given.tries, given.seed)
    counts = Counter(verdict for _, verdict, _ in found)
    shown: Counter[tuple[str, str]] = Counter()
    for name, what, said in found:
        shown[name, what] += 1
        if what in FAILURES and shown[name, what] <= 2:
            print(f"{what:9} {name}: {short(said, 200)}")
    for (name, what), number in sorted(shown.items()):
        if what in FAILURES:
            print(f"{number:5} {what:9} {name}")
    figures = ", ".join(f"{counts[what]} {what}" for what in ("read", "named", *FAILURES))
    print(f"{len(found)} tries: {figures}")
    return int(any(counts[what] for what in FAILURES))


if __name__ == "__main__":
    sys.exit(main())
