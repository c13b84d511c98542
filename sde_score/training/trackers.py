"""Trackers of experiments, told what `metrics.jsonl` is told: accelerate's by name, or objects."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import queue
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from sde_score._core.checks import class_of
from sde_score._core.errors import ArgumentError
from sde_score._core.files import replace_file
from sde_score._core.progress import is_main_process
from sde_score.training.config import TrainConfig
from sde_score.training.run import Run
from sde_score.training.trainer import OnMetrics, OnSamples

_CALLS = 1 << 40  # more than a run has
LONGEST = 30.0
"""Seconds that training waits for an answer of a tracker."""

_PROJECT = "sde-score"
_FILE = "trackers.json"


@runtime_checkable
class Tracker(Protocol):
    """An experiment tracker, such as accelerate's `GeneralTracker`.

    Called where it has them: `start()`, `store_init_configuration(values)` once in a run's life,
    `log_images(values, step=...)` with lists of arrays `(height, width, 3)`, `finish()`. Its `name`
    tells it apart from others; without one it is that of its class.
    """

    def log(self, values: dict[str, Any], step: int) -> object:
        """Take the measurements of a step."""


class Trackers:
    """The trackers of a run; the first process alone talks to them.

    A tracker takes each step once: the file `trackers.json` of the run remembers the last step that
    each was told, and under which name there, so that a run which is continued goes on where its
    curves end. What a tracker does not take (no network, a full disk, no answer in `LONGEST`
    seconds) is said once; it is told no more until training is begun again, and training goes on.

    Args:
        chosen: a name such as `"tensorboard"`, a `Tracker`, or several of both.
        out: run directory.
        on_samples: writes a grid of samples, which is shown to the trackers; None for none.
        on_metrics: called with each line as well.

    Raises:
        ValueError: for an unknown name, one whose package is not installed, or two alike.
        TypeError: for what is neither name nor tracker.
    """

    def __init__(
        self,
        chosen: str | Tracker | Sequence[str | Tracker],
        out: Path,
        on_samples: OnSamples | None = None,
        on_metrics: OnMetrics | None = None,
    ) -> None:
        alone = isinstance(chosen, (str, Tracker))
        given = cast("list[str | Tracker]", [chosen] if alone else list(cast(Any, chosen)))
        self._makers = {_name(one): _maker(one, out) for one in given}
        if len(self._makers) < len(given):
            raise ArgumentError(f"log={[*map(_name, given)]} names a tracker twice")
        self._path, self._lines = out / _FILE, list[_Line]()
        self._samples, self._also = on_samples, on_metrics

    @contextlib.contextmanager
    def following(self, config: TrainConfig) -> Iterator[None]:
        """Tell them of a run with this configuration, resolved; finish them in the end.

        Each starts when there is something to tell it.
        """
        if is_main_process():
            self._lines = [_Line(n, make, self._path, config) for n, make in self._makers.items()]
        try:
            yield
        finally:
            for line in self._lines:
                line.finish()

    @property
    def callbacks(self) -> dict[str, Any]:
        """Arguments of a `Trainer`: each calls what it was given, and tells the trackers."""
        return {"on_samples": self._samples and self._picture, "on_metrics": self._metrics}

    def _metrics(self, step: int, record: dict[str, Any]) -> None:
        values = {name: value for name, value in record.items() if name != "step"}
        for line in self._lines:
            line.tell("step", step, lambda tracker: tracker.log(values, step=step))
        if self._also is not None:
            self._also(step, record)

    def _picture(self, run: Run, path: Path) -> None:
        if self._samples is not None:
            self._samples(run, path)
        for line in self._lines:
            line.tell("picture", run.step, lambda tracker: _show(tracker, run.step, path))


class _Line:
    """The line to one tracker: a thread of its own, which may hang without holding training."""

    def __init__(
        self, name: str, make: Callable[[dict[str, Any]], Any], path: Path, config: TrainConfig
    ) -> None:
        self.name, self.path, self.config, self.failed = name, path, config, False
        self._make, self._tracker = make, cast(Any, None)
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue()
        threading.Thread(target=self._work, daemon=True, name=f"tracker {name}").start()

    def tell(self, kind: str, step: int, how: Callable[[Any], object]) -> None:
        """Tell the tracker of a step, unless it was told before."""

        def tell() -> None:
            known = self._started() if self._tracker is None else self._known()
            if step > known.get(kind, 0):
                # Before it is told: a kill in between loses a line there, which is no lie.
                self._remember({**known, kind: step})
                how(self._tracker)

        self._do(tell)

    def finish(self) -> None:
        if self._tracker is not None:
            self._do(lambda: getattr(self._tracker, "finish", lambda: None)())
        self._calls.put(None)

    def _started(self) -> dict[str, Any]:
        known = self._known()
        if new := not known:  # MLflow names its runs itself
            known = {"id": None if self.name == "mlflow" else uuid.uuid4().hex[:8]}
        self._tracker = self._make(known)
        with contextlib.redirect_stdout(sys.stderr):  # what trackers print is no result
            getattr(self._tracker, "start", lambda: None)()
            if new and hasattr(self._tracker, "store_init_configuration"):
                self._tracker.store_init_configuration(_plain(self.config))
        if known.get("id") is None:
            known["id"] = self._tracker.tracker.info.run_id
        self._remember(known)
        return known

    def _do(self, what: Callable[[], None]) -> None:
        if self.failed:
            return
        done, errors = threading.Event(), list[BaseException]()

        def call() -> None:
            try:
                what()
            except BaseException as error:
                errors.append(error)
            done.set()

        self._calls.put(call)
        if not done.wait(LONGEST):
            errors.append(TimeoutError(f"no answer within {LONGEST:.0f} seconds"))
        if errors:
            self.failed = True
            _let_go(self._tracker)
            said = " ".join(str(errors[0]).split())[:300] or type(errors[0]).__name__
            warnings.warn(
                f"{self.name} failed and is told no more: {said}; training goes on, and "
                "metrics.jsonl has every line",
                stacklevel=2,
            )

    def _work(self) -> None:
        for _ in range(_CALLS):
            if (call := self._calls.get()) is None:
                return
            call()

    def _known(self) -> dict[str, Any]:
        """What is remembered of this tracker; nothing of a file that is not there or damaged."""
        return dict(_read(self.path).get(self.name, {}))

    def _remember(self, known: dict[str, Any]) -> None:
        content = json.dumps({**_read(self.path), self.name: known}, indent=2)
        replace_file(self.path, content.encode())


def _let_go(tracker: Any) -> None:
    """Keep a tensorboardX that cannot write from holding the end of the process, where it waits
    for its thread, which has died."""
    for writer in (getattr(getattr(tracker, "writer", None), "all_writers", None) or {}).values():
        events: Any = getattr(writer, "event_writer", None)
        if held := getattr(getattr(events, "_event_queue", None), "cancel_join_thread", None):
            held()
            events._closed = True


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _name(one: str | Tracker) -> str:
    return one if isinstance(one, str) else str(getattr(one, "name", type(one).__name__))


def _maker(one: str | Tracker, out: Path) -> Callable[[dict[str, Any]], Any]:
    """A function of what is remembered of a tracker, which makes it."""
    if not isinstance(one, str):
        if not isinstance(one, Tracker):
            raise TypeError(f"log={class_of(one)} must be a tracker's name, or an object with log")
        return lambda _: one
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS as CLASSES

    if (kind := CLASSES.get(one)) is None:
        known = ", ".join(sorted(map(str, CLASSES)))
        raise ArgumentError(f"log={one!r} is no tracker that accelerate knows: choose of {known}")
    modules = ("tensorboard", "tensorboardX") if one == "tensorboard" else (one,)
    ours = kind.__module__.startswith("accelerate.")
    if ours and not any(importlib.util.find_spec(module) for module in modules):
        wanted = "'sde-score[track]'" if one == "tensorboard" else one.replace("_", "-")
        raise ArgumentError(f"log={one} needs {modules[-1]}: pip install {wanted}")

    def make(known: dict[str, Any]) -> Any:
        name, identity = out.absolute().name, known["id"]
        project = os.environ.get("WANDB_PROJECT", _PROJECT) if one == "wandb" else _PROJECT
        places: dict[str, dict[str, Any]] = {
            "wandb": {"name": name, "id": identity, "resume": "allow", "dir": str(out)},
            "trackio": {"name": f"{name}-{identity}", "resume": "allow", "embed": False},
            # Files are named by the second: the later of two starts would write over the other.
            "tensorboard": {"filename_suffix": f".{time.time_ns()}"},
            "mlflow": {"run_name": name, "run_id": identity},
        }
        given = places.get(one, {})
        if kind.requires_logging_directory:
            return kind(one, str(out), **given)  # as out/tensorboard
        return kind(project, **given)

    return make


def _plain(config: TrainConfig) -> dict[str, Any]:
    """A configuration in values that every tracker takes."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    plain = (bool, int, float, str)
    return {n: value if isinstance(value, plain) else str(value) for n, value in values.items()}


def _show(tracker: Any, step: int, path: Path) -> None:
    """Show a picture by what the tracker has: images, files beside a run, or none of both."""
    if not path.exists():
        return
    if hasattr(tracker, "log_images"):
        from matplotlib.image import imread

        pixels = (255 * imread(path)[..., :3]).round().astype("uint8")
        how = {"dataformats": "NHWC"} if _name(tracker) == "tensorboard" else {}
        images = pixels if _name(tracker) == "aim" else pixels[None]
        tracker.log_images({"samples": images}, step=step, **how)
    elif hasattr(tracker, "log_artifact"):
        tracker.log_artifact(str(path), artifact_path="samples")
    elif _name(tracker) == "trackio":
        image = sys.modules["trackio"].Image(str(path))
        tracker.log({"samples": image}, step=step)
