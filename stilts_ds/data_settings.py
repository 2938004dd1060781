"""The recipe's `data` section: where the data are, and how much of them is read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from stilts_ds.yaml_files import Section

HUB_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"


class TextHubPart(Section):
    """Running text of the Hugging Face hub (plain parquet) for masked language modelling."""

    repo: str = Field(pattern=HUB_ID, description="data set, such as wikimedia/wikipedia")
    config: str = Field(description="configuration, with {language} in it, such as 20231101.{language}")
    revision: str = Field(pattern="^[0-9a-f]{40}$", description="commit: what is read never changes")
    split: str = Field("train", description="split of the data set that is read")
    column: str = Field("text", description="column that holds a passage")
    languages: list[str] | None = Field(None, min_length=1, description="languages; null: XTREME's 40")

    @field_validator("config")
    @classmethod
    def _by_language(cls, config: str) -> str:
        if "{language}" not in config:
            raise ValueError("name the configurations by language, such as 20231101.{language}")
        return config


class DataPart(Section):
    """Where the data are."""

    source: Literal["toy", "local", "hub"] = Field(
        "local",
        description="`toy` generates a miniature world, `local` reads official files, `hub` downloads what "
        "the hub has; the other tasks are read from local files",
    )
    intermediate: Path | None = Field(None, description="folder of the intermediate tasks' official files")
    xtreme: Path | None = Field(None, description="XTREME's download folder")
    translated: Path | None = Field(None, description="folder of translated intermediate tasks, <language>/...")
    text: Path | None = Field(None, description="folder of <language>.txt files for masked language modelling")
    code: Path | None = Field(None, description="folder of the code benchmarks' official files")
    text_hub: TextHubPart | None = Field(None, description="text of the hub in place of `text`")
    noise: Path | None = Field(None, description="folder of dictionaries, misspellings and keyboards for noise")
    max_text_passages: int | None = Field(None, ge=1, description="use only the first N passages of a language")
    seed: int = Field(20, description="seed of the toy world")
    cache: Path | None = Field(None, description="folder of tokenised rows; default: cache/ inside the run")
    train_split: dict[str, str] = Field(
        default_factory=dict,
        description="split to train on by task, where `train` is not to be had (of dev, eval_examples select)",
    )
    dev_split: dict[str, str] = Field(
        default_factory=dict,
        description="split that selects by task; `train`: eval_examples drawn from it select, and the rest trains",
    )
    duplicates: Literal["report", "exclude"] = Field(
        "report",
        description="train examples whose texts are scored, too: `report` counts them, `exclude` leaves them out",
    )
    max_train_examples: int | None = Field(
        None, ge=1, description="train on N examples of each task, drawn from all its files"
    )

    @model_validator(mode="after")
    def _one_text(self) -> DataPart:
        if self.text is not None and self.text_hub is not None:
            raise ValueError("give data.text or data.text_hub, not both")
        return self
