"""The methods by the name that commands and records have for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from d2ue.baselines import destseg, fanogan, ganomaly, igd, multi_st, neighbours, rdad
from d2ue.errors import InputError


@dataclass(frozen=True)
class Method:
    """A row of Table 1 that is not ours, or a control of such rows.

    Attributes:
        title: what the paper's table calls it; of a control what ours does.
        module: has PRESETS, NETWORK, SCORES, `train` and `score`.
        is_control: whether it is a control.
    """

    title: str
    module: ModuleType
    is_control: bool = False

    @property
    def presets(self) -> Mapping[str, Any]:
        """Settings by name: "published", "small"."""
        return self.module.PRESETS

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of its scores; the first is the method's own."""
        return self.module.SCORES


#: In the paper's order.
METHODS = {
    "f-anogan": Method("f-AnoGAN", fanogan),
    "ganomaly": Method("Ganomaly", ganomaly),
    "igd": Method("IGD", igd),
    "multi-st": Method("Multi-ST", multi_st),
    "rdad": Method("RDAD", rdad),
    "destseg": Method("DeSTSeg", destseg),
    "neighbours": Method("5 nearest neighbours", neighbours, is_control=True),
}


def find_method(name: str) -> Method:
    """A method by its name.

    Raises:
        InputError: if there is none of that name.
    """
    if name not in METHODS:
        raise InputError(f"There is no baseline {name!r}: take some of {', '.join(METHODS)}.")
    return METHODS[name]
