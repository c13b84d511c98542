"""The classifier of the data at hand: that it learns, generalizes honestly, and keeps its file."""

import json
import struct

import pytest
import torch

from sde_score.data import DataError, load
from sde_score.evaluation import (
    ClassifierExtractor,
    classifier_for,
    create_extractor,
    extract,
    train_classifier,
)
from sde_score.evaluation.features import classifier


def blobs(count=200, classes=3, event=(2,), seed=0):
    """Well separated groups of points, one per class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    x = torch.randn(count, *event, generator=generator)
    return x + 6 * labels.reshape(-1, *(1,) * len(event)), labels


@pytest.fixture(scope="module")
def small():
    x, labels = blobs()
    return train_classifier(x, labels, 3, name="blobs-classifier", steps=60)


def test_digits_are_recognized_within_a_hundred_steps():
    digits = load("digits")
    x, labels = digits.batch(torch.arange(len(digits)))
    trained = train_classifier(x, labels, 10, name="digits-classifier", steps=80)
    assert (trained.name, trained.held_out) == ("digits-classifier", 180)
    assert trained.accuracy > 0.9
    features = extract(x[:300], trained)
    assert features.shape == (300, 64)
    assert torch.equal(trained.logits(x[:300]), trained.network.head(features))
    assert -0.279 < features.min() < 0  # the least value of SiLU: activations, not their inputs
    assert (trained.logits(x).argmax(1) == labels).double().mean() > 0.95


@pytest.mark.parametrize("event", [(2,), (3, 2), (2, 3, 3), (1, 5, 9)])
def test_any_event_shape_is_learned(event):
    x, labels = blobs(event=event)
    trained = train_classifier(x, labels, 3, steps=60)
    assert trained.accuracy >= 0.9
    assert trained.held_out == 20
    assert extract(x, trained).shape == (200, 64)
    with pytest.raises(ValueError, match="this extractor takes"):
        trained(torch.zeros(4, *event, 2))


def test_accuracy_is_of_examples_that_training_did_not_see():
    """Labels without meaning can be learned by heart, so only unseen examples give chance, 1/10."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 20, generator=generator)
    labels = torch.randint(10, (400,), generator=generator)
    trained = train_classifier(x, labels, 10, steps=500)
    right = (trained.logits(x).argmax(1) == labels).sum()
    assert trained.held_out == 40
    assert trained.accuracy < 0.35
    assert right == pytest.approx(360 + 40 * trained.accuracy, abs=4)


def test_training_is_a_function_of_its_seed_and_leaves_the_global_generator(small):
    x, labels = blobs()
    state = torch.get_rng_state()
    with torch.no_grad():
        again = train_classifier(x.double(), labels, 3, steps=60)
    other = train_classifier(x, labels, 3, steps=60, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again(x), small(x))
    assert again.fingerprint == small.fingerprint != other.fingerprint
    assert not torch.allclose(other(x), small(x))


def test_network_is_frozen_and_in_evaluation_mode(small):
    assert not small.network.training
    assert not any(p.requires_grad for p in small.network.parameters())


def test_batches_go_through_the_data_without_replacement():
    rows = torch.arange(300) + 7
    batches = list(classifier._batches(rows, 5, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [128] * 5
    for first in (0, 2):
        epoch = torch.cat(batches[first : first + 2])
        assert len(epoch.unique()) == 256
        assert set(epoch.tolist()) <= set(rows.tolist())
    assert not torch.equal(batches[0], batches[2])
    (short,) = classifier._batches(rows[:9], 1, torch.Generator().manual_seed(0))
    assert sorted(short.tolist()) == rows[:9].tolist()


def test_file_gives_back_the_same_extractor(small, tmp_path):
    path = tmp_path / "blobs.safetensors"
    small.save(path)
    loaded = create_extractor(f"safetensors(path={str(path)!r})")
    x, _ = blobs()
    assert torch.equal(loaded(x), small(x))
    assert torch.equal(loaded.logits(x), small.logits(x))
    for fact in ("name", "accuracy", "held_out", "fingerprint"):
        assert getattr(loaded, fact) == getattr(small, fact)
    assert not loaded.network.training
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_disk_that_fails_keeps_the_file_that_was_there(small, tmp_path, monkeypatch):
    path = tmp_path / "kept.safetensors"
    path.write_bytes(b"before")

    def fail(path):
        raise OSError("disk full")

    monkeypatch.setattr("sde_score._core.files.sync", fail)
    with pytest.raises(OSError, match="disk full"):
        small.save(path)
    assert path.read_bytes() == b"before"


def test_a_file_is_kept_for_the_same_data_and_replaced_for_other(tmp_path, monkeypatch):
    path, (x, labels) = tmp_path / "new" / "kept.safetensors", blobs()
    first = classifier_for(x, labels, 3, path, steps=3)
    content = path.read_bytes()

    def refuse(*args, **kwargs):
        raise RuntimeError("trained again")

    monkeypatch.setattr(classifier, "train_classifier", refuse)
    again = classifier_for(x, labels, 3, path, name="other-name", steps=3)
    assert (again.name, first.name) == ("other-name", "classifier")
    assert torch.equal(again(x), first(x))
    others = labels.clone()
    others[0] = (labels[0] + 1) % 3
    for changed in (
        lambda: classifier_for(x + 1e-5, labels, 3, path, steps=3),
        lambda: classifier_for(x, others, 3, path, steps=3),
        lambda: classifier_for(x, labels, 4, path, steps=3),
        lambda: classifier_for(x, labels, 3, path, steps=4),
        lambda: classifier_for(x, labels, 3, path, steps=3, seed=1),
        lambda: classifier_for(x[:, :, None], labels, 3, path, steps=3),
    ):
        with pytest.raises(RuntimeError, match="trained again"):
            changed()
    assert path.read_bytes() == content
    monkeypatch.undo()
    classifier_for(x, others, 3, path, steps=3)
    assert path.read_bytes() != content


def test_progress_is_shown_on_request(capsys):
    x, labels = blobs(20)
    train_classifier(x, labels, 3, steps=2)
    assert capsys.readouterr().err == ""
    train_classifier(x, labels, 3, steps=2, name="mine", progress=True)
    assert "train mine" in capsys.readouterr().err


def test_a_damaged_file_is_refused_and_left_alone(small, tmp_path):
    path, (x, labels) = tmp_path / "damaged.safetensors", blobs()
    small.save(path)
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    damages = [content[:cut] for cut in (0, 7, header // 2, header, len(content) - 1)]
    for place in (0, 20, header // 2, header + 3, len(content) - 2):
        damages.append(content[:place] + bytes([content[place] ^ 0x11]) + content[place + 1 :])
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"damaged\.safetensors: "):
            classifier_for(x, labels, 3, path, steps=60)
        assert path.read_bytes() == damaged
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ClassifierExtractor.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"event_shape": [3]}, r"do not fit its metadata, as body\.1\.weight"),
        ({"event_shape": [1 << 40]}, "do not fit its metadata"),
        ({"event_shape": [1 << 62, 1 << 62]}, "cannot be read as a classifier of such sizes"),
        ({"event_shape": []}, "dimensions=0"),
        ({"event_shape": [-2]}, r"event_shape\[0\]=-2"),
        ({"event_shape": 2}, "cannot be read"),
        ({"num_classes": 4}, r"do not fit its metadata, as head\.bias"),
        ({"num_classes": "3"}, "num_classes='3'"),
        ({"accuracy": 2.0}, r"accuracy=2\.0"),
        ({"name": None}, "name=None"),
        ({"held_out": 0}, "held_out=0"),
        ({"other": 1}, "cannot be read"),
        ({"digest": "0"}, "do not have the digest"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(small, tmp_path, change, words):
    path = tmp_path / "changed.safetensors"
    small.save(path)
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    key = "sde_score_classifier"
    facts = {**json.loads(header["__metadata__"][key]), **change}
    header["__metadata__"][key] = json.dumps(facts)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[end:])
    with pytest.raises(DataError, match=words):
        ClassifierExtractor.load(path)


def test_other_safetensors_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="cannot be read as a classifier"):
        ClassifierExtractor.load(tmp_path / "other.safetensors")


def test_classifier_by_name_is_that_of_the_digits(tmp_path, monkeypatch):
    """`classifier` alone stands for the bundled digits, trained on the spot."""
    seen = {}

    def spy(x, labels, num_classes, path, *, name, seed):
        seen.update(x=x, labels=labels, settings=(num_classes, path, name, seed))
        return classifier_for(x[:20], labels[:20], num_classes, path, name=name, seed=seed, steps=1)

    monkeypatch.setattr("sde_score.evaluation.features.extractors.classifier_for", spy)
    assert create_extractor("classifier").name == "digits-classifier"
    assert seen["settings"] == (10, None, "digits-classifier", 0)
    assert torch.equal(seen["x"], load("digits").tensor())
    assert torch.equal(seen["labels"], load("digits").labels)
    with pytest.raises(ValueError, match=r"has no labels .* take 'pixels'"):
        create_extractor("classifier(data='target(name=\"funnel\")')")


@pytest.mark.parametrize(
    ("x", "labels", "classes", "error", "words"),
    [
        (torch.zeros(20, 2), None, 3, ValueError, "needs labelled data; .*'pixels'"),
        (torch.zeros(20, 2), torch.zeros(20), 3, TypeError, r"labels\.long"),
        (torch.zeros(20, 2), [0] * 20, 3, TypeError, r"labels\.long"),
        (torch.zeros(20, 2).long(), torch.zeros(20).long(), 3, TypeError, r"x\.float"),
        (torch.zeros(20, 2), torch.zeros(19).long(), 3, ValueError, r"labels have shape \(19,\)"),
        (torch.zeros(9, 2), torch.zeros(9).long(), 3, ValueError, "at least 10 examples"),
        (torch.zeros(20, 2), torch.full((20,), 3), 3, ValueError, "run from 3 to 3, .* 0 to 2"),
        (torch.zeros(20, 2), torch.full((20,), -1), 3, ValueError, "run from -1"),
        (torch.zeros(20, 2), torch.zeros(20).long(), 1, ValueError, "num_classes=1"),
        (torch.full((20, 2), torch.nan), torch.zeros(20).long(), 3, ValueError, "not finite"),
    ],
)
def test_bad_data_are_refused(x, labels, classes, error, words):
    with pytest.raises(error, match=words):
        classifier_for(x, labels, classes)
