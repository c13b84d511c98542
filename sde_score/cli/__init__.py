"""The `sde-score` command: one file per verb, no logic of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

_DESCRIPTION = (
    "Score matching and diffusion: train a score once, sample and measure it in every view. "
    "Start with: sde-score demo. Each command explains itself: sde-score train --help."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: words of the command line; None takes those of the process.

    Returns:
        exit status: 0, 1 if training failed, 2 for a wrong argument or file, 128 + signal if
        stopped.
    """
    import tyro

    from sde_score.cli.benchmark import Benchmark
    from sde_score.cli.compare import Compare
    from sde_score.cli.data import Data
    from sde_score.cli.demo import Demo
    from sde_score.cli.evaluate import Evaluate
    from sde_score.cli.likelihood import Likelihood
    from sde_score.cli.objectives import Objectives
    from sde_score.cli.optimise_grid import OptimiseGrid
    from sde_score.cli.output import is_main_process, say
    from sde_score.cli.sample import Sample
    from sde_score.cli.samplers import Samplers
    from sde_score.cli.train import Train
    from sde_score.training import TrainingError, TrainingInterrupted

    verbs: dict[str, Callable[..., Any]] = {
        "train": Train,
        "sample": Sample,
        "likelihood": Likelihood,
        "evaluate": Evaluate,
        "compare": Compare,
        "benchmark": Benchmark,
        "optimise-grid": OptimiseGrid,
        "data": Data,
        "samplers": Samplers,
        "objectives": Objectives,
        "demo": Demo,
    }
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            verbs,
            prog="sde-score",
            description=_DESCRIPTION,
            args=arguments,
            console_outputs=is_main_process(),
        )
        command.run()
    except TrainingInterrupted as stop:
        say(str(stop))
        return 128 + stop.signum
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except TrainingError as error:
        say(f"error: {error}")
        return 1
    except (ValueError, OSError, ImportError) as error:
        say(f"error: {error}")
        return 2
    return 0


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


__all__ = ["main", "run"]
