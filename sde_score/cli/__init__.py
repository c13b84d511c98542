"""The `sde-score` command: one file per verb, no logic of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

_TRACEBACK = "SDE_SCORE_TRACEBACK"
"""Environment variable: if set, errors end in a traceback, to find mistakes of the program."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: words of the command line; None takes those of the process.

    Returns:
        exit status: 0, 1 if training failed, 2 for a wrong argument or file, 128 + signal if
        stopped.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        from sde_score._core.errors import NumericalError
        from sde_score._core.progress import is_main_process, progress_shown
        from sde_score.cli.output import say, speak_plainly, warnings_as_lines
    except KeyboardInterrupt:
        return _stopped()
    try:
        speak_plainly()
        with warnings_as_lines():
            command = _parse(words)
            with progress_shown(getattr(command, "progress", True)):
                if is_main_process() or getattr(command, "shares", True):
                    command.run()
    except KeyboardInterrupt as stop:
        if (signum := getattr(stop, "signum", None)) is None:
            return _stopped()
        say(str(stop))  # of training, which has saved a checkpoint
        return 128 + int(signum)
    except BrokenPipeError:  # as of `sde-score samplers | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + getattr(signal, "SIGPIPE", 13)  # which Windows has not
    except (ValueError, TypeError, OSError, ImportError, NumericalError) as error:
        return _failed(error, 2)
    except (RuntimeError, MemoryError) as error:
        if type(error).__name__ == "TrainingError":
            return _failed(error, 1)
        if not (isinstance(error, MemoryError) or _out_of_memory(error)):
            raise
        return _failed(error, 2, "the memory is full: try smaller numbers, such as --batch-size; ")
    return 0


def _parse(words: Sequence[str]) -> Any:
    """The command with its flags; modules named by `--import` are imported first."""
    from sde_score.cli.imports import import_modules
    from sde_score.cli.parsing import parse

    import_modules(words)
    return parse(words)


def _out_of_memory(error: Exception) -> bool:
    """Whether torch could not allocate memory; on the CPU its errors have no class of their own."""
    name, text = type(error).__name__, str(error)
    return name == "OutOfMemoryError" or "allocate memory" in text or "out of memory" in text


def _failed(error: Exception, status: int, before: str = "") -> int:
    """Print the error in one line."""
    from sde_score.cli.output import say

    if os.environ.get(_TRACEBACK):
        raise error
    hint = (
        f" (set {_TRACEBACK}=1 to see where)"
        if isinstance(error, TypeError) and not isinstance(error, ValueError)
        else ""
    )
    say(f"error: {before}{' '.join(str(error).split())}{hint}")
    return status


def _stopped() -> int:
    print("stopped", file=sys.stderr, flush=True)
    return 130


def run() -> None:
    """Entry point of the installed command."""
    # An interrupt amid imports would surface anywhere in them, as any error.
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_stopped()))
    from sde_score.cli.verbs import listed, load

    with contextlib.suppress(ValueError, IndexError):  # which `main` has words for
        load(listed(sys.argv[1]))
    signal.signal(signal.SIGINT, usual)
    sys.exit(main())


__all__ = ["main", "run"]
