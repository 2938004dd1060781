"""What a JSON file of a run holds, as one value: the class that checks the file is the one that everybody uses.

`Plan`, `PhaseStatus`, `Result` and `Trial` are frozen pydantic models, not dataclasses: their files may be damaged or
edited by hand, and pydantic names the key at fault. Recipes are pydantic models for the same reason, and a dataclass
beside a model would say every field twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Strict, ValidationError

from stilts_ds.errors import UserError

T = TypeVar("T")
ValueT = TypeVar("ValueT", bound="Value")

# A list in JSON, a tuple in Python: nothing can be appended to a frozen value. Only the container is converted; what
# stands in it is as strict as the rest.
JsonList = Annotated[tuple[T, ...], Strict(False)]


def _at_least_one(count: int | str) -> int | str:
    if isinstance(count, int) and count < 1:
        raise ValueError("give 1 or more, or `auto`")
    return count


RankCount = Annotated[int | Literal["auto"], AfterValidator(_at_least_one)]


class Value(BaseModel):
    """Frozen, and strict: "1" is no number. Only the settings are shared; no method is."""

    model_config = ConfigDict(frozen=True, strict=True)


def check_value(kind: type[ValueT], raw: Any, path: Path, remedy: str) -> ValueT:
    """The JSON value `raw` as a `kind`. Raises UserError with the file, the key at fault and the remedy."""
    given = raw if isinstance(raw, dict) else {}
    for name, field in kind.model_fields.items():
        if field.is_required() and name not in given:
            raise UserError(f"{path} lacks {name!r}; {remedy}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        prefix = f"{key}: " if key else ""  # a fault of the whole stands under no key
        fault = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {prefix}{fault}; {remedy}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None
