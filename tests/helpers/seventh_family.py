"""A task of the test's own family (sentence_family/), to show that a family is added by being registered."""

from __future__ import annotations

from pathlib import Path

from sentence_family import SENTENCE

from stilts_ds.tasks.spec import Local, Task

__all__ = ["SENTENCE", "TASK", "write_files"]

TASK = Task(
    name="mood",
    family="sentence",
    role="target",
    languages=("en", "de"),
    metrics=("accuracy",),
    main_score="accuracy",
    labels=("bad", "good"),
    local={split: (Local("label_tsv", f"mood/{split}-{{language}}.tsv"),) for split in ("train", "dev", "test")},
    training={"train_batch_size": 8, "num_train_epochs": 1},
)

WORDS = {"bad": ("grim", "poor", "awful"), "good": ("fine", "great", "lovely")}


def write_files(folder: Path, count: int = 48) -> None:
    """The task's files in XTREME's folder: a word decides the label."""
    for split in ("train", "dev", "test"):
        for language in TASK.languages:
            lines = []
            for number in range(count):
                label = TASK.labels[number % 2]
                word = WORDS[label][number % 3]
                lines.append(f"{label}\tthe {word} thing number {number} in {language}\n")
            path = folder / "mood" / f"{split}-{language}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
