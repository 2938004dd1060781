"""What a target of the fuzzer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzz_mutate import Dice

Once = Callable[[Dice], None]  # one malformed input: returns when it was used with a right result, or raises


@dataclass(frozen=True)
class Target:
    """`make(folder)` writes valid files there and returns the function that tries one malformed input.

    `weight` is its share of all inputs. A refusal names something in the folder or one of `names`.
    """

    name: str
    weight: int
    make: Callable[[Path], Once]
    names: tuple[str, ...] = ()
