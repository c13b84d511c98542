"""Trackers: each step told once, by one process, and no failure of theirs ends a training."""

from __future__ import annotations

import io
import threading
import types
from dataclasses import replace

import numpy as np
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from sde_score.training import Metrics, trackers, train


class Notes:
    """A tracker of ours: what it was told, in order."""

    name = "notes"

    def __init__(self, *given, **named):
        self.given, self.named, self.lines, self.said = given, named, [], []

    def start(self):
        self.said.append("start")

    def store_init_configuration(self, values):
        self.said.append("configuration")
        self.values = values

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self):
        self.said.append("finish")


def write_samples(run, path):
    """A red picture in place of samples."""
    Image.new("RGBA", (4, 3), (255, 0, 0, 255)).save(path)


def events(folder):
    """Step and tag of each event of a folder of TensorBoard, and its image or number."""
    found = []
    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        for _ in range(10**4):
            if at == len(data):
                break
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                found.append((event.step, value.tag, getattr(value, kind)))
    return found


@pytest.fixture
def registered(monkeypatch):
    """`registered(name, **parts)` puts a class of notes into accelerate's table of trackers."""

    def register(name, directory=False, parts=()):
        made = []

        def __init__(self, *given, **named):
            Notes.__init__(self, *given, **named)
            made.append(self)

        body = {"__init__": __init__, "name": name, "tracker": property(lambda self: self)}
        kind = type(name, (Notes, GeneralTracker), {**body, **dict(parts)})
        kind.requires_logging_directory = directory
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, kind)
        return made

    return register


def test_tensorboard_holds_every_line_once_after_a_kill_and_a_resumption(config, tmp_path):
    """Killed after step 8, whose checkpoint is of step 4: steps 6 and 8 are taken twice."""
    config = replace(config, log_every=2, sample_every=4, checkpoint_every=4)
    given = {"on_samples": write_samples, "log": "tensorboard", "progress": False}

    def killed(step, line):
        if step == 6:
            raise RuntimeError("power")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="power"):
            train(config, tmp_path / "run", on_metrics=killed, **given)
    run = train(config, tmp_path / "run", **given)
    found = events(run.path / "tensorboard")
    for name in ("loss", "grad_norm", "learning_rate"):
        told = [(step, value) for step, tag, value in found if tag == name]
        kept = [(line["step"], np.float32(line[name])) for line in run.metrics]
        assert told == kept, name
    pictures = [(step, image) for step, tag, image in found if tag == "samples"]
    assert [step for step, _ in pictures] == [4, 8, 12]
    shown = Image.open(io.BytesIO(pictures[0][1].encoded_image_string))
    assert (shown.size, shown.getpixel((2, 1))) == ((4, 3), (255, 0, 0))
    assert len(list((run.path / "tensorboard").glob("*/hparams.yml"))) == 1
    train(config, tmp_path / "run", **given)
    assert events(run.path / "tensorboard") == found


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_run_is_the_same_there_after_a_resumption(run_to, config, tmp_path, registered, name):
    """Fakes with the arguments of accelerate's classes; MLflow names its runs by itself."""
    info = types.SimpleNamespace(run_id="theirs")
    made = registered(name, parts={"info": info})
    for steps in (6, 12):
        train(replace(config, steps=steps), tmp_path / "run", log=name, progress=False)
    first, second = made
    identity = {"wandb": "id", "trackio": "name", "mlflow": "run_id"}[name]
    assert first.given == second.given == ("sde-score",)
    if name == "mlflow":
        assert (first.named[identity], second.named[identity]) == (None, "theirs")
    else:
        assert first.named == second.named
        assert first.named["resume"] == "allow"
        assert len(first.named[identity]) >= 8
    assert first.said == ["start", "configuration", "finish"]
    assert second.said == ["start", "finish"]
    assert first.values["steps"] == 6
    assert first.values["sigma_data"] > 0
    assert all(isinstance(v, (bool, int, float, str)) for v in first.values.values())
    assert [step for step, _ in first.lines + second.lines] == [5, 6, 10, 12]
    lines = [line for _, line in first.lines + second.lines]
    kept = Metrics(tmp_path / "run" / "metrics.jsonl").read()
    assert lines == [{k: v for k, v in line.items() if k != "step"} for line in kept]


def test_pictures_go_where_a_tracker_takes_them(config, tmp_path, registered, monkeypatch):
    """As arrays, as a file beside the run, or as an image of trackio."""
    shown = {}

    def log_images(self, values, step):
        shown["arrays"] = step, values["samples"].shape[0], values["samples"].dtype.name

    def log_artifact(self, path, artifact_path):
        shown["file"] = path, artifact_path

    registered("arrays", parts={"log_images": log_images})
    registered("file", parts={"log_artifact": log_artifact})
    made = registered("trackio")
    fake = types.SimpleNamespace(Image=lambda path: ("image", path))
    monkeypatch.setitem(trackers.sys.modules, "trackio", fake)
    log = ("arrays", "file", "trackio")
    config = replace(config, sample_every=12)
    train(config, tmp_path / "run", on_samples=write_samples, log=log, progress=False)
    path = str(tmp_path / "run" / "samples" / "step-12.png")
    assert shown == {"arrays": (12, 1, "uint8"), "file": (path, "samples")}
    assert made[0].lines[-1] == (12, {"samples": ("image", path)})


def test_an_object_is_a_tracker(config, tmp_path):
    class Plain:
        steps = ()

        def log(self, values, step):
            self.steps += (step,)

    notes, plain = Notes(), Plain()
    train(config, tmp_path / "run", log=[notes, plain], progress=False)
    assert [step for step, _ in notes.lines] == [5, 10, 12] == list(plain.steps)


@pytest.mark.parametrize("place", ["start", "log", "finish", "hang"])
def test_a_failure_is_said_once_and_ends_nothing(config, tmp_path, monkeypatch, place):
    """Whatever it raises, even an exit; a call that never returns is left behind."""
    calls, held = [], threading.Event()

    def fail(*_, **__):
        calls.append(place)
        if place == "hang":
            held.wait(60)
        raise SystemExit("no network")

    notes, other = Notes(), Notes()
    other.name = "other"
    setattr(notes, "log" if place == "hang" else place, fail)
    monkeypatch.setattr(trackers, "LONGEST", 0.2 if place == "hang" else 30.0)
    with pytest.warns(UserWarning, match=r"^notes failed and is told no more: ") as said:
        run = train(config, tmp_path / "run", log=[notes, other], progress=False)
    held.set()
    assert len(said) == len(calls) == 1
    assert ("no answer within 0" if place == "hang" else "no network") in str(said[0].message)
    assert [line["step"] for line in run.metrics] == [5, 10, 12]
    assert [step for step, _ in other.lines] == [5, 10, 12]


def test_a_full_disk_under_tensorboard_holds_nothing(config, tmp_path, monkeypatch):
    """Its thread is dead, its queue fills, and the end of the process would wait for both."""
    monkeypatch.setattr("tensorboardX.event_file_writer._EventLoggerThread.run", lambda _: None)
    monkeypatch.setattr(trackers, "LONGEST", 1.0)
    made, show = [], trackers._let_go
    monkeypatch.setattr(trackers, "_let_go", lambda tracker: (made.append(tracker), show(tracker)))
    with pytest.warns(UserWarning, match=r"^tensorboard failed and is told no more: no answer"):
        run = train(replace(config, log_every=1), tmp_path / "run", log="tensorboard")
    assert len(run.metrics) == 12
    ending = threading.Thread(target=made[0].writer.file_writer.close, daemon=True)
    ending.start()
    ending.join(5)
    assert not ending.is_alive()


@pytest.mark.parametrize(
    ("log", "error", "said"),
    [
        ("tensorbord", ValueError, r"log='tensorbord' is no tracker .* tensorboard, trackio, w"),
        ("wandb", ValueError, r"log=wandb needs wandb: pip install wandb"),
        ("tensorboard", ValueError, r"pip install 'sde-score\[track\]'"),
        (["mlflow", 3], TypeError, r"log=int must be a tracker's name, or an object with log"),
        ([Notes(), Notes()], ValueError, r"names a tracker twice"),
    ],
)
def test_a_wrong_tracker_is_refused_first(config, tmp_path, monkeypatch, log, error, said):
    """Where no tracker is installed."""
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    if isinstance(log, list):
        monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: True)
    with pytest.raises(error, match=said):
        train(config, tmp_path / "run", log=log, progress=False)
    assert not (tmp_path / "run").exists()


def test_other_processes_tell_nothing(config, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    notes = Notes()
    told = trackers.Trackers(notes, tmp_path)
    with told.following(config):
        told.callbacks["on_metrics"](5, {"step": 5, "loss": 1.0})
    assert notes.lines == notes.said == []
    monkeypatch.setenv("RANK", "0")
    with told.following(config):
        told.callbacks["on_metrics"](5, {"step": 5, "loss": 1.0})
    assert notes.lines == [(5, {"loss": 1.0})]
