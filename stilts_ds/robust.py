"""Settings of robust training: what makes the training of a phase tolerate small changes of its input.

Huang et al. 2021 (arXiv 2104.08645) train for zero-shot transfer so: what a text becomes in another language is near it
in the space of embeddings, as a disturbed text is. A method changes the texts (`synonyms`, `noise`) before they are
tokenised, or their word embeddings (`random`, `adversarial`) in each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from stilts_ds.errors import did_you_mean
from stilts_ds.yaml_files import Section


class Synonyms(Section):
    """Smoothing by synonyms: in each copy of an example every word that has n synonyms becomes itself or one of them,
    each with probability 1 / (n + 1). The copies take the place of the example, as in the paper's code."""

    method: Literal["synonyms"] = Field(description="copies of an example with synonyms in place of words")
    copies: int = Field(3, ge=1, le=100, description="copies of each example")


class NoisyCopies(Section):
    """Noise as augmentation: each example as it is, and copies with errors in their texts."""

    method: Literal["noise"] = Field(description="an example and copies of it with errors")
    noise: str = Field(description="kind and rate as in a noisy target's name, such as typo-5")
    copies: int = Field(1, ge=1, le=100, description="noisy copies of each example, each with errors of its own")


class RandomStep(Section):
    """Smoothing by a random disturbance of each row's word embeddings, uniform in a ball."""

    method: Literal["random"] = Field(description="random disturbances of word embeddings")
    radius: float = Field(ge=0, description="of the ball: the longest disturbance of a row")


class AdversarialSteps(Section):
    """FreeLB (Zhu et al. 2020, arXiv 1909.11764): disturbances of a row's word embeddings that climb the loss, and a
    gradient that is the mean over all of them."""

    method: Literal["adversarial"] = Field(description="disturbances of word embeddings that climb the loss")
    steps: int = Field(2, ge=1, le=100, description="disturbances (K): each costs a forward and a backward pass")
    step_size: float = Field(0.1, gt=0, description="length of a step along the gradient")
    magnitude: float = Field(0.2, ge=0, description="of the first one, uniform in +-magnitude / sqrt(size of the row)")
    radius: float | None = Field(None, ge=0, description="the longest disturbance of a row; null: any length")

    @model_validator(mode="after")
    def _settings_act(self) -> AdversarialSteps:
        if self.steps == 1 and "step_size" in self.model_fields_set:
            raise ValueError("step_size has no effect with steps=1, whose only disturbance is the first; leave it out")
        if self.radius == 0 and "magnitude" in self.model_fields_set and self.magnitude > 0:
            raise ValueError("magnitude has no effect with radius=0; leave it out")
        return self

    @model_serializer(mode="wrap")
    def _that_act(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Phases are named by what they depend on, and a setting without effect would be refused when it is read."""
        values: dict[str, Any] = dump(self)
        if self.steps == 1:
            # The same two cases as above.
            values.pop("step_size", None)
        if self.radius == 0:
            values.pop("magnitude", None)
        return values


METHODS: dict[str, type[Section]] = {
    "synonyms": Synonyms,
    "noise": NoisyCopies,
    "random": RandomStep,
    "adversarial": AdversarialSteps,
}


def _check_keys(value: Any) -> Any:
    """Say in the recipe's words which method there is and what it takes, as a union of classes would not."""
    if value is None or isinstance(value, Section):
        return value
    known = ", ".join(METHODS)
    if not isinstance(value, Mapping) or "method" not in value:
        raise ValueError(f"give a method ({known}) and its settings, such as {{method: adversarial}}")
    method = value["method"]
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}{did_you_mean(str(method), METHODS)}")
    keys = METHODS[method].model_fields
    for key in value:
        if key not in keys:
            raise ValueError(f"unknown key {key!r}: method={method} takes {', '.join(sorted(set(keys) - {'method'}))}")
    return value


Methods = Annotated[Synonyms | NoisyCopies | RandomStep | AdversarialSteps, Field(discriminator="method")]
Robust = Annotated[Methods, BeforeValidator(_check_keys)]


def disturbs(robust: Robust | None) -> bool:
    """Whether word embeddings are disturbed in each step; else texts were changed before, or nothing."""
    return isinstance(robust, RandomStep | AdversarialSteps)


def passes_of(robust: Robust | None) -> int:
    """How often a step runs the model forward and backward on each of its rows."""
    return robust.steps if isinstance(robust, AdversarialSteps) else 1


def copies_of(robust: Robust | None) -> int:
    """How many examples training makes of one."""
    if isinstance(robust, Synonyms):
        return robust.copies
    # The copies stand beside the example, synonyms in its place.
    return robust.copies + 1 if isinstance(robust, NoisyCopies) else 1
