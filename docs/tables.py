"""Write docs/reference.md: a table for each kind of named thing, read off the registries.

    python docs/tables.py

What a row says is the first sentence of the docstring of the thing, so the page changes where the
code does; `make docs` writes it anew, and a test compares.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from sde_score import (
    data,
    evaluation,
    guidance,
    likelihood,
    mcmc,
    models,
    nn,
    objectives,
    posterior,
    samplers,
    training,
)
from sde_score import sdes as forward
from sde_score.interop import FAMILIES
from sde_score.training import presets

PAGE = Path(__file__).with_name("reference.md")
HIDDEN = {
    "event_shape",
    "num_classes",
    "condition_shape",
    "observation",
    "model",
    "condition",
    "path",
}  # arguments that a run fills in
OF_ALL = {"grid", "denoise", "name"}  # arguments of every sampler

PREDICTIONS = {
    "noise": "the noise in x_t",
    "data": "the data behind x_t",
    "velocity": "alpha' data + sigma' noise, the drift of the probability-flow ODE",
    "score": "sigma times the score",
    "edm": "EDM's preconditioned mixture, of unit variance at every noise level",
    "scaled_score": "the score times the scale of its input, for training without noise",
}
DISTANCES = {
    "sliced-wasserstein2": "optimal transport on lines, averaged over directions",
    "mmd2": "squared maximum mean discrepancy with Gaussian kernels",
    "energy": "energy distance, whose kernel is the distance itself",
    "frechet": "between Gaussians fitted to features, FID's",
    "kernel": "between features by a cubic kernel, KID's",
    "precision-gap": "1 - precision: the share of samples outside the data, by nearest neighbors",
    "recall-gap": "1 - recall: the share of the data outside the samples",
    "density-gap": "1 - density: how sparsely the data surround the samples",
    "coverage-gap": "1 - coverage: the share of the data without a sample nearby",
}


class Section(NamedTuple):
    """One table: what it lists, in which registry, and what a reader should know first."""

    title: str
    registry: Mapping[str, Callable]
    text: str
    says: Mapping[str, str] = {}


SECTIONS = [
    Section(
        "Forward SDEs",
        forward.SDES,
        "`x_t = alpha(t) x_0 + sigma(t) noise`; noise grows with t. `alpha` and `sigma` are enough "
        "to add one.",
    ),
    Section(
        "Predictions",
        models.PARAMETRIZATIONS,
        "What the network in `ScoreModel(network, sde, prediction)` is fed with and answers; "
        "functions of (x, t) are `time`, of (x, sigma) `sigma`. `EnergyModel` makes "
        "an energy of the network first, by one of its heads "
        + ", ".join(f"`{head}`" for head in models.HEADS)
        + "; `ScoreFunction` and `EnergyFunction` take scores and energies.",
        PREDICTIONS,
    ),
    Section("Networks", nn.BACKBONES, "For `train`; `ScoreModel` takes any module."),
    Section(
        "Objectives",
        objectives.OBJECTIVES,
        "`objective(model, x0)` is one loss per example. `sde-score objectives` lists what each "
        "needs and costs. With `time_sampler='uniform'` most of those that learn from data alone "
        "learn at every noise level. `check_differentiable` names what would make second "
        "derivatives silently wrong, before training.",
    ),
    Section("Weightings", objectives.WEIGHTINGS, "Of the noise levels, for objectives."),
    Section(
        "Couplings",
        training.COUPLINGS,
        "The field `coupling` of `train`, for denoising objectives: which noise meets which "
        "example. Where labels are conditions, pairs are made within a class.",
    ),
    Section(
        "Augmentations",
        training.AUGMENTATIONS,
        "The field `augmentation` of `train`: a function of random seed and step, on the device.",
    ),
    Section(
        "Optimizers",
        training.OPTIMIZERS,
        "The field `optimizer` of `train`; learning rate and weight decay are fields of their own.",
    ),
    Section(
        "Schedules",
        training.SCHEDULES,
        "The field `schedule` of `train`: the factor on the learning rate, besides warm-up.",
    ),
    Section(
        "Presets",
        dict.fromkeys(presets.names(), lambda: None),
        "`train --preset NAME`, or `training.presets.preset(NAME).config()`: whole configurations, "
        "which are printed, and which every other flag overrides.",
        {name: presets.preset(name).about for name in presets.names()},
    ),
    Section("Domain weights", objectives.DOMAIN_WEIGHTS, "The argument `weight` of `generalized`."),
    Section(
        "Time samplers",
        objectives.TIME_SAMPLERS,
        "Which times an objective looks at. `auto` is "
        + ", ".join(
            f"`{times}` on `{name}`"
            for name, sde in forward.SDES.items()
            if (times := objectives.TIMES_OF_SDE.get(sde, "uniform")) != "uniform"
        )
        + ", and `uniform` on the other SDEs.",
    ),
    Section(
        "Samplers",
        samplers.SAMPLERS,
        "Every sampler runs on every SDE, on trained networks and exact models alike, and ends "
        "with the denoised mean unless told otherwise (`denoise=False`). Those in bold are to be "
        "tried first. [Each method in its paper's notation](published_methods.md); "
        "[which to take](samplers.md).",
    ),
    Section(
        "Samplers of flow maps",
        {name: method.sampler for name, method in samplers.FOR_FLOW_MAPS.items()},
        "For flow maps alone, which all other samplers see as a score: `compare`, `benchmark` and "
        "`sample` of such a run take these by themselves. [How good they are](flow_maps.md).",
    ),
    Section(
        "Guidance",
        guidance.RULES,
        "`Guided(run.model, 'cfg(3)')` goes away from the model's answer without its condition, "
        "`Guided(run.model, 'cfg(2)', against=weaker)` from a weaker model; `--guidance` of "
        "`sample`, `evaluate`, `compare` and `benchmark` likewise. "
        "`ClassifierGuided` and `RewardGuided` follow gradients, "
        "`Clipped` and `Thresholded` keep the denoised mean in the range of the data; `Product`, "
        "`Tempered`, `Conjunction` and `Mixture` compose models. All are models, so that every "
        "sampler, likelihood and view runs on them.",
    ),
    Section(
        "Posteriors",
        posterior.METHODS,
        "`Posterior(run.model, Measurement(Mask(known), y, std=0.1), 'mmps')` is a model of the "
        "data given an observation, on which every sampler runs. Operators: `Mask`, `Blur`, "
        "`Resize`, `MeanPool`, `Gray`, `Fourier`, `Radon`, `Matrix`, any `LinearFunction`, their "
        "compositions by `@`, and what has `A` and `A_adjoint`; other likelihoods: `Poisson` and "
        "`LogLikelihood`. `print(posterior)` says how the method is biased.",
    ),
    Section(
        "Posterior samplers",
        posterior.SAMPLERS,
        "`posterior.SAMPLERS.create('replacement', observation=seen, steps=100)(run.model, "
        "(16, *run.event_shape), seed=0)`: methods whose steps, and not the score alone, know the "
        "observation. All have `grid` and `denoise` as samplers do.",
        {
            "pc-inpaint": "Inpainting by predictor-corrector, and with `Gray` colorization: "
            "`Replacement` with Langevin steps, the published faults mended"
        },
    ),
    Section(
        "Particles of a posterior",
        posterior.PARTICLES,
        "`posterior.sample(run.model, seen, 'twisted', 64, sampler='smc(steps=100, particles=128, "
        "islands=8)')`: exact in the limit of many particles, with log p(y) and its standard error "
        "in `.particles`.",
        {
            "twisted": "Twisted diffusion, led by the likelihood of MMPS: few particles do, and a "
            "backward pass for each measured entry",
            "mcg-diff": "Led by the likelihood under a flat prior: no gradients, more particles",
            "fps": "Led by a walk of y to noise: no gradients, more particles",
        },
    ),
    Section(
        "Operators",
        posterior.OPERATORS,
        "What `sde-score posterior --operator` takes, and `posterior.operator_of(text, "
        "event_shape)` makes.",
    ),
    Section("Time grids", samplers.GRIDS, "The argument `grid` of a sampler."),
    Section(
        "Markov kernels",
        mcmc.KERNELS,
        "`mcmc.run_chains` runs them in batches, with acceptance, effective sample size, split "
        "R-hat and energy errors. `gibbs` and `gibbs-gradients` move on discrete states, the "
        "others on continuous spaces.",
    ),
    Section(
        "Reverse variances",
        samplers.VARIANCES,
        "The argument `variance` of `ancestral` and `elbo`.",
    ),
    Section("Correctors", samplers.CORRECTORS, "The argument `corrector` of `pc`."),
    Section(
        "Likelihoods",
        likelihood.LIKELIHOODS,
        "`bits_per_dim(model, raw, scaling, by='flow')` gives bits per dimension in the scaling of "
        "the data set; each example's ODE has steps of its own, so its value does not depend on "
        "its batch. The likelihood of an energy without noise is by its partition function, "
        "`likelihood.log_partition`: annealed importance sampling in both directions (a lower and "
        "an upper bound), bridge sampling, sequential Monte Carlo and thermodynamic integration, "
        "each with error bars.",
    ),
    Section(
        "Partition functions",
        likelihood.PARTITION_METHODS,
        "The argument `method` of `likelihood.log_partition`.",
    ),
    Section(
        "Dequantizations",
        likelihood.DEQUANTIZATIONS,
        "How gray levels become real numbers. A network that was trained on levels spread over "
        "their bins knows nothing of their centers: ask it with "
        "`bound(dequantization='uniform')`, and `elbo` likewise.",
    ),
    Section(
        "Targets",
        models.TARGETS,
        "Exact distributions to test against, with known log Z, samples and diffused scores; as "
        "data, `target(name='funnel')`. Discrete ones are classes of their own: `Ising`, `Potts`, "
        "`RestrictedBoltzmann`, `IndependentSites`.",
    ),
    Section("Data sets", data.NAMED, "Beside paths of files and folders."),
    Section("Distances", evaluation.DISTANCES, "Between two sets of samples.", DISTANCES),
    Section(
        "Benchmark targets",
        evaluation.BENCHMARK_TARGETS,
        "Models whose score and flow are known, for `sde-score benchmark --target`.",
    ),
    Section("Features", evaluation.EXTRACTORS, "What `frechet` and `kernel` look at."),
    Section(
        "GPUs", evaluation.GPUS, "For `sde-score plan --gpu`, which estimates a training on them."
    ),
    Section(
        "Checkpoints of other code",
        {family.name: family.read for family in FAMILIES},
        "What `sde-score convert` and `interop.load` read, recognized by the names of the tensors; "
        "options say what a file does not, `--option name=value` on the command line. "
        "[From a published checkpoint to figures](checkpoints.md).",
    ),
]


def signature(name: str, constructor: Callable) -> str:
    """The name with its arguments; defaults where they are short."""
    words, parameters = [], inspect.signature(constructor).parameters
    for parameter in parameters.values():
        default, empty = parameter.default, parameter.default is inspect.Parameter.empty
        short = not empty and len(repr(default)) <= 16 and default is not None
        of_all = parameter.name in OF_ALL and "observation" in parameters
        if parameter.name not in HIDDEN and not of_all:
            words.append(f"{parameter.name}={default!r}" if short else parameter.name)
    return f"`{name}({', '.join(words)})`" if words else f"`{name}`"


def sentence(thing: Callable) -> str:
    """The first paragraph of a docstring in one line."""
    text = inspect.getdoc(getattr(thing, "func", thing)) or ""
    return re.sub(r"\s+", " ", text.split("\n\n")[0]).replace("|", "\\|").rstrip(".")


def arguments(read: Callable) -> Iterator[tuple[str, str]]:
    """The options of a family with what their docstring says of each."""
    text = (inspect.getdoc(read) or "").split("Args:")[-1].split("Raises:")[0]
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w+:|^\S|\Z)", text + "\n", flags=re.M | re.S)
    says = {name: re.sub(r"\s+", " ", about).strip().rstrip(".") for name, about in found}
    for name in list(inspect.signature(read).parameters)[1:]:
        yield name, says.get(name, "").replace("|", "\\|")


def paper(reference: str) -> str:
    """A link to the first paper of a reference."""
    found = re.match(r"(.*?\d{4})\D.*?(https://[^\s,;]+)", reference)
    return f"[{found[1]}]({found[2]})" if found else reference


def rows(section: Section) -> Iterator[str]:
    """The lines of a table."""
    if section.registry is samplers.SAMPLERS:
        yield "| name | also | family | order | NFE per step | noise | good at NFE | paper |"
        yield "|" + 8 * "---|"
        for each in map(samplers.describe, section.registry):
            name = f"**`{each.name}`**" if each.first_tier else f"`{each.name}`"
            others = ", ".join(f"`{alias}`" for alias in each.aliases)
            facts = (each.family, each.order, each.nfe_per_step, each.noise, each.good_at)
            yield f"| {name} | {others} | {' | '.join(facts)} | {paper(each.paper)} |"
        return
    if "diffusers" in section.registry:
        yield "| family | option | what it says |"
        yield "|---|---|---|"
        for name, read in section.registry.items():
            yield f"| `{name}` | | {sentence(read)} |"
            for option, says in arguments(read):
                yield f"| | `{option}` | {says} |"
        return
    if section.registry in (posterior.METHODS, posterior.SAMPLERS):
        yield "| name | what it is | with ever more steps |"
        yield "|---|---|---|"
        mask = posterior.Mask(torch.tensor([True, False]))
        seen = {"observation": posterior.Measurement(mask, torch.zeros(1), 1.0)}
        for name, constructor in section.registry.items():
            made = constructor(**seen if section.registry is posterior.SAMPLERS else {})
            says = section.says.get(name) or sentence(constructor)
            limit = made.limit.replace("|", "\\|")
            yield f"| {signature(name, constructor)} | {says} | {limit} |"
        return
    yield "| name | what it is |"
    yield "|---|---|"
    for name, constructor in section.registry.items():
        says = section.says.get(name) or sentence(constructor)
        yield f"| {signature(name, constructor)} | {says} |"


def page() -> str:
    """The text of the page."""
    parts = [
        "# Everything by name",
        "Written by `make docs` from the registries; every name here is text that `create`, "
        "`train` and the command line take, with arguments as in Python: `vp(beta_max=12)`. "
        "[Your own](registering.md) stand beside them.",
    ]
    for section in SECTIONS:
        parts += [f"## {section.title}", section.text, "\n".join(rows(section))]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
