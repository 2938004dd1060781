"""What a family asks for when a model is to go on from prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Decoding:
    """How a model goes on from prompts.

    `names` [I] name the prompts: with the number of the sample they decide what is drawn. `samples` of each prompt are
    drawn at `temperature` (0: the likeliest token is taken) from the fewest tokens that have a probability of `top_p`.
    A sample ends with the token `end`, where `is_complete(its ids)` (None: nowhere), after `most_tokens` of them, or
    where its row has `row_limit`.
    """

    names: Sequence[str]
    samples: int
    temperature: float
    top_p: float
    end: int
    most_tokens: int
    row_limit: int
    is_complete: Callable[[Sequence[int]], bool] | None = None

    def is_full(self, written: int, prompt: np.ndarray) -> np.ndarray:
        """Whether no token follows so many behind prompts of so many tokens, bool [N]."""
        return (written >= self.most_tokens) | (prompt + written >= self.row_limit)

    def breaks_off(self, ids: Sequence[int], prompt: int) -> bool:
        """Whether a sample behind a prompt of so many tokens had room for no more and was not complete."""
        if not self.is_full(len(ids), np.array(prompt)):
            return False
        return self.is_complete is None or not self.is_complete(ids)
