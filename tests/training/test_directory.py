"""The run directory under two trainers, kills, full disks, removal and damage."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from sde_score.data import Scaling
from sde_score.report import put_views_on_page
from sde_score.training import (
    Checkpoints,
    DataFacts,
    Trainer,
    TrainingError,
    TrainState,
    load_run,
    lock,
    prepare,
)
from sde_score.training.checkpoint import TENSORS
from sde_score.training.lock import only_trainer

HOLD = """
import sys, time, pathlib
from sde_score.training.lock import only_trainer
with only_trainer(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the run directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_trainer_is_refused_until_the_first_has_died(
    run_to, tmp_path, holder, monkeypatch
):
    """By the number of the first. Other ranks do not ask for the lock."""
    with pytest.raises(ValueError, match=rf"another process \({holder.pid}\) trains there"):
        run_to(tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        with only_trainer(tmp_path / "run"):
            pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert run_to(tmp_path / "run").step == 12
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not copied here")
def test_the_lock_ends_with_its_process_though_a_copy_of_it_lives_on(tmp_path):
    """As the processes that read examples do for a moment."""
    trainer = os.fork()
    if trainer == 0:
        with only_trainer(tmp_path / "run"):
            reader = os.fork()
            if reader == 0:
                time.sleep(60)
                os._exit(0)
            (tmp_path / "reader").write_text(str(reader))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(trainer, 0)
    reader = int((tmp_path / "reader").read_text())
    os.kill(reader, 0)  # it lives
    with only_trainer(tmp_path / "run"):
        pass
    os.kill(reader, signal.SIGKILL)


def test_the_directory_is_held_before_the_configuration_is_read_and_until_the_end(
    run_to, tmp_path, monkeypatch
):
    """Others are refused while data load, at each step, and while the result is opened."""
    from sde_score.training import entry, trainer

    refused = []

    def other(out):
        try:
            with only_trainer(out):
                refused.append(False)
        except ValueError:
            refused.append(True)

    def watched(function):
        def watching(*arguments, **named):
            thread = threading.Thread(target=other, args=(tmp_path / "run",))
            thread.start()
            thread.join()
            return function(*arguments, **named)

        return watching

    for module, name in ((entry, "prepare"), (trainer, "load_run")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    run_to(tmp_path / "run")
    assert refused == [True, True]
    other(tmp_path / "run")
    assert refused[2:] == [False]


def test_a_refused_run_leaves_no_directory(run_to, tmp_path):
    with pytest.raises(ValueError, match="unknown"):
        run_to(tmp_path / "run", sde="nothing")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [1, 5, 9])
def test_a_removed_directory_stops_the_run_at_once(config, tmp_path, monkeypatch, step):
    trainer = Trainer(prepare(config, tmp_path / "run"), progress=False)
    train_step = trainer._train_step

    def removing():
        train_step()
        if trainer.step == step:
            shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(trainer, "_train_step", removing)
    with pytest.raises(TrainingError, match=f"was removed.*before step {step}"):
        trainer.run()
    assert not (tmp_path / "run").exists()


def test_what_a_kill_left_is_tidied_by_the_same_command(run_to, tmp_path):
    """Also where nothing is left to train."""
    run_to(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step-8", folder / "step-4")
    shutil.copytree(folder / "step-8", folder / ".step-2.tmp")
    run_to(tmp_path / "run")
    assert sorted(p.name for p in folder.iterdir()) == ["step-12", "step-8"]


def test_samples_that_a_kill_prevented_are_drawn_by_the_same_command(run_to, tmp_path):
    """The last grid follows the last checkpoint; what is there is not drawn again."""
    drawn = []

    def draw(run, path):
        drawn.append(path.name)
        path.write_bytes(b"picture")

    given = {"sample_every": 4, "on_samples": draw}
    run_to(tmp_path / "run", **given)
    run_to(tmp_path / "run", **given)
    assert drawn == ["step-4.png", "step-8.png", "step-12.png"]
    (tmp_path / "run" / "samples" / "step-12.png").unlink()
    run_to(tmp_path / "run", **given)
    assert drawn[3:] == ["step-12.png"]


@pytest.fixture
def full_disk(monkeypatch):
    """`full_disk(size)`: from then on no file grows beyond this many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    usual = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, usual)


@pytest.mark.parametrize("begun", [False, True])
def test_a_full_disk_names_file_and_last_checkpoint_and_leaves_nothing(
    run_to, tmp_path, full_disk, begun
):
    """The same command goes on where the last checkpoint is, once there is space."""
    out, last = tmp_path / "run", "step-4" if begun else "none"
    if begun:
        run_to(out, steps=4)
    before = sorted(out.rglob("*"))
    width = "mlp(width=8, depth=1, dropout=0.1)" if begun else "mlp(width=64, depth=1)"
    full_disk(3000)
    with pytest.raises(OSError, match=rf"\.safetensors cannot be written.*checkpoint: {last}$"):
        run_to(out, backbone=width)
    full_disk(1 << 30)
    if begun:
        assert sorted(out.rglob("*")) == before
    assert not list(out.rglob(".*"))
    assert run_to(out, backbone=width).step == 12


@pytest.mark.parametrize("full", [*TENSORS, "state", "sums"])
def test_each_file_of_a_checkpoint_that_a_full_disk_stops_is_named(tmp_path, monkeypatch, full):
    """Nothing of the new checkpoint stays, whichever file came last."""
    from sde_score.training import checkpoint

    names = {"state": "state.json", "sums": "SHA256SUMS"}
    name, write = names.get(full, f"{full}.safetensors"), checkpoint.sync

    def writing(path):
        write(path)
        if path.name == name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", writing)
    facts = DataFacts("toy", 50, (2,), 0, Scaling())
    tensors = {name: {"w": torch.zeros(3)} for name in TENSORS}
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(OSError, match=f"step-3/{name} cannot be written: No space left"):
        checkpoints.save(TrainState(step=3, batch=8, data=facts), tensors)
    assert list(tmp_path.iterdir()) == []


SPOILED = ['{"step": 7, "lo', "[1]", "{}", '{"step": "x"}', "\0", "[" * 9999, '{"step": 1, "loss":']


def test_a_damaged_line_of_metrics_stops_neither_training_nor_report(run_to, tmp_path):
    out = tmp_path / "run"
    run_to(out)
    path = out / "metrics.jsonl"
    first, _, third = path.read_text().splitlines(keepends=True)
    for line in (*SPOILED, '{"step": 7, "loss": 1.0}', '{"step": 1' + "0" * 400 + "}"):
        path.write_text("".join([first, line + "\n", third]))
        with pytest.warns(UserWarning, match=r"metrics\.jsonl is damaged: line 2 is no record"):
            lines = load_run(out).metrics
        assert [line["step"] for line in lines] == [5, 12], line
    with pytest.warns(UserWarning, match="line 2"):
        assert "loss" in put_views_on_page(load_run(out)).read_text()
    with pytest.warns(UserWarning, match="line 2"):
        more = run_to(out, steps=13)
    assert [line["step"] for line in more.metrics] == [5, 12, 13]


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_lost_metrics_stop_neither_training_nor_report(run_to, tmp_path, how, capsys):
    from sde_score.cli import main

    out = tmp_path / "run"
    run_to(out)
    (out / "metrics.jsonl").unlink()
    if how == "empty":
        (out / "metrics.jsonl").write_text("")
    assert load_run(out).metrics == []
    page = put_views_on_page(load_run(out)).read_text()
    assert re.search("12 steps.*metrics.jsonl is missing or holds no measurement", page)
    assert run_to(out).step == 12
    assert [line["step"] for line in run_to(out, steps=13).metrics] == [13]
    assert main(["evaluate", str(out), "--num", "8", "--samplers", "ddim(steps=2)"]) == 0
    capsys.readouterr()


def test_metrics_that_cannot_be_written_are_lost_with_a_warning(run_to, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "absent" / "metrics.jsonl")
    with pytest.warns(UserWarning, match=r"metrics\.jsonl cannot be written: No such file"):
        run_to(tmp_path / "run")


def test_a_trainer_alone_holds_the_directory_too(config, tmp_path, holder):
    job = prepare(config, tmp_path / "run")
    with pytest.raises(ValueError, match=rf"another process \({holder.pid}\) trains there"):
        Trainer(job, progress=False)
    trainer = Trainer(prepare(config, tmp_path / "other"), progress=False)
    os.rename(tmp_path / "other", tmp_path / "moved")
    os.rename(tmp_path / "run", tmp_path / "other")  # with the lock of the holder
    with pytest.raises(ValueError, match="trains there"):
        trainer.run()


def test_a_directory_that_another_took_since_is_refused(config, run_to, tmp_path):
    """Between `prepare` and `Trainer`, and between `Trainer` and its `run`."""
    early, idle = (prepare(config, tmp_path / name) for name in ("a", "b"))
    trainer = Trainer(idle, progress=False)
    run_to(tmp_path / "a", learning_rate=0.5)
    run_to(tmp_path / "b")
    with pytest.raises(ValueError, match="another configuration: learning_rate"):
        Trainer(early, progress=False)
    with pytest.raises(ValueError, match=r"another training went on in .*, from step 0 to 12"):
        trainer.run()
    other = prepare(config, tmp_path / "c")
    run_to(tmp_path / "c", data="gaussians(n=51)")
    with pytest.raises(ValueError, match="other data by now"):
        Trainer(other, progress=False)


def test_a_thread_that_holds_a_directory_may_ask_again(tmp_path):
    with only_trainer(tmp_path / "run"), only_trainer(tmp_path / "x" / ".." / "run"):
        assert (tmp_path / "run" / ".lock").exists()
    assert not (tmp_path / "run").exists()


class Windows:
    """The locks of Windows in one process: on a byte of an open file, one holder at a time."""

    LK_NBLCK = 2

    def __init__(self):
        self.held = {}

    def locking(self, descriptor, mode, size):
        where = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
        assert (mode, size) == (self.LK_NBLCK, 1)
        assert where[1] > 1 << 20  # what is locked cannot be read
        if where in self.held:
            raise PermissionError(13, "Permission denied")
        self.held[where] = True


def test_windows_has_a_lock_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_WINDOWS", True)
    monkeypatch.setitem(sys.modules, "msvcrt", Windows())
    refused = []

    def second():
        try:
            with only_trainer(tmp_path / "run"):
                pass
        except ValueError as error:
            refused.append(str(error))

    with only_trainer(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert f"another process ({os.getpid()}) trains there" in refused[0]


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch):
    def missing(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", missing)
    with (
        pytest.warns(UserWarning, match=r"cannot be locked here .*one process alone"),
        only_trainer(tmp_path / "run"),
    ):
        pass
