"""The model card of a folder: what it is, how it was trained, how to use it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sde_score._core.conditions import described
from sde_score.interop.schedules import text_of

if TYPE_CHECKING:
    from sde_score.interop.imported import Imported
    from sde_score.training import Run

_SETTINGS = (
    "objective",
    "batch_size",
    "learning_rate",
    "warmup",
    "clip",
    "ema",
    "weight_decay",
    "precision",
    "dequantize",
    "held_out",
    "seed",
)


def facts_of(run: Run) -> dict[str, Any]:
    """What the record of a run says about its training, as plain values."""
    facts: dict[str, Any] = {}
    if run.record is not None:
        record = run.record
        facts["data"] = record.name
        facts["examples"] = record.count
        if record.class_names:
            facts["class_names"] = list(record.class_names)
    facts.update({name: getattr(run.config, name) for name in _SETTINGS})
    losses = [line for line in run.metrics if isinstance(line.get("loss"), (int, float))]
    if losses and math.isfinite(losses[-1]["loss"]):
        facts["loss"] = losses[-1]["loss"]
    return facts


def text(imported: Imported, name: str) -> str:
    """The text of the card.

    Args:
        imported: the network.
        name: of the folder or repository.
    """
    kind = "diffusion model" if imported.all_noise_levels else "energy-based model"
    kind = kind if imported.flow_map is None else "flow map, for samples in a few evaluations,"
    shape = " x ".join(map(str, imported.event_shape))
    count = sum(value.numel() for value in imported.state.values())
    front = ["---", "library_name: sde_score", "tags:", "- sde-score", "- diffusion", "---"]
    rows = {
        "network": f"`{imported.backbone}`",
        "parameters": f"{count:,}",
        "example": shape,
        "classes": imported.num_classes or "none",
        "conditions": described(imported.condition_shape),
        "diffusion": f"`{_short(text_of(imported.sde))}`",
        "prediction": f"`{imported.prediction}`",
        "standard deviation of the data": f"{imported.sigma_data:.6g}",
        "levels of the data": imported.scaling.levels or "continuous",
    }
    parts = [
        "\n".join(front),
        f"# {name}",
        f"A {kind} of examples of shape {shape}, saved by sde_score. Nothing in this folder is "
        "executed when it is loaded.",
        "## Model",
        _table(rows),
    ]
    if imported.facts:
        told = {key.replace("_", " "): _short(str(v)) for key, v in imported.facts.items()}
        parts += ["## Training", _table(told)]
    if imported.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in imported.notes)]
    how = "flow-map(steps=1)" if imported.flow_map is not None else "auto(steps=20)"
    parts += ["## Use", _USE.replace("NAME", name).replace("SAMPLER", how)]
    return "\n\n".join(parts) + "\n"


_USE = """```python
from sde_score import interop, samplers

found = interop.from_pretrained("NAME")
images = samplers.sample(found.model(), "SAMPLER", found.event_shape, 16)
```

```sh
sde-score convert FOLDER runs/mine
sde-score sample runs/mine
```"""


def _table(rows: dict[str, Any]) -> str:
    lines = [f"| {key} | {str(value).replace('|', '/')} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:197] + "..."
