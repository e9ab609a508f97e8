"""The methods by name: which score each stands for, and how it is iterated."""

from __future__ import annotations

import dataclasses

from force_tf import criteria
from force_tf.support.arguments import one_of


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a named method stands for: a score, and how it is iterated."""

    criterion: type[criteria.Criterion]
    steps: int = 1
    schedule: str = "exponential"
    revive: bool = False
    batches: int = 1


PRESETS = {
    "snip": Preset(criteria.SNIP),
    "iter_snip": Preset(criteria.SNIP, steps=60),
    "snip_it": Preset(criteria.SNIP, steps=7, schedule="snip_it", batches=5),
    "force": Preset(criteria.FORCE, steps=60, revive=True),
    "grasp": Preset(criteria.GraSP),
    "iter_grasp": Preset(criteria.IterGraSP, steps=60),
    "synflow": Preset(criteria.SynFlow, steps=100),
    "synflow_l2": Preset(criteria.SynFlowL2, steps=100),
    "prospr": Preset(criteria.ProsPr),
    "ntk_sap": Preset(criteria.NTKSAP, steps=20, batches=5),
    "px": Preset(criteria.PX, steps=100, batches=2),
    "early_ticket": Preset(criteria.EarlyTicket, steps=60, revive=True),
    "magnitude": Preset(criteria.Magnitude),
    "random": Preset(criteria.Random),
}


def resolve(method: str | criteria.Criterion) -> tuple[str, criteria.Criterion, Preset]:
    """Returns the name of a method, its criterion, and the preset of its iteration.

    Raises:
        TypeError: If `method` is neither a name nor a criterion.
        ValueError: If no method has that name.
    """
    if isinstance(method, criteria.Criterion):
        for name, preset in PRESETS.items():
            if type(method) is preset.criterion:
                return name, method, preset
        for preset in PRESETS.values():
            if isinstance(method, preset.criterion):
                return type(method).__name__, method, preset
        return type(method).__name__, method, Preset(type(method))
    if not isinstance(method, str):
        raise TypeError(f"Expected `method` to be a name or a force_tf.criteria.Criterion. Received: method={method!r}")
    preset = PRESETS[one_of("method", method, list(PRESETS))]
    return method, preset.criterion(), preset
