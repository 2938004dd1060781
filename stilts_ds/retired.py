"""Settings of `evaluation` that earlier versions had and nothing depended on, with their defaults.

Recipes and stamps of predictions that those versions wrote are read without them. Names of phases hold them still, so
that their runs go on and nothing is trained again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# How many candidates of a window were kept: the best answer is among one as among twenty.
RETIRED: dict[str, Any] = {"n_best": 20}


def without_retired(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The settings less those that have a retired default."""
    return {key: value for key, value in evaluation.items() if key not in RETIRED or value != RETIRED[key]}


def refuse_retired(evaluation: Any) -> Any:
    """The same, before the section is checked. Raises ValueError for another value than the default."""
    if not isinstance(evaluation, dict):
        return evaluation
    left = without_retired(evaluation)
    if gone := sorted(left.keys() & RETIRED.keys()):
        raise ValueError(f"there is no {', '.join(gone)} any more, nothing depended on it; leave it out")
    return left
