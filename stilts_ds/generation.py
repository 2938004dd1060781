"""Settings of programs that a model writes: how they are sampled, and where they end."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from stilts_ds.yaml_files import Section


class GenerationPart(Section):
    """Programs that a model writes."""

    samples: int = Field(1, ge=1, description="programs written for each problem")
    temperature: float = Field(0.0, ge=0, description="of sampling; 0: always the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1, description="sample among the fewest likeliest tokens of this probability")
    max_new_tokens: int = Field(256, ge=1, description="most tokens of a program")
    stop: list[str] | None = Field(None, description="texts before which a program ends; null: the task's own")

    @model_validator(mode="after")
    def _samples_differ(self) -> GenerationPart:
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                f"{self.samples} samples at temperature 0 are all the same; set a temperature, or samples=1"
            )
        return self

    @field_validator("stop")
    @classmethod
    def _each_can_end_a_program(cls, stop: list[str] | None) -> list[str] | None:
        for text in stop or []:
            if not text:
                raise ValueError("an empty text stands everywhere; leave it out")
            if "\r" in text:  # as files of Windows have it: no program has such a line end, whoever wrote it
                raise ValueError(f"{text!r} never ends a program, whose lines end with \\n alone; leave out \\r")
            longer = [ending for ending in stop or [] if text in ending[:-1]]
            if longer:
                raise ValueError(
                    f"{text!r} is a part of {longer[0]!r}, which therefore never ends a program; leave it out"
                )
        return stop
