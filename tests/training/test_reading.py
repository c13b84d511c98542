"""Reading ahead: the same bits whatever the number of processes, and an end in words where one of
them, or an example, is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sde_score.data import DataError, Scaling, from_tensor
from sde_score.data.sources.base import Part, Rows
from sde_score.training import (
    TrainConfig,
    Trainer,
    TrainingError,
    load_run,
    prepare,
    reading,
    train,
)
from sde_score.training.meter import Meter
from sde_score.training.state import DataFacts, TrainState

COUNT = 24


class Pictures(Rows):
    """Images of a tensor; some cannot be read, or something happens where they are."""

    def __init__(self, x, bad=(), event=None):
        self.x, self.shape, self.dtype = x, tuple(x.shape), x.dtype
        self.bad, self.event, self.home = set(bad), event, os.getpid()
        self.parts = (Part("one.tar", 12, 1), Part("two.tar", 12, 1))

    def __getitem__(self, rows):
        if self.event and os.getpid() != self.home:
            self.event()
        if wrong := [row for row in rows.tolist() if row in self.bad]:
            raise DataError(f"two.tar: row {wrong[0]} is damaged")
        return self.x[rows]


@pytest.fixture
def images():
    return torch.randint(256, (COUNT, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture
def dataset(images):
    """`dataset(lazy=..., ...)`: labeled images in memory or read lazily."""

    def make(lazy=True, **given):
        whole = from_tensor(images, torch.arange(COUNT) % 3, Scaling.discrete(256))
        return replace(whole, _source=Pictures(images, **given)) if lazy else whole

    return make


@pytest.fixture
def config():
    return TrainConfig(
        backbone="mlp(width=8, depth=1, dropout=0.1)",
        steps=9,
        batch_size=8,
        accumulate=2,
        conditional=True,
        dequantize=True,
        augmentation="flip",
        held_out=0.25,
        checkpoint_every=5,
        log_every=4,
        device="cpu",
    )


def _files(out):
    folder = out / "checkpoints" / "step-9"
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def _lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_number_of_processes_changes_no_bit_and_may_change_on_the_way(
    tmp_path, dataset, config
):
    torch.manual_seed(5)
    train(config, tmp_path / "memory", data=dataset(lazy=False), progress=False)
    for workers in (0, 2):
        out, changed = tmp_path / str(workers), replace(config, workers=workers)
        train(replace(changed, steps=6), out, data=dataset(), progress=False)
        run = train(replace(changed, workers=1), out, data=dataset(), progress=False)
        assert _files(out) == _files(tmp_path / "memory")
        assert run.dataset("held_out").is_lazy
        assert all("data_seconds" in line for line in _lines(out))
    assert not any("data_seconds" in line for line in _lines(tmp_path / "memory"))
    torch.manual_seed(5)
    assert torch.initial_seed() == 5
    before = torch.get_rng_state()
    train(replace(config, workers=2), tmp_path / "again", data=dataset(), progress=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_example_that_cannot_be_read_stops_the_training_by_name(
    tmp_path, dataset, config, images, workers
):
    """It is met in training alone: what a run is recognized by is read once, at the begin."""
    lost = dataset()
    trainer = Trainer(prepare(replace(config, workers=workers, data=lost), tmp_path))
    lost._source.bad = {13}
    with pytest.raises(DataError, match=r"^two\.tar: row 13 is damaged; --on-bad-example skip"):
        trainer.run()


def test_skipped_examples_are_counted_and_the_run_resumes_to_the_same_bits(
    tmp_path, dataset, config, capsys
):
    """Rows 3 and 13 of 24: each is skipped in every epoch, wherever the run was stopped."""
    skipping = replace(config, on_bad_example="skip", held_out=0.0, log_every=3)
    bad = {3, 13}
    train(replace(skipping, workers=0), tmp_path / "one", data=dataset(bad=bad))
    told = capsys.readouterr().err
    assert "skipped: two.tar: row 13 is damaged" in told
    assert "skipped 6 times an example that cannot be read for the next" in told
    for steps in (4, 7):
        short = replace(skipping, workers=2, steps=steps, checkpoint_every=3)
        train(short, tmp_path / "two", data=dataset(bad=bad), progress=False)
    train(replace(skipping, workers=1), tmp_path / "two", data=dataset(bad=bad), progress=False)
    assert _files(tmp_path / "two") == _files(tmp_path / "one")
    counts = [line["skipped_examples"] for line in _lines(tmp_path / "one")]
    assert counts == [2, 2, 2]  # three steps of eight are an epoch
    assert sum(line.get("skipped_examples", 0) for line in _lines(tmp_path / "two")) == 6
    whole = train(skipping, tmp_path / "none", data=dataset(), progress=False)
    assert "skipped_examples" not in whole.metrics[0]


def test_examples_skipped_before_a_stop_are_counted_with_those_after_it():
    facts = DataFacts("", 1, (1,), 0, Scaling())
    state = TrainState(3, 8, facts, window=1, skipped_examples=1.5)
    other = torch.tensor([0.0, 0.0, 1.5])  # sums of a second process, which skipped none since
    two = SimpleNamespace(
        device="cpu", num_processes=2, reduce=lambda sums, how: (sums + other) / 2
    )
    meter = Meter(two, state)
    meter.add(torch.tensor(1.0), None, 5)
    assert meter.line(8)["skipped_examples"] == 8
    other.zero_()
    meter.add(torch.tensor(1.0), None)
    assert "skipped_examples" not in meter.line(8)


def test_too_many_skipped_examples_end_the_training(tmp_path, dataset, config, monkeypatch):
    monkeypatch.setattr(reading, "_LEAST", 3)
    half = dataset(bad=range(0, COUNT, 2))
    skipping = replace(config, on_bad_example="skip", workers=0)
    with pytest.raises(DataError, match=r"\d+ of \d+ examples could not be read and were skipped"):
        train(skipping, tmp_path, data=half, progress=False)


def _killed():
    os.kill(os.getpid(), signal.SIGKILL)


def _full():
    raise MemoryError


@pytest.mark.parametrize(
    ("event", "error", "text"),
    [
        (_killed, TrainingError, r"^SIGKILL ended a process \(\d+\) that reads the examples: if "),
        (_full, DataError, r"^the memory is full where 4 examples of tensor are read: give fewer"),
    ],
)
def test_a_process_that_is_lost_ends_the_training_within_seconds(
    tmp_path, dataset, config, event, error, text
):
    train(replace(config, steps=6), tmp_path, data=dataset(), progress=False)
    began = time.monotonic()
    with pytest.raises(error, match=text):
        train(replace(config, workers=2), tmp_path, data=dataset(event=event), progress=False)
    assert time.monotonic() - began < 50
    assert load_run(tmp_path, data=dataset()).step == 6


def test_a_process_that_is_lost_while_training_computes_is_told_in_the_same_words(
    dataset, monkeypatch
):
    """Its end is a signal, which comes wherever the trainer is, and again when others end."""
    reader = reading.Reader(dataset(event=lambda: time.sleep(0.2)), workers=2)
    requests = (reading.Request(first, torch.arange(4)) for first in range(0, 400, 4))
    gone = reading._gone

    def slowly(iterator, error):
        os.kill(iterator._workers[1].pid, signal.SIGKILL)
        time.sleep(0.3)
        return gone(iterator, error)

    monkeypatch.setattr(reading, "_gone", slowly)
    with pytest.raises(TrainingError, match=r"^SIGKILL ended a process \(\d+\)"):  # noqa: PT012, SIM117
        with reader.ahead(requests):
            os.kill(reader._iterator._workers[0].pid, signal.SIGKILL)
            time.sleep(5)


def test_slow_reading_is_said(tmp_path, dataset, config, capsys, monkeypatch):
    monkeypatch.setattr(reading, "SLOW", 0.1)
    slow = dataset(event=lambda: time.sleep(0.6))
    train(replace(config, steps=1, workers=1, accumulate=1), tmp_path, data=slow)
    told = [line for line in capsys.readouterr().err.splitlines() if "still reading" in line]
    assert len(told) in (2, 3)  # after 0.1 s, 0.2 s, and perhaps 0.4 s
    assert told[0].startswith(("still reading tensor one.tar, for 0 s", "still reading tensor two"))


def test_signals_for_the_whole_group_are_those_of_the_trainer(tmp_path, dataset, config):
    """Ctrl-C and a scheduler tell every process; those that read go on until the trainer ends."""

    def tell():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)

    run = train(replace(config, workers=2), tmp_path, data=dataset(event=tell), progress=False)
    assert run.step == 9


def test_what_is_asked_for_out_of_turn_is_read_too_and_no_random_number_is_drawn(dataset, images):
    """As a batch that is measured once more; those read ahead are not lost by it."""
    order = torch.arange(COUNT).flip(0)
    requests = [reading.Request(first, order[first : first + 4]) for first in range(0, COUNT, 4)]
    before = torch.get_rng_state()
    reader = reading.Reader(dataset(), workers=1)
    with reader.ahead(iter(requests)):
        for wanted in (0, 1, 0, 5, 2, 3, 4, 5):
            found = reader(requests[wanted])
            assert torch.equal(found.raw, images[requests[wanted].indices])
        assert not reader._coming
    assert torch.equal(torch.get_rng_state(), before)


def test_the_processes_that_read_end_with_the_one_that_trains(dataset):
    """After SIGKILL too, which leaves it no time to tell them, and while they read for long."""
    told, tell = os.pipe()
    trainer = os.fork()
    if not trainer:  # a process like one that trains
        reader = reading.Reader(dataset(event=lambda: time.sleep(60)), workers=2)
        requests = (reading.Request(first, torch.arange(4)) for first in range(0, 400, 4))
        with reader.ahead(requests):
            os.write(tell, json.dumps([w.pid for w in reader._iterator._workers]).encode())
            time.sleep(60)
    workers = json.loads(os.read(told, 1000))
    assert all(_is_there(worker) for worker in workers)
    os.kill(trainer, signal.SIGKILL)
    os.waitpid(trainer, 0)
    until = time.monotonic() + 20
    while any(_is_there(worker) for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.1)


def _is_there(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_examples_in_blocks_come_in_the_order_that_the_run_was_begun_with(
    tmp_path, dataset, config
):
    in_blocks = dataset()
    in_blocks._source.blocks, in_blocks._source.window = torch.arange(0, COUNT + 1, 4), 2
    begun = replace(config, steps=3, workers=0)
    run = train(begun, tmp_path, data=in_blocks, progress=False)
    assert run.record.order == (6, 2)
    job = prepare(replace(begun, data=in_blocks), tmp_path)
    indices = Trainer(job, progress=False).batches._order
    assert (len(indices.blocks), indices.window, indices.length) == (7, 2, 18)
    with pytest.raises(ValueError, match=r"tensor is read in blocks of another kind .*lazy=True"):
        train(config, tmp_path, data=dataset(lazy=False), progress=False)
    assert load_run(tmp_path, data=dataset(lazy=False)).dataset().event_shape == (1, 8, 8)


def test_workers_are_chosen_by_the_data(dataset, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    lazy, inside = dataset(), dataset(lazy=False)
    assert [reading.workers_for(None, each) for each in (lazy, inside)] == [4, 0]
    assert [reading.workers_for(None, lazy, n) for n in (4, 12, 24)] == [3, 1, 1]
    assert [reading.workers_for(7, each) for each in (lazy, inside)] == [7, 7]
