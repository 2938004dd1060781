"""Settings of executing what a model wrote: of a recipe, and of the file that `stilts execute` takes them from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from stilts_ds.execute.settings import ExecuteSettings
from stilts_ds.yaml_files import Section

# The library's: what a file and the options leave out is in one place.
_DEFAULTS = ExecuteSettings()


class ExecutePart(Section):
    """Programs that a model wrote, in the sandbox."""

    allow: bool = Field(_DEFAULTS.allow, description="run programs that a model wrote; without it none is run")
    workers: int = Field(_DEFAULTS.workers, ge=1, le=256, description="programs at a time")
    seconds: float = Field(_DEFAULTS.seconds, ge=0.1, le=3600, description="CPU seconds of a program")
    judge: Literal["strict", "benchmark", "exit-status"] = Field("strict", description="how answers are compared")
    apart: bool = Field(_DEFAULTS.apart, description="program and tests in two processes, where a language has it")
    rerun: bool = Field(_DEFAULTS.rerun, description="execute programs that ran out of time once more, alone")
    readable: list[Path] = Field([], description="folders shown read-only in the sandbox")

    def settings(self, readable: tuple[Path, ...] = ()) -> ExecuteSettings:
        """The library's, with more folders to show. Raises UserError for a folder that cannot be shown."""
        folders = [*self.readable, *readable]
        values = self.model_dump(exclude={"readable"})
        return ExecuteSettings(**values, readable=tuple(str(folder.resolve()) for folder in folders))
