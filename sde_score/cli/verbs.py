"""The verbs of `sde-score`, in the order in which a reader should meet them.

Nothing here is imported but the verb that is asked for: help, versions and misspelled names answer
at once.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

VERBS = {
    "demo": ("Demo", "Train on digits and see every view: to begin with"),
    "train": ("Train", "Train a model, or go on with a run that was stopped"),
    "plan": ("Plan", "FLOPs, memory, time and cost of a training before it is begun"),
    "distill": ("Distill", "Train a flow map from a run: samples in one or two evaluations"),
    "sample": ("Sample", "Draw samples: a picture, arrays or a table"),
    "posterior": ("Posterior", "Draw from the posterior of a measurement: inpainting and more"),
    "impute": ("Impute", "Fill the missing cells of a table by the posterior of a run"),
    "likelihood": ("Likelihood", "Log-densities and bits per dimension of held-out data"),
    "evaluate": ("Evaluate", "Distances of samples to held-out data, by sampler or guidance"),
    "compare": ("Compare", "One network in every view, with what each costs"),
    "report": ("Report", "The page of a run, or several runs side by side"),
    "benchmark": ("Benchmark", "Samplers against flows that are known exactly"),
    "tune": ("Tune", "Find the best sampler of a run for a number of evaluations"),
    "optimise-grid": ("OptimiseGrid", "Find a time grid for a run and a sampler"),
    "convert": ("Convert", "Checkpoints of other code to runs, and runs to theirs"),
    "inspect": ("Inspect", "What a checkpoint is, and what its network costs"),
    "data": ("Data", "What a data set is, and which noise levels suit it"),
    "samplers": ("Samplers", "List samplers by name"),
    "objectives": ("Objectives", "List objectives by name"),
    "completion": ("Completion", "A script that completes commands and flags in bash and zsh"),
}
"""Each verb's class, and its purpose on one line."""

_FILES = {"inspect": "convert"}
"""Files of verbs that share one with another."""


def listed(name: str) -> str:
    """A verb as it is listed, whatever its dashes and capitals.

    Raises:
        ValueError: for an unknown one, with the one that may be meant.
    """
    known = {_canonical(verb): verb for verb in VERBS}
    if found := known.get(_canonical(name)):
        return found
    near = difflib.get_close_matches(_canonical(name), known, n=1, cutoff=0.6)
    guess = f"did you mean {known[near[0]]!r}? " if near else ""
    raise ValueError(f"unknown command {name!r}; {guess}accepted: {', '.join(VERBS)}")


def load(name: str) -> Any:
    """The class of a verb, whose module is imported."""
    file = _FILES.get(name, name).replace("-", "_")
    return getattr(importlib.import_module(f"sde_score.cli.{file}"), VERBS[name][0])


def _canonical(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace("optimize", "optimise")
