from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sde_score.data import (
    FORMATS,
    NAMED,
    DataError,
    DataSet,
    Scaling,
    absolute,
    available,
    from_tensor,
    load,
    loading,
    register_format,
    text_of,
)


def everything(data: DataSet) -> torch.Tensor:
    return data.raw(torch.arange(len(data)))


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    data, bundle = load("digits"), load_digits()
    assert (len(data), data.event_shape, data.num_classes) == (1797, (1, 8, 8), 10)
    assert data.scaling == Scaling.discrete(17)
    assert np.array_equal(everything(data)[:, 0].numpy(), bundle.images)
    assert np.array_equal(data.batch(torch.arange(1797)).condition.numpy(), bundle.target)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_images_are_read_with_the_labels_beside_them(idx_files, pictures, zipped):
    path = idx_files(zipped)
    for spec in (str(path), f"mnist:{path}", f"mnist:{path.parent}"):
        data = load(spec)
        assert torch.equal(everything(data), pictures[:, :1])
        assert data.labels.tolist() == [0, 1, 2, 3] * 3
        assert (data.num_classes, data.scaling) == (4, Scaling.discrete(256))


def test_idx_images_alone_have_no_labels_and_mixed_compression_is_found(idx_files, pictures):
    path = idx_files(zipped=False)
    labels = path.with_name("train-labels-idx1-ubyte")
    content = labels.read_bytes()
    labels.unlink()
    assert load(str(path)).num_classes == 0
    import gzip

    labels.with_name(labels.name + ".gz").write_bytes(gzip.compress(content))
    assert load(str(path)).num_classes == 4


def test_mnist_test_images_have_their_known_label_counts(shared):
    data = load(str(shared("mnist-t10k-images-idx3-ubyte.gz")))
    assert (len(data), data.event_shape) == (10000, (1, 28, 28))
    assert data.labels.bincount().tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    # Ones are thin and zeros are round: were labels shifted against images, the means would agree.
    ink = everything(data).double().flatten(1).mean(1)
    assert ink[data.labels == 1].mean() < 0.5 * ink[data.labels == 0].mean()


def test_a_folder_of_classes_is_read_in_the_order_of_names(tmp_path, pictures, png):
    for i, picture in enumerate(pictures):
        folder = tmp_path / ("cat", "ant", "bee")[i % 3]
        folder.mkdir(exist_ok=True)
        (folder / f"{i:02}.png").write_bytes(png(picture))
        (folder / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    data = load(str(tmp_path))
    assert data.class_names == ("ant", "bee", "cat")
    order = [1, 4, 7, 10, 2, 5, 8, 11, 0, 3, 6, 9]
    assert torch.equal(everything(data), pictures[order])
    assert data.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_folder_without_classes_has_no_labels(tmp_path, pictures, png):
    for i, picture in enumerate(pictures[:, :1]):
        (tmp_path / f"{i:02}.PNG").write_bytes(png(picture))
    data = load(f"folder:{tmp_path}")
    assert torch.equal(everything(data), pictures[:, :1])
    assert (data.num_classes, data.event_shape) == (0, (1, 5, 7))


def test_palettes_and_opaque_transparency_are_read_as_color(tmp_path, pictures, png):
    (tmp_path / "a.png").write_bytes(png(pictures[0], mode="RGBA"))
    (tmp_path / "b.png").write_bytes(png(pictures[1], mode="P"))
    data = load(str(tmp_path))
    assert torch.equal(everything(data)[0], pictures[0])
    assert data.event_shape == (3, 5, 7)


def test_parquet_images_are_read_with_labels_and_class_names(parquet_file, pictures):
    labels = [i % 3 for i in range(12)]
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list("abcd"), "_type": "ClassLabel"},
    }
    path = parquet_file(labels=labels, metadata=json.dumps({"info": {"features": features}}))
    data = load(str(path))
    assert torch.equal(everything(data), pictures)
    assert data.labels.tolist() == labels
    assert (data.num_classes, data.class_names) == (4, ("a", "b", "c", "d"))
    assert load(f"{path}(label='nothing')").labels is None


def test_hidden_parquet_labels_are_no_labels(parquet_file):
    assert load(str(parquet_file(labels=[-1] * 12))).labels is None
    assert load(str(parquet_file())).labels is None


def test_cifar_images_are_read(shared):
    data = load(str(shared("cifar10-jpeg-test.parquet")))
    assert (len(data), data.event_shape, data.num_classes) == (10000, (3, 32, 32), 10)
    assert data.labels.bincount().tolist() == [1000] * 10
    assert data.class_names[3] == "cat"
    mean = everything(data).double().mean((0, 2, 3)) / 255
    # The published channel means of the test set: sky and water make blue the darkest on average.
    torch.testing.assert_close(
        mean, torch.tensor([0.494, 0.485, 0.450]).double(), rtol=0, atol=4e-3
    )


def test_npy_floats_are_continuous_with_one_scaling(tmp_path):
    """But for tables, whose columns have their own."""
    x = np.random.default_rng(0).normal(3, [1.0, 5.0], size=(40, 2, 2))
    for name, values in (("a", x), ("b", x.astype(">f4")), ("c", np.asfortranarray(x))):
        np.save(tmp_path / f"{name}.npy", values)
        data = load(str(tmp_path / f"{name}.npy"))
        np.testing.assert_allclose(everything(data).numpy(), x, rtol=1e-6)
        assert data.scaling.levels is None
        assert data.scaling.width == pytest.approx(x.std(), rel=1e-6)


def test_npy_bytes_are_eight_bit_images(tmp_path, pictures):
    np.save(tmp_path / "color.npy", pictures.numpy())
    np.save(tmp_path / "grey.npy", pictures[:, 0].numpy())
    color, grey = load(str(tmp_path / "color.npy")), load(str(tmp_path / "grey.npy"))
    assert torch.equal(everything(color), pictures)
    assert torch.equal(everything(grey), pictures[:, :1])
    assert color.scaling == grey.scaling == Scaling.discrete(256)


@pytest.mark.parametrize("key", ["x", "data", "images", "samples"])
def test_npz_arrays_are_found_with_their_labels(tmp_path, pictures, key):
    labels = np.arange(12, dtype=np.int16)
    np.savez_compressed(tmp_path / "a.npz", **{key: pictures.numpy(), "labels": labels})
    data = load(str(tmp_path / "a.npz"))
    assert torch.equal(everything(data), pictures)
    assert data.labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("name", "text", "spec"),
    [
        ("a.csv", "height,weight\n1.5,10\n2.5,-3e1\n\n", "{}"),
        ("b.csv", "1.5,10\r\n2.5,-30\r\n", "{}"),
        ("c.tsv", "\ufeffheight\tweight\n1.5\t10\n2.5\t-30", "{}"),
        ("d.csv", '"a;b";c\n1.5; 10\n2.5;-30\n', "{}(delimiter=';')"),
        ("f.csv", "\ufeff1.5,10\n2.5,-30\n", "{}"),
        ("e.txt", "1.5,10\n2.5,-30\n", "csv:{}"),
    ],
)
def test_tables_are_read_with_or_without_a_header(tmp_path, name, text, spec):
    (tmp_path / name).write_text(text, encoding="utf-8")
    data = load(spec.format(tmp_path / name))
    assert everything(data).tolist() == [[1.5, 10.0], [2.5, -30.0]]
    assert data.scaling == Scaling(center=(2.0, -10.0), width=(0.5, 20.0))
    assert data.tensor().tolist() == [[-1.0, 1.0], [1.0, -1.0]]


def test_what_can_be_loaded_can_be_listed():
    assert available() == NAMED.names()
    assert available()[0] == "digits"
    assert all(NAMED[name].__doc__ for name in available())
    assert all(FORMATS[name].__doc__ for name in FORMATS)


def test_a_path_may_hold_brackets_and_a_name_wins_over_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run (2).csv").write_text("1,2\n3,4\n")
    (tmp_path / "ring").write_text("1,2\n3,4\n")
    assert everything(load("run (2).csv")).tolist() == [[1, 2], [3, 4]]
    assert len(load("ring")) == 10_000
    assert len(load("csv:ring")) == 2
    with pytest.raises(DataError, match="no known format"):
        load("./ring")


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("", DataError, "no file and no data set"),
        ("digit", DataError, "no file and no data set 'digit'; accepted: a path, or one of digits"),
        ("nowhere/a.npy", DataError, "no file"),
        ("mnist:nowhere", DataError, "no file"),
        ("csv:", DataError, "no file"),
        ("a\0b", DataError, "no file"),
        ("x" * 5000, DataError, "no file"),
        ("ring(m=5)", ValueError, "does not take m; accepted: n, seed"),
        ("ring(n=0)", ValueError, "n=0"),
        ("ring(n=5", ValueError, "cannot read"),
        (3, TypeError, "source=3 is int"),
    ],
)
def test_what_cannot_be_loaded_is_refused(spec, error, message):
    with pytest.raises(error, match=message):
        load(spec)


def test_what_is_in_memory_is_loaded_as_it_is(tmp_path):
    x = torch.randn(20, 2)
    whole = from_tensor(x)
    assert load(whole) is whole
    for source in (x, x.numpy(), torch.utils.data.TensorDataset(x)):
        assert torch.equal(load(source).raw(), x)
    np.save(tmp_path / "x.npy", x.numpy())
    assert torch.equal(load(tmp_path / "x.npy").raw(), x)


def test_a_path_is_never_taken_for_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("ring", np.zeros((3, 1), np.float32) + np.arange(3)[:, None].astype(np.float32))
    Path("ring.npy").rename("ring")
    assert len(load("ring")) == 10_000
    assert len(load(Path("ring"))) == 3
    assert text_of(Path("ring")) == "./ring"
    assert text_of(torch.zeros(3)) is None


def test_the_absolute_text_of_a_path_is_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a (b)").mkdir()
    Path("a (b)/t.txt").write_text("1;2\n3;5\n")
    texts = [absolute(text) for text in ("csv:a (b)/t.txt(delimiter=';')", "ring(n=5)")]
    monkeypatch.chdir("/")
    assert texts[1] is None
    assert load(texts[0]).raw().tolist() == [[1, 2], [3, 5]]


def test_data_sets_and_formats_of_users_are_loaded_by_name(
    register_for_test, monkeypatch, tmp_path
):
    register_for_test(NAMED, "mine", lambda n=3: torch.arange(2.0 * n).reshape(n, 2))
    assert load("mine(n=4)").raw().tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert load("mine").name == "mine"
    with pytest.raises(ValueError, match="does not take m"):
        load("mine(m=4)")
    monkeypatch.setattr(loading, "_SUFFIXES", dict(loading._SUFFIXES))
    for registry_entry in ("_entries", "_listed"):
        monkeypatch.setattr(FORMATS, registry_entry, dict(getattr(FORMATS, registry_entry)))

    def words(path, scale=1.0):
        numbers = [float(word) * scale for word in path.read_text().split()]
        return from_tensor(torch.tensor(numbers)[:, None], name=path.name)

    register_format("words", words, (".words",))
    (tmp_path / "x.words").write_text("1 2 4")
    (tmp_path / "y").write_text("1 2")
    assert load(f"{tmp_path}/x.words(scale=2.0)").raw().flatten().tolist() == [2, 4, 8]
    assert load(f"words:{tmp_path}/y").raw().flatten().tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"suffix \.csv belongs to the format csv"):
        register_format("more-words", words, (".csv",))


def test_class_names_of_torch_data_sets_are_kept():
    class Pairs(torch.utils.data.Dataset):
        classes = ("cat", "dog", "bird")

        def __len__(self):
            return 4

        def __getitem__(self, i):
            return torch.full((2,), float(i)), i % 2

    found = load(Pairs())
    assert found.class_names == ("cat", "dog", "bird")
    assert found.num_classes == 3
