"""The views of one trained score: how each samples and weighs data with the same network.

A view is a line in `VIEWS`: the model whose view it is, its sampler at a budget of network
evaluations, and its likelihood. To add one, write its line. Any other sampler stands beside them as
a view of its own text, without a likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sde_score._core.checks import require_count
from sde_score._core.registry import format_spec, parse_spec
from sde_score.models import Model
from sde_score.samplers import FOR_FLOW_MAPS, SAMPLERS, Sampler, create
from sde_score.sdes import SDE


@dataclass(frozen=True)
class View:
    """One way to read a score.

    Args:
        family: the model whose view it is, such as `"hierarchical VAE"`.
        label: its sampler in two words, for pictures.
        sampler: its sampler, whose steps are those that a budget allows; an adaptive one has a cost
            of its own, whatever the budget, and so has one of given steps.
        likelihood: a spec of `sde_score.likelihood`, in which `{steps}` stands for those of the
            sampler, `{end}` for its last time; None for a view that has none of its own.
        given_steps: the sampler keeps its steps, whatever the budget.
    """

    family: str
    label: str
    sampler: Sampler
    likelihood: str | None = None
    given_steps: bool = False

    @property
    def adaptive(self) -> bool:
        """Whether the budget does not decide the cost: a tolerance or given steps do."""
        return self.given_steps or self.sampler.adaptive

    def sampler_within(self, nfe: int, model: Model | SDE | None = None) -> Sampler | None:
        """The sampler with the most steps that `nfe` evaluations pay for; None if for none.

        Args:
            nfe: evaluations of networks per sample.
            model: that will be sampled, or its diffusion.

        Raises:
            ValueError: for a budget below 1.
        """
        require_count(nfe=nfe)
        if self.adaptive:
            return self.sampler
        try:
            return self.sampler.within(nfe, model)
        except ValueError:
            return None

    @property
    def layered(self) -> bool:
        """Whether the likelihood changes with the steps."""
        return "{steps}" in (self.likelihood or "")

    def likelihood_at(self, steps: int, sde: SDE, dequantized: bool) -> str | None:
        """The likelihood at a number of steps; None if there is none, as for one layer.

        Args:
            steps: of the sampler.
            sde: of the model.
            dequantized: whether the model was trained on levels spread over their bins: it then
                knows nothing of their centers, and must be asked about spread ones.
        """
        if self.likelihood is None or (self.layered and steps < 2):
            return None
        name, arguments = parse_spec(self.likelihood.format(steps=steps, end=sde.sampling_t_min))
        if dequantized:
            arguments["dequantization"] = "uniform"
        return format_spec(name, arguments)


# One chain both samples and bounds. Its layers are where the bound is closest: even in the log
# signal-to-noise ratio.
_LAYERS = "elbo(layers={steps}, grid='log_snr(end={end})')"

_NCSN, _SDE, _VAE, _FLOW = "multi-noise", "reverse SDE", "hierarchical VAE", "probability-flow ODE"

VIEWS: Mapping[str, View] = {
    "annealed-langevin": View(
        _NCSN, "annealed Langevin", create("annealed-langevin", steps_each=1, step_ratio=None)
    ),
    "pc": View(_NCSN, "predictor-corrector", create("pc")),
    "reverse-sde": View(_SDE, "Euler-Maruyama", create("euler-maruyama"), "bound"),
    "ancestral": View(_VAE, "ancestral", create("ancestral", grid="log_snr"), _LAYERS),
    "ddim": View(_VAE, "DDIM", create("ddim", grid="log_snr"), _LAYERS),
    "heun": View(_FLOW, "Heun", create("heun"), "flow"),
    "ode": View(_FLOW, "adaptive", create("ode", rtol=0.001, atol=0.001), "flow"),
}
"""All views, in the order in which a reader should meet them."""

OTHER = "sampler"
"""The family of samplers that are no view."""


def name_of(view: str | Sampler, model: Model | SDE | None = None) -> str:
    """The name of a view: one in `VIEWS`, or else the text of a sampler.

    An object keeps its steps, and so does a text that has some.

    Args:
        view: a name or sampler.
        model: on which the evaluations of a text with `nfe` are counted.

    Raises:
        ValueError: for what is neither, or a sampler that no text makes again.
    """
    if isinstance(view, str) and view in VIEWS:
        return view
    sampler = SAMPLERS.resolve(view, name="views", model=model)
    if not isinstance(view, str) or _has_steps(view):
        text = SAMPLERS.text_of(sampler)
        if text is None:
            raise ValueError(
                f"views: no text makes {sampler} again, under which results are kept: "
                "samplers.register its class"
            )
        return text
    return sampler.text("steps")


def view_of(name: str) -> View:
    """The view of a name that `name_of` gave."""
    if name in VIEWS:
        return VIEWS[name]
    return View(family_of(name), name, SAMPLERS.create(name), given_steps=_has_steps(name))


def family_of(name: str) -> str:
    """The model whose view a name is, a flow map, or `OTHER`."""
    if name in VIEWS:
        return VIEWS[name].family
    method = FOR_FLOW_MAPS.get(name.partition("(")[0])
    return OTHER if method is None else method.family


def _has_steps(spec: str) -> bool:
    return bool({"steps", "nfe"} & set(parse_spec(spec)[1]))
