"""Whether this machine can have the sandbox and a language's toolchain; tests skip by the name of what is missing."""

from __future__ import annotations

from functools import cache

import pytest

from stilts_ds.execute.languages import missing
from stilts_ds.execute.policy import Refused
from stilts_ds.execute.worker import Worker


@cache
def missing_layer() -> str:
    """The layer that this machine lacks, or ""."""
    try:
        Worker().close()
    except Refused as problem:
        return problem.layer
    return ""


needs_sandbox = pytest.mark.skipif(bool(missing_layer()), reason=f"the sandbox lacks its layer {missing_layer()!r}")


def skip_without(language: str) -> None:
    absent = missing(language)
    if absent:
        pytest.skip(f"{language} needs {' and '.join(absent)}, which are not here")
