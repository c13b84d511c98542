"""Folders and shards read lazily: the examples, labels and order of the same images in memory, and
what is damaged, hostile or gone is named."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from dataclasses import replace

import pytest
import torch

from sde_score.data import DataError, Fingerprint, from_tensor, load
from sde_score.data.sources import encoded
from sde_score.data.sources.files import Names, expanded, shards_of
from sde_score.data.sources.tar_index import members

LABELS = torch.arange(12) % 3


@pytest.fixture
def tar(tmp_path, pictures, png):
    """`tar(name, rows)`: a shard of some of the pictures, as WebDataset writes them."""

    def write(name="a.tar", rows=range(12), form=tarfile.PAX_FORMAT, label="cls", **pax):
        path = tmp_path / "shards" / name
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w", format=form) as file:
            for row in rows:
                text = str(int(LABELS[row])) if label == "cls" else f'{{"label": {LABELS[row]}}}'
                for ending, content in (("png", png(pictures[row])), (label, text.encode())):
                    info = tarfile.TarInfo(f"photos.v2/{row:03}.{ending}")
                    info.size, info.pax_headers = len(content), pax
                    file.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def shards(tar, parquet_file, tmp_path, pictures, png):
    """`shards(kind)`: the twelve pictures with their labels, as each kind of source."""
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")

    def make(kind):
        if kind == "folder":
            for row, picture in enumerate(pictures):
                file = tmp_path / "photos" / f"class {LABELS[row]}" / f"{row:02}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(png(picture))
            return f"{tmp_path}/photos(lazy=True)"
        if kind == "parquet":
            (tmp_path / "parquet").mkdir()
            for shard, rows in enumerate((range(5), range(5, 12))):
                images = [{"bytes": png(pictures[row]), "path": None} for row in rows]
                table = pa.table({"image": images, "label": LABELS[list(rows)].numpy()})
                pq.write_table(table, tmp_path / f"parquet/{shard}.parquet", row_group_size=3)
            return f"{tmp_path}/parquet(lazy=True)"
        tar("b.tar", range(5, 12), form=tarfile.GNU_FORMAT, label="json")
        tar("a.tar", range(5), mtime="1.5")
        return f"{tmp_path}/shards"

    return make


@pytest.mark.parametrize("kind", ["folder", "parquet", "tar"])
def test_shards_hold_what_is_in_memory(shards, pictures, kind):
    order = torch.argsort(LABELS, stable=True) if kind == "folder" else torch.arange(12)
    inside, lazy = from_tensor(pictures[order], LABELS[order]), load(shards(kind))
    assert lazy.is_lazy
    assert torch.equal(lazy.raw(), inside.raw())
    assert torch.equal(lazy.labels, LABELS[order])
    assert lazy.num_classes == 3
    assert lazy.scaling == inside.scaling
    assert lazy.info() == replace(inside.info(), name=lazy.name)
    fingerprint = Fingerprint.of(lazy)
    assert fingerprint.same_rows(Fingerprint.of(inside))
    assert fingerprint.labels == Fingerprint.of(inside).labels
    names = {"folder": ["class 0", "class 1", "class 2"], "tar": ["a.tar", "b.tar"]}
    assert [p.name for p in fingerprint.parts] == names.get(kind, ["0.parquet", "1.parquet"])
    assert sum(part.count for part in fingerprint.parts) == 12
    assert lazy.part_of(11) == fingerprint.parts[-1].name
    copy = pickle.loads(pickle.dumps(lazy))
    assert torch.equal(copy.raw([7, 2, 7]), lazy.raw([7, 2, 7]))


def test_class_names_of_folders_are_kept(shards):
    assert load(shards("folder")).class_names == ("class 0", "class 1", "class 2")


def test_a_folder_is_read_lazily_where_its_images_are_large(shards, monkeypatch, tmp_path):
    path = shards("folder").partition("(")[0]
    assert not load(path).is_lazy
    monkeypatch.setattr("sde_score.data.formats.images.LAZY", 12 * 105 - 1)
    assert load(path).is_lazy
    assert not load(f"{path}(lazy=False)").is_lazy
    monkeypatch.setattr("sde_score.data.formats.images.LAZY", 12 * 105)
    assert not load(path).is_lazy


def test_row_groups_are_the_blocks_of_the_order_and_few_are_kept(shards, monkeypatch):
    monkeypatch.setattr("sde_score.data.sources.parquet._KEPT", 400)
    dataset = load(shards("parquet"))
    source = dataset._source
    assert source.blocks.tolist() == [0, 3, 5, 8, 11, 12]
    sizes = [source._images(number).nbytes for number in range(5)]
    assert source.window == max(
        1,
        400
        // max(
            group.column(0).total_uncompressed_size + group.column(1).total_uncompressed_size
            for file in (source._open(0), source._open(1))
            for group in (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        ),
    )
    kept = sum(each.nbytes for each in source._cached.values())
    assert kept <= 800 or len(source._cached) == 2
    assert sum(sizes) > 800
    assert len(source._cached) < 5
    last = next(iter(source._cached))
    source._images(last)
    assert list(source._cached)[-1] == last  # what was asked for last goes last
    order = dataset.order(1)
    assert (order.blocks.tolist(), order.window) == (source.blocks.tolist(), source.window)


def test_patterns_name_shards(tar, tmp_path):
    for name, rows in (("a-08.tar", [0]), ("a-09.tar", [1]), ("a-10.tar", [2, 3])):
        tar(name, rows)
    folder = tmp_path / "shards"
    whole = load(folder)
    for text in ("a-{08..10}.tar", "a-*.tar", "a-{08,09,10}.tar", "a-{0[89],10}.tar"):
        assert torch.equal(load(f"{folder}/{text}").raw(), whole.raw())
    sized = load(f"{folder}/a-{{08..10}}.tar(size=4)")
    assert sized.event_shape == (3, 4, 4)
    assert [file.name for file in expanded(f"{folder}/a-{{09..10}}.tar")] == [
        "a-09.tar",
        "a-10.tar",
    ]
    for text, message in (
        ("a-{08..11}.tar", r"a-11\.tar is absent, one of the files of .*a-\{08\.\.11\}"),
        ("a-{0..99999999}.tar", r"\{0\.\.99999999\} stands for 100000000 files"),
        ("a-{0..999}{0..999}.tar", r"stands for 1000000 files"),
        ("b-*.tar", "no file is named"),
    ):
        with pytest.raises(DataError, match=message):
            shards_of(folder / text, ".tar")
    with pytest.raises(DataError, match="there is no file and no data set"):
        load(f"{folder}/b-*.tar")


def test_names_in_one_block_of_bytes_are_the_names():
    names = ["a/b.png", "", "ä/\udcff.png", "c.png"]
    assert list(Names(names)) == names
    assert Names(names)[2] == names[2]


def _header(name=b"a.png", size=b"%011o\0" % 10, kind=b"0", told=None, magic=b"ustar\x0000"):
    head = name.ljust(100, b"\0") + b"0000644\0" * 3 + size.ljust(12) + b"0" * 11 + b"\0"
    tail = kind + bytes(100) + magic + bytes(32 + 32 + 8 + 8 + 155 + 12)
    total = sum(head) + 8 * 32 + sum(tail) if told is None else told
    return head + b"%06o\0 " % total + tail


GOOD = _header() + bytes(512)
HOSTILE = {
    "negative": (_header(size=b"\xff" * 12), r"byte 0 holds .* as a number"),
    "huge": (_header(size=b"\x80" + b"\x7f" * 11), r"byte 0 holds .* as a number"),
    "words": (_header(size=b"many bytes\0\0"), r"holds b'many bytes.*' as a number"),
    "sum": (_header(told=7), r"is no tar archive: the header at byte 0 does not add up"),
    "later": (GOOD + _header(told=7), r"is damaged: the header at byte 1024"),
    "gzip": (b"\x1f\x8b" + bytes(600), r"is compressed.*: unpack it"),
    "short": (GOOD + b"a" * 100, r"is truncated: it ends within the header at byte 1024"),
    "sparse": (_header(kind=b"S"), r"sparse file at byte 0"),
    "pax": (_header(kind=b"x") + b"99 path=a\n".ljust(512), r"is no pax header"),
    "zero record": (_header(kind=b"x") + b"0 path=abc".ljust(512), r"is no pax header"),
    "pax size": (
        _header(size=b"%011o\0" % 11, kind=b"x") + b"11 size=-5\n".ljust(512, b"\0") + GOOD,
        r"byte 1024 holds b'-5' as a number",
    ),
    "long name": (
        _header(size=b"77777777777\0", kind=b"L") + bytes(512),
        r"takes 8589934591 bytes",
    ),
    "joined": (GOOD + bytes(1 << 21), r"goes on for \d+ bytes behind its end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(tmp_path, name):
    content, message = HOSTILE[name]
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(path)


def test_only_files_of_an_archive_are_taken_and_no_name_is_a_path(tmp_path, png, pictures):
    """Links, folders and paths that lead outside: nothing is followed, nothing is written."""
    path, image = tmp_path / "a.tar", png(pictures[3])
    with tarfile.open(path, "w") as file:
        for name, kind in (("a", tarfile.DIRTYPE), ("b.png", tarfile.SYMTYPE), ("c", b"3")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
        for name in ("../../x.png", "._hidden.png", "/abs/" + "long" * 60 + ".png"):
            info = tarfile.TarInfo(name)
            info.size = len(image)
            file.addfile(info, io.BytesIO(image))
    handle = os.open(path, os.O_RDONLY)
    found = [member.name for member in members(handle, path.stat().st_size)]
    os.close(handle)
    assert found == ["../../x.png", "._hidden.png", "/abs/" + "long" * 60 + ".png"]
    dataset = load(path)
    assert torch.equal(dataset.raw(), pictures[[3, 3]])
    assert sorted(os.listdir(tmp_path)) == ["a.tar"]


def test_names_of_members_are_those_that_tarfile_reads(tmp_path):
    """Long names of both kinds, a name in two fields, and a header for all that names nothing."""
    names = ["a.png", "d/" + "x" * 120 + ".png", "e" * 90 + "/" + "f" * 90 + ".png", "g.png"]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        path = tmp_path / "a.tar"
        given = {"pax_headers": {"comment": "x"}} if form == tarfile.PAX_FORMAT else {}
        with tarfile.open(path, "w", format=form, **given) as file:
            for name in names if form else [names[0], *names[2:]]:
                info = tarfile.TarInfo(name)
                info.size = 7
                file.addfile(info, io.BytesIO(b"content"))
        handle = os.open(path, os.O_RDONLY)
        found = list(members(handle, path.stat().st_size))
        contents = [os.pread(handle, member.size, member.offset) for member in found]
        os.close(handle)
        with tarfile.open(path) as file:
            assert [each.name for each in found] == [info.name for info in file]
            assert [each.offset for each in found] == [info.offset_data for info in file]
        assert set(contents) == {b"content"}


def test_few_files_are_open_and_those_of_another_process_are_left_alone(tar, monkeypatch, pictures):
    monkeypatch.setattr("sde_score.data.sources.tar._OPEN", 2)
    for shard in range(4):
        tar(f"{shard}.tar", [shard, shard + 4])
    dataset = load(tar("9.tar", [8]).parent)
    order = [0, 4, 1, 5, 2, 6, 3, 7, 8]
    for _ in range(2):
        assert torch.equal(dataset.raw(), pictures[order])
        assert len(dataset._source._handles) == 2
    before = dict(dataset._source._handles)
    dataset._source._process = -1  # as in a process that was copied
    assert torch.equal(dataset.raw([0]), pictures[[0]])
    assert set(dataset._source._handles) == {0}
    for handle in before.values():
        os.fstat(handle)  # still open


def test_samples_of_an_archive_have_one_image_and_all_a_label_or_none(tmp_path, png, pictures):
    def write(*named):
        with tarfile.open(tmp_path / "a.tar", "w") as file:
            for name, content in named:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
        return tmp_path / "a.tar"

    image, other = png(pictures[0]), png(pictures[1])
    for named, message in (
        ([("a.txt", b"x")], r"a has the members txt; accepted: one image"),
        ([("a.png", image), ("a.jpg", image)], r"has the members png, jpg; accepted: one image"),
        ([("a.png", image), ("a.png", image)], r"holds a\.png twice"),
        ([("a.png", image), ("a.cls", b"1"), ("b.png", image)], r"has labels for 1 of 2 images"),
        ([("a.png", image), ("a.cls", b"cat")], r"/a: cannot be read as a label, an integer"),
        ([("a.png", image), ("a.json", b"{")], r"/a: cannot be read as JSON"),
        ([("a.png", image), ("a.json", b'{"label": true}')], r"holds True as its label"),
        ([("a.png", image), ("a.cls", b"9" * 30)], r"cannot be read as labels"),
    ):
        with pytest.raises(DataError, match=message):
            load(write(*named))
    two = write(("a.in.png", image), ("a.out.png", other), ("a.json", b'{"kind": 4}'))
    chosen = load(f"{two}(image='out.png', label='kind')")
    assert torch.equal(chosen.raw(), pictures[[1]])
    assert (chosen.num_classes, chosen.class_names) == (1, ("4",))


@pytest.mark.parametrize("cut", [0, 300])
def test_a_truncated_archive_is_refused_or_taken_as_far_as_it_goes(tar, pictures, cut):
    path = tar()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 1024 * 512 + cut])
    with pytest.raises(
        DataError, match=r"a\.tar: is truncated: (at byte \d+, where|it ends within)"
    ):
        load(path)
    with pytest.warns(UserWarning, match=r"a\.tar: is truncated.* the first [5-8] examples are"):
        dataset = load(path, on_bad_example="skip")
    assert torch.equal(dataset.raw(), pictures[: len(dataset)])
    assert torch.equal(dataset.labels, LABELS[: len(dataset)])


def test_a_shard_that_changes_while_it_is_read_is_named(tar):
    path = tar()
    dataset = load(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"^a\.tar: row 11: is truncated: 0 of \d+"):
        dataset.raw([11])
    place = content.index(b"IDAT")
    path.write_bytes(content[: place + 8] + b"\0\0\0\0" + content[place + 12 :])
    with pytest.raises(
        DataError, match=r"^a\.tar: photos\.v2/000\.png: cannot be read as an image"
    ):
        load(path)._source._decoded(0)


def test_files_that_are_gone_are_named(shards, tmp_path):
    dataset = load(shards("folder"))
    before = Fingerprint.of(dataset)
    (tmp_path / "photos" / "class 1" / "04.png").unlink()
    with pytest.raises(DataError, match=r"^class 1/04\.png: cannot be read as an image.*No such"):
        dataset.raw([5])
    now = Fingerprint.of(load(f"{tmp_path}/photos(lazy=True)"), like=before)
    assert now.changed_parts(before) == ["class 1 holds 3 examples, held 4"]


def test_an_image_within_a_shard_is_within_the_limits(tar, monkeypatch, tmp_path):
    path = tar()
    with pytest.raises(DataError, match=r"000\.png: is 7 x 5, 3\.5e-05 megapixels, beyond"):
        load(f"{path}(max_pixels=34)")
    dataset = load(path)
    dataset._source._places[0, 2] = 1 << 40
    with pytest.raises(DataError, match=r"takes 1099511627776 bytes, and an image of at most"):
        dataset.raw([0])


def test_the_levels_of_images_read_lazily_are_not_guessed(tmp_path, png):
    masks = torch.arange(120).reshape(2, 1, 6, 10).remainder(3).byte()
    (tmp_path / "masks").mkdir()
    for row, mask in enumerate(masks):
        (tmp_path / "masks" / f"{row}.png").write_bytes(png(mask))
    where = tmp_path / "masks"
    with pytest.raises(DataError, match=r"largest value of 2 images is 2, .* give levels="):
        load(f"{where}(lazy=True)")
    assert load(f"{where}(lazy=True, levels=3)").scaling == load(where).scaling
    with pytest.raises(DataError, match=r"0\.png: holds 2, and there are 2 levels"):
        load(f"{where}(lazy=True, levels=2)").raw()
    assert load(f"{where}(lazy=True, levels=256)").scaling.levels == 256


def test_parquet_shards_that_do_not_fit_are_named(shards, tmp_path, monkeypatch):
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    text = shards("parquet")
    monkeypatch.setattr("sde_score.data.sources.parquet._LARGEST", 100)
    with pytest.raises(DataError, match=r"0\.parquet: row group 0 unpacks to .*row_group_size"):
        load(text)
    monkeypatch.undo()
    dataset = load(text)
    group = dataset._source._groups[1]
    dataset._source._groups[1] = group._replace(rows=4)
    dataset._source._cached.clear()
    with pytest.raises(DataError, match=r"0\.parquet: row 3: row group 1 holds 2 rows where 4"):
        dataset.raw([3])
    last = tmp_path / "parquet" / "1.parquet"
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": None}]}), last)
    with pytest.raises(DataError, match=r"1\.parquet: has other columns than 0\.parquet"):
        load(text)
    last.write_bytes(last.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"1\.parquet: cannot be read as a parquet file"):
        load(text)


def test_damaged_pictures_of_a_small_folder_are_skipped_where_that_is_asked_for(shards, tmp_path):
    path = shards("folder").partition("(")[0]
    whole = load(path)
    (tmp_path / "photos" / "class 1" / "04.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"class 1/04\.png: cannot be read as an image"):
        load(path)
    found = load(path, on_bad_example="skip")
    assert torch.equal(found.raw([4, 5, 6]), whole.raw([4, 6, 6]))
    assert found.labels_at([5]).tolist() == [1]
    assert found._source.nbytes < encoded.LAZY


@pytest.fixture
def saved(tmp_path, pictures, png):
    """The pictures in a folder that `datasets` saved, in two files, with the data set itself."""
    datasets = pytest.importorskip("datasets")
    rows = [{"bytes": png(picture), "path": None} for picture in pictures]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    whole = datasets.Dataset.from_dict(
        {"image": rows, "label": LABELS.tolist()}, features=datasets.Features(features)
    )
    datasets.disable_progress_bars()
    whole.save_to_disk(tmp_path / "saved", num_shards=2)
    return tmp_path / "saved", whole


def test_what_datasets_saved_is_read_lazily(saved, pictures):
    path, whole = saved
    lazy, inside = load(path), load(whole)
    assert lazy.is_lazy
    assert not inside.is_lazy
    for found in (lazy, inside, pickle.loads(pickle.dumps(lazy))):
        assert torch.equal(found.raw(), pictures)
        assert torch.equal(found.labels, LABELS)
        assert found.class_names == ("a", "b", "c")
    assert [part.count for part in Fingerprint.of(lazy).parts] == [6, 6]
    (path / "dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match="holds several data sets: give one of its folders"):
        load(path)


def test_saved_folders_that_are_damaged_or_lead_elsewhere_are_refused(saved):
    path, _ = saved
    last = path / "data-00001-of-00002.arrow"
    content, state = last.read_bytes(), (path / "state.json").read_text()
    last.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow: cannot be read as an Arrow"):
        load(path)
    last.unlink()
    with pytest.raises(
        DataError, match=r"data-00001-of-00002\.arrow: .* cannot be opened: No such"
    ):
        load(path)
    (path / "state.json").write_text(state.replace("data-00001", "../data-00001"))
    with pytest.raises(DataError, match=r"as a file of its own; accepted: names without folders"):
        load(path)
    (path / "state.json").write_text('{"_data_files": 3}')
    with pytest.raises(DataError, match=r"cannot be read|holds no rows"):
        load(path)


def test_an_image_of_another_shape_is_named_and_not_broadcast(tmp_path, png, pictures):
    folder = tmp_path / "photos"
    folder.mkdir()
    for row, picture in enumerate((pictures[0], pictures[1][:1])):  # gray among color
        (folder / f"{row}.png").write_bytes(png(picture))
    with pytest.raises(DataError, match=r"^1\.png: is 1x5x7 .* where the first image is 3x5x7"):
        load(f"{folder}(lazy=True, levels=256)").raw()
