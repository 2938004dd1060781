"""Which class of transformers has a family's head, and which pipeline runs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Standard:
    """`auto_class` is a name in transformers, `tag` the hub's name of the kind of task, `pipeline` that of the pipeline
    ("" where transformers has none). `outputs` of a head without labels; `problem` is the configuration's
    `problem_type`."""

    auto_class: str
    tag: str
    pipeline: str = ""
    outputs: int = 1
    problem: str = ""


SEQUENCE = Standard(
    "AutoModelForSequenceClassification", "text-classification", "text-classification",
    problem="single_label_classification",
)  # fmt: skip
NUMBER = Standard(
    "AutoModelForSequenceClassification", "text-classification", "text-classification", problem="regression"
)
TOKENS = Standard("AutoModelForTokenClassification", "token-classification", "token-classification")
# transformers 5 has no pipeline for these two; their classes are used directly.
SPANS = Standard("AutoModelForQuestionAnswering", "question-answering", outputs=2)
CHOICES = Standard("AutoModelForMultipleChoice", "multiple-choice")
MASKED = Standard("AutoModelForMaskedLM", "fill-mask", "fill-mask", outputs=2)
CAUSAL = Standard("AutoModelForCausalLM", "text-generation", "text-generation", outputs=2)
