"""Training on streams: the bits of a run that was cut are those of one that was not."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from sde_score.data import DataError, from_stream, load
from sde_score.training import TrainingError, load_run, save_config
from sde_score.training.batches import Batches

FAILED = (DataError, TrainingError)
QUICK = {"backbone": "mlp(width=8, depth=1)", "batch_size": 4, "checkpoint_every": 3}


def example(index):
    return torch.arange(3.0) + 10 * index


class Log:
    """Numbers of the examples that a source has given."""

    def __init__(self):
        self.given = []

    def __call__(self, index, count):
        self.given.append(index)
        return example(index) + random.random(), index % count


class Stated(IterableDataset):
    """A stream that can go back to where it was."""

    def __init__(self, log, at=0, late=False):
        self.log, self.at, self.late = log, at, late

    def __iter__(self):
        for _ in range(self.at, 20):
            self.at += not self.late
            yield self.log(self.at - (not self.late), 4)
            self.at += self.late

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def plain(log):
    def twenty():
        for index in range(20):
            yield log(index, 4)

    return twenty


class Twenty(IterableDataset):
    """A stream without a state."""

    def __init__(self, log):
        self.log = log

    def __iter__(self):
        return (self.log(index, 4) for index in range(20))


def shuffled(log):
    """A loader that shuffles, whose batches cross the ends of epochs and steps."""
    generator = torch.Generator().manual_seed(5)
    data = TensorDataset(torch.stack([example(i) for i in range(22)]), torch.arange(22) % 4)
    return DataLoader(data, batch_size=5, shuffle=True, generator=generator)


SOURCES = {
    "function": plain,
    "state": Stated,
    "state behind": lambda log: Stated(log, late=True),
    "loader": shuffled,
    "loader of a stream": lambda log: DataLoader(Twenty(log), batch_size=6),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_cut_run_has_the_bits_of_a_whole_one(kind, run_to, tensor_bytes, tmp_path, capfd):
    make, log = SOURCES[kind], Log()
    run_to(tmp_path / "whole", data=make(Log()), steps=9, **QUICK)
    run_to(tmp_path / "cut", data=make(Log()), steps=6, **QUICK)
    run = run_to(tmp_path / "cut", data=make(log), steps=9, **QUICK)
    assert tensor_bytes(tmp_path / "cut", 9) == tensor_bytes(tmp_path / "whole", 9)
    state = json.loads((tmp_path / "cut" / "checkpoints" / "step-6" / "state.json").read_text())
    assert state["stream"]["position"] == 24
    assert ("state" in state["stream"]) == (kind == "state")
    count = 22 if kind == "loader" else 20
    assert (state["stream"]["epoch"], state["stream"]["begun"]) == (1, count)
    if kind in ("function", "state"):  # the check of the network, then epoch 1 from its example 4
        anew = [9, 0, 1, 2, 3, 0, 1, 2, 3, *range(4, 16)]
        by_state = [8, 0, 1, 2, 3, *range(4, 16), *range(16, 20)]  # and looks 4 ahead
        expected = anew if kind == "function" else by_state
        assert log.given[-len(expected) :] == expected
    assert len(run.dataset("train")) == count
    with pytest.raises(ValueError, match=r"of which nothing is held out: measure on other data"):
        run.dataset("held_out")


def test_processes_and_parts_share_a_stream_and_epochs_differ(config):
    data = from_stream(plain(Log()))
    config = replace(config, **{**QUICK, "batch_size": 8})
    whole = Batches(data, config)
    pair = [Batches(data, replace(config, batch_size=4, accumulate=2), r, 2) for r in (0, 1)]
    seen = []
    before = random.getstate()
    for step in range(6):
        one = next(whole.step(step))
        two = [part for each in pair for part in each.step(step)]
        assert torch.equal(one.x0, torch.cat([part.x0 for part in two]))
        raw = data.scaling.from_model(one.x0.double())[:, 0]
        index = (8 * step + torch.arange(8)) % 20
        assert torch.equal((raw / 10).floor().long(), index)
        assert torch.equal(data.labels_at(index), index % 4)
        seen += (raw - 10 * index).tolist()
    assert random.getstate() == before
    other = Batches(data, replace(config, seed=1))
    assert not torch.equal(next(other.step(0)).x0, next(whole.step(0)).x0)
    assert len({round(value, 3) for value in seen}) > 40  # drawn anew in every epoch


def test_a_stream_says_what_was_measured_on_what(run_to, tmp_path, config, capfd):
    from sde_score.training import train

    settings = replace(config, **QUICK, steps=3)
    for out in ("a", "a"):
        train(settings, tmp_path / out, data=lambda: plain(Log())())
        settings = replace(settings, steps=5)
    said = capfd.readouterr().err
    assert "data: a stream of rows of 3 columns" in said
    assert "measured on its first 20 examples, which data.json records), nothing held out" in said
    assert "no state leads back into <lambda>, so that 12 examples of epoch 0 are read" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"excess": True}, r"excess=True needs all examples by their numbers, and twenty is a str"),
        ({"coupling": "semi-discrete"}, r"coupling=semi-discrete.* needs all examples"),
        ({"workers": 2}, r"workers=2: twenty is a stream, .* a DataLoader with num_workers"),
        ({"on_bad_example": "skip"}, r"on_bad_example='skip' needs all examples"),
    ],
)
def test_what_needs_all_examples_is_refused_by_name(run_to, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_to(tmp_path, data=plain(Log()), steps=2, **QUICK, **changes)


def test_a_stream_that_fails_or_ends_stops_with_where_and_why(run_to, tmp_path):
    def breaks(after):
        def items():
            for index in range(100):
                if index == after[0]:
                    raise OSError("shard-7.tar is gone")
                yield example(index)

        return items

    after = [200]
    source = breaks(after)
    data = from_stream(source, first=10)
    after[0] = 17
    settings = {**QUICK, "conditional": False}
    with pytest.raises(
        (DataError, TrainingError), match=r"example 17, .* epoch 0: OSError, shard-7"
    ):
        run_to(tmp_path / "a", data=data, steps=9, **settings)
    opened = []

    def once():
        opened.append(1)
        return map(example, range(20 if len(opened) < 6 else 0))

    data = from_stream(once, first=10)
    opened += [1] * 5
    with pytest.raises(FAILED, match=r"ended after 0 examples and gives none"):
        run_to(tmp_path / "b", data=data, steps=9, **settings)


def test_other_first_examples_are_refused(run_to, tmp_path):
    settings = {**QUICK, "conditional": False}
    data = [example(index) for index in range(30)]
    run_to(tmp_path, data=lambda: iter(data), steps=2, **settings)
    with pytest.raises(DataError, match=r"the examples are others, or in another order"):
        run_to(tmp_path, data=lambda: iter(data[::-1]), steps=3, **settings)
    with pytest.raises(DataError, match=r"its first 29 examples were measured, not 30"):
        run_to(tmp_path, data=lambda: iter(data[:29]), steps=3, **settings)
    assert load_run(tmp_path).step == 2


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three parquet files of 16 pictures each, by `datasets`."""
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    folder, generator = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    features = datasets.Features(
        {"image": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog", "eel"])}
    )
    for shard in range(3):
        pixels = generator.integers(0, 256, (16, 8, 8), dtype=np.uint8)
        rows = {"image": [Image.fromarray(p) for p in pixels], "kind": [i % 3 for i in range(16)]}
        made = datasets.Dataset.from_dict(rows, features=features)
        made.to_parquet(folder / f"{shard}.parquet", batch_size=5)
    return folder


@pytest.mark.parametrize(("shuffle", "has_state"), [(0, True), (20, False)])
def test_a_data_set_of_datasets_goes_on_from_its_state(
    shards, shuffle, has_state, run_to, tensor_bytes, tmp_path, monkeypatch
):
    # It waits for seconds after its threads, whenever a reading ends.
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    text = f"hub:parquet(files='{shards}/*.parquet', label='kind', shuffle={shuffle})"
    data = load(text)
    assert (data.event_shape, data.class_names) == ((1, 8, 8), ("cat", "dog", "eel"))
    assert (len(data), data.scaling.levels, data.stream.has_state) == (48, 256, has_state)
    settings = {**QUICK, "batch_size": 10, "data": text}
    run_to(tmp_path / "whole", steps=9, **settings)
    run_to(tmp_path / "cut", steps=6, **settings)
    run_to(tmp_path / "cut", steps=9, **settings)
    assert tensor_bytes(tmp_path / "cut", 9) == tensor_bytes(tmp_path / "whole", 9)
    assert load_run(tmp_path / "cut").dataset("train").name == "parquet"


class Buffered(Stated):
    """A stream whose state leads back at first, and from its seventh example on two too far."""

    def load_state_dict(self, state):
        self.at = state["at"] + 2 * (state["at"] > 6)


def test_a_state_that_leads_elsewhere_is_found_out(run_to, tensor_bytes, tmp_path, capfd):
    from sde_score.training import TrainConfig, train

    assert from_stream(Buffered(Log())).stream.has_state
    run_to(tmp_path / "whole", data=Buffered(Log()), steps=9, **QUICK)
    run_to(tmp_path / "cut", data=Buffered(Log()), steps=4, **QUICK)
    stored = {**vars(load_run(tmp_path / "cut").config), "steps": 9}
    train(TrainConfig(**stored), tmp_path / "cut", data=Buffered(Log()))
    assert "no state leads back into Buffered, so that 16 examples" in capfd.readouterr().err
    assert tensor_bytes(tmp_path / "cut", 9) == tensor_bytes(tmp_path / "whole", 9)


PROCESSES = """
import random
from torch.utils.data import IterableDataset

class Plain(IterableDataset):
    at = 0

    def __iter__(self):
        for number in range(self.at, 20):
            self.at = number + 1
            yield torch.arange(3.0) + 10 * number + random.random()

class Stated(Plain):
    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]

def iterated():
    return iter(Plain())

def trained(name, source, killed=False):
    def work(rank):
        trainer = Trainer(prepare(dataclasses.replace(config, data=source), out / name),
                          progress=False)
        step = trainer._train_step
        def watched():
            step()
            if killed and trainer.step == 5 and rank == trainer.accelerator.num_processes - 1:
                os.kill(os.getpid(), signal.SIGKILL)
        trainer._train_step = watched
        trainer.run()
    return work

for name, source in (("plain", iterated), ("stated", Stated())):
    together(2, trained(name + "-whole", source))
    assert -signal.SIGKILL in end(start(2, trained(name + "-cut", source, True)))
    together(2, trained(name + "-cut", source))
"""


def test_a_killed_process_of_two_leaves_no_trace(config, run_ranks, tensor_bytes, tmp_path):
    settings = {**QUICK, "batch_size": 4, "conditional": False, "steps": 8}
    save_config(replace(config, **settings), tmp_path / "config.yaml")
    run_ranks("import dataclasses\n" + PROCESSES, tmp_path)
    for kind in ("plain", "stated"):
        whole, cut = (tmp_path / f"{kind}-{way}" for way in ("whole", "cut"))
        state = json.loads((whole / "checkpoints" / "step-8" / "state.json").read_text())
        assert ("state" in state["stream"]) == (kind == "stated")
        assert tensor_bytes(cut, 8) == tensor_bytes(whole, 8)
