"""Words of the command line to a command, and help for people."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from sde_score._core import __version__
from sde_score._core.progress import is_main_process
from sde_score.cli.verbs import VERBS, listed, load

_ABOUT = "Score matching and diffusion: train a score once, sample and measure it in every view."
_MORE = (
    "Each command explains itself: sde-score train --help. With --json it speaks to programs; "
    "--import MODULE brings samplers, networks, data and more of your own."
)

_ALIASES = {"--lr": "--learning-rate"}


def parse(words: Sequence[str]) -> Any:
    """The command that the words name, with its flags; `run()` runs it.

    Raises:
        ValueError: for an unknown command.
        SystemExit: after `--help`, or for an unknown flag.
    """
    if not words or words[0] in ("-h", "--help"):
        return Help()
    if words[0] in ("-V", "--version"):
        return Version()
    name = listed(words[0])
    verb = load(name)
    if is_main_process() and {"-h", "--help"} & set(words):
        # tyro would join the lines of a description, whatever the width.
        print(f"{wrapped(inspect.getdoc(verb) or '')}\n")
    import tyro

    given = verb.defaults(words) if hasattr(verb, "defaults") else None
    defaults: dict[str, Any] = {} if given is None else {"default": given}
    return tyro.cli(
        verb,
        prog=f"sde-score {name}",
        description="",
        args=[_flag(word) for word in words[1:]],
        console_outputs=is_main_process(),
        **defaults,
    )


def _flag(word: str) -> str:
    """A word, with the short names of other programs as our own."""
    name, sign, value = word.partition("=")
    return _ALIASES.get(name, name) + sign + value


@dataclass(frozen=True)
class Help:
    """List of the commands with their purposes."""

    def run(self) -> None:
        """Print the list."""
        if not is_main_process():
            return
        print(f"usage: sde-score COMMAND [OPTIONS]\n\n{wrapped(_ABOUT)}\n")
        for name, (_, purpose) in VERBS.items():
            print(textwrap.fill(
                purpose, _width(), initial_indent=f"  {name:15}", subsequent_indent=" " * 17
            ))  # fmt: skip
        print(f"\n{wrapped(_MORE)}")


@dataclass(frozen=True)
class Version:
    """The versions of this package and of torch, for reports of faults."""

    def run(self) -> None:
        """Print the line."""
        if is_main_process():
            print(f"sde-score {__version__} (torch {version('torch')})")


def wrapped(text: str) -> str:
    """Paragraphs filled to the width of the terminal; those with indented lines stay."""
    parts = [
        part if "\n " in part else textwrap.fill(" ".join(part.split()), _width())
        for part in inspect.cleandoc(text).split("\n\n")
    ]
    return "\n\n".join(parts)


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 100)
