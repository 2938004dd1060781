"""YAML as people write it, read with care and checked against a schema.

Plain values only, each key once, of sensible size and depth. Nothing in it can run.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from stilts_ds.errors import UserError, did_you_mean, holds_secret

# A recipe has dozens of values; aliases of aliases would make billions of them.
MOST_BYTES, MOST_VALUES, DEEPEST = 1 << 18, 20_000, 50


class _Loader(yaml.SafeLoader):
    """SafeLoader that stops at deep nesting: its scanner looks at every open bracket for each word."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > DEEPEST:
            raise yaml.YAMLError("nested too deeply")
        super().fetch_flow_collection_start(token)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) > DEEPEST:
            raise yaml.YAMLError("nested too deeply")
        return bool(super().add_indent(column))


def read_yaml(path: Path) -> Any:
    """The value in a YAML file. Raises UserError naming the file where it cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: {error}; convert the file to UTF-8") from None
    if len(raw) > MOST_BYTES:
        raise UserError(f"{path} has more than {MOST_BYTES} bytes; give a recipe or a cluster profile, not data")
    return parse_yaml(text, f"{path} is not valid YAML")


def parse_yaml(text: str, complaint: str, remedy: str = "correct the file") -> Any:
    """The value of a YAML text. Raises UserError, which begins with `complaint`."""
    try:
        loader = _Loader(text)  # builds plain values only; a tag that asks for more is an error
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {}, 0)
        value = loader.construct_document(node)
        check_plain(value)
        return value
    except RecursionError:
        raise UserError(f"{complaint}: it is nested too deeply; {remedy}") from None
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        # ValueError and the others: dates, numbers and merge keys that PyYAML takes for such and cannot make sense of.
        raise UserError(f"{complaint}: {error}; {remedy}") from None


def _check(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """The number of values that a node stands for, aliases followed. Raises YAMLError for what no recipe holds."""
    place, size = f"line {node.start_mark.line + 1}", 1
    if depth > DEEPEST:
        raise yaml.YAMLError(f"{place}: nested too deeply, or a value that holds itself")
    if id(node) in sizes:
        return sizes[id(node)]
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        size += sum(_check(part, sizes, depth + 1) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_check(part, sizes, depth + 1) for part in node.value)
    if size > MOST_VALUES:
        raise yaml.YAMLError(f"{place}: more than {MOST_VALUES} values")
    sizes[id(node)] = size
    return size


def _check_keys(node: yaml.MappingNode) -> None:
    """PyYAML would silently take the last of two equal keys."""
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.YAMLError(f"line {key.start_mark.line + 1}: a key must be a word")
        if key.value in seen and key.value != "<<":
            raise yaml.YAMLError(f"line {key.start_mark.line + 1}: the key {key.value!r} stands there twice")
        seen.add(key.value)


def check_plain(value: Any) -> None:
    """Raises ValueError for text that neither a file nor a path can hold, and for what looks like a token: settings
    are written into run folders, which are shared."""
    if isinstance(value, dict):
        for part in (*value, *value.values()):
            check_plain(part)
    elif isinstance(value, list):
        for part in value:
            check_plain(part)
    elif isinstance(value, str):
        if any(0xD800 <= ord(letter) < 0xE000 for letter in value):  # an escape can name half a surrogate pair
            raise ValueError("a text holds half of a character (a lone surrogate); write the character itself")
        if "\0" in value:
            raise ValueError("a NUL character in a text; remove it")
        if holds_secret(value):
            raise ValueError("holds what looks like a token or a password; set HF_TOKEN in the environment instead")


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `key.sub=value` in nested `values`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"{override[:200]!r} is no override; write key=value, such as engine.zero_stage=2")
    shown = f"{override[:200]!r}"
    value = parse_yaml(text, f"{shown}: the value is not valid YAML", f"quote it, such as '{key[:80]}=\"...\"'")
    *parents, last = key.split(".")
    if len(parents) > DEEPEST:
        raise UserError(f"{shown}: no key lies that deep; write key=value, such as engine.zero_stage=2")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"{shown}: {parent!r} holds a value, not keys; leave the part before it out")
    values[last] = value


# --- schemas ----------------------------------------------------------------------------------------------------------


class Part(BaseModel):
    """A section of the recipe. Unknown keys are errors; a finished recipe does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _no_endless_number(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > 2**53:
            raise ValueError("this number is too large to be meant")
        return value


PartT = typing.TypeVar("PartT", bound=Part)


def read_part(kind: type[PartT], path: Path, overrides: Sequence[str] = ()) -> PartT:
    """A section from a YAML file, with `key.sub=value` overrides applied and checked. Raises UserError naming it."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold keys and values, such as `name: my-study`")
    for override in overrides:
        apply_override(values, override)
    return parse_part(kind, values, str(path))


def parse_part(kind: type[PartT], values: Mapping[str, Any], where: str) -> PartT:
    """Check values against a schema; raises UserError naming `where`, the key and the nearest known keys."""
    try:
        check_plain(values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_message(kind, where, problem) for problem in error.errors())) from error


def _message(kind: type[Part], where: str, problem: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *parents, last = problem["loc"]
        return f"{where}: unknown key {place!r}{did_you_mean(str(last), _keys_at(kind, parents))}"
    if problem["type"] == "missing":
        return f"{where}: key {place!r} is missing"
    text = problem["msg"].removeprefix("Value error, ")
    return (
        f"{where}: {place + ': ' if place else ''}{text} (got {str(problem['input'])[:80]!r})"
        if place
        else f"{where}: {text}"
    )


def _keys_at(kind: type[Part], location: Sequence[Any]) -> list[str]:
    """The keys of the section at a validation error's location."""
    part: Any = kind
    for name in location:
        if not (isinstance(part, type) and issubclass(part, BaseModel)):
            break
        part = part.model_fields[name].annotation if name in part.model_fields else None
        if typing.get_origin(part) in (typing.Union, types.UnionType):
            part = next(option for option in typing.get_args(part) if isinstance(option, type))
    return list(part.model_fields) if isinstance(part, type) and issubclass(part, BaseModel) else []
