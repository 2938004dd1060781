"""YAML as people write it, read with care and checked against a schema.

Plain values only, each key once, of sensible size and depth. Nothing in it can run.

YAML 1.1 takes `no` for false, `2024-01-01` for a date, `12:30:00` and `010` for other numbers. Where a schema asks for
a text, what was written is meant: so every value is kept with its text (`Document`), and the schema decides.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Document:
    """A YAML value, and the same lists and mappings with the text of each value that is not a quoted text."""

    value: Any
    texts: Any


def read_yaml(path: Path) -> Document:
    """The value in a YAML file. Raises UserError naming the file where it cannot be read."""
    try:
        with path.open("rb") as file:
            # One byte more than allowed tells a file that is too long, without reading all of it.
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
    return parse_document(text, f"{path} is not valid YAML")


def parse_yaml(text: str, complaint: str, remedy: str = "correct the file") -> Any:
    """The value of a YAML text. Raises UserError, which begins with `complaint`."""
    return parse_document(text, complaint, remedy).value


def parse_document(text: str, complaint: str, remedy: str = "correct the file") -> Document:
    """The value of a YAML text. Raises UserError, which begins with `complaint`."""
    try:
        loader = _Loader(text)  # builds plain values only; a tag that asks for more is an error
        node = loader.get_single_node()
        if node is None:
            return Document(None, None)
        _check(node, {}, 0)
        value = loader.construct_document(node)
        check_plain(value)
        return Document(value, _texts(node))
    except RecursionError:
        raise UserError(f"{complaint}: it is nested too deeply; {remedy}") from None
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        # ValueError and the others: dates, numbers and merge keys that PyYAML takes for such and cannot make sense of.
        raise UserError(f"{complaint}: {error}; {remedy}") from None


def _check(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """The number of values that a node stands for, aliases followed. Raises YAMLError for what no recipe holds."""
    position, size = f"line {node.start_mark.line + 1}", 1
    if depth > DEEPEST:
        raise yaml.YAMLError(f"{position}: nested too deeply, or a value that holds itself")
    # An alias is the same node again: it counts as often as it is used, but is looked at once.
    if id(node) in sizes:
        return sizes[id(node)]
    if isinstance(node, yaml.ScalarNode):
        _keep_text(node)
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        size += sum(_check(child, sizes, depth + 1) for pair in node.value for child in pair)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_check(child, sizes, depth + 1) for child in node.value)
    if size > MOST_VALUES:
        raise yaml.YAMLError(f"{position}: more than {MOST_VALUES} values")
    sizes[id(node)] = size
    return size


TEXT = "tag:yaml.org,2002:str"
IMPLICIT = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null", "timestamp")}
# Dates, times (base 60 in YAML 1.1) and numbers with leading zeros (base 8): nothing here means them as numbers.
UNUSUAL = re.compile(r"[-+]?0[0-9_]+|.*:.*")


def _keep_text(node: yaml.ScalarNode) -> None:
    """Make texts of dates, times and octal numbers; a number field reads `010` as ten."""
    number = node.tag.endswith((":int", ":float"))
    if node.tag.endswith(":timestamp") or (number and UNUSUAL.fullmatch(node.value)):
        node.tag = TEXT


def _texts(node: yaml.Node) -> Any:
    """The texts of a node's values, in the same lists and mappings."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: _texts(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_texts(value) for value in node.value]
    return node.value


def _check_keys(node: yaml.MappingNode) -> None:
    """PyYAML would silently take the last of two equal keys."""
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.YAMLError(f"line {key.start_mark.line + 1}: a key must be a word")
        if key.tag in IMPLICIT:
            key.tag = TEXT  # keys are names: `no` and `2024` are what they look like
        if key.value in seen and key.value != "<<":
            raise yaml.YAMLError(f"line {key.start_mark.line + 1}: the key {key.value!r} stands there twice")
        seen.add(key.value)


def check_plain(value: Any) -> None:
    """Raises ValueError for text that neither a file nor a path can hold, and for what looks like a token: settings
    are written into run folders, which are shared."""
    if isinstance(value, dict):
        for child in (*value, *value.values()):
            check_plain(child)
    elif isinstance(value, list):
        for child in value:
            check_plain(child)
    elif isinstance(value, str):
        if any(0xD800 <= ord(letter) < 0xE000 for letter in value):  # an escape can name half a surrogate pair
            raise ValueError("a text holds half of a character (a lone surrogate); write the character itself")
        if "\0" in value:
            raise ValueError("a NUL character in a text; remove it")
        if holds_secret(value):
            raise ValueError("holds what looks like a token or a password; set HF_TOKEN in the environment instead")


def apply_override(values: dict[str, Any], override: str, texts: dict[str, Any] | None = None) -> None:
    """Set one `key.sub=value` in nested `values`, and its text in `texts`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"{override[:200]!r} is no override; write key=value, such as engine.zero_stage=2")
    shown = f"{override[:200]!r}"
    given = parse_document(text, f"{shown}: the value is not valid YAML", f"quote it, such as '{key[:80]}=\"...\"'")
    *parents, last = key.split(".")
    if len(parents) > DEEPEST:
        raise UserError(f"{shown}: no key lies that deep; write key=value, such as engine.zero_stage=2")
    for parent in parents:
        if values.get(parent) is None:  # an empty section
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise UserError(f"{shown}: {parent!r} holds a value, not keys; leave the part before it out")
        if texts is not None:
            section = texts.get(parent)
            texts[parent] = section if isinstance(section, dict) else {}
            texts = texts[parent]
    values[last] = given.value
    if texts is not None:
        texts[last] = given.texts


# --- schemas ----------------------------------------------------------------------------------------------------------


class Section(BaseModel):
    """A section of the recipe. Unknown keys are errors; a finished recipe does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _no_endless_number(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > 2**53:
            raise ValueError("this number is too large to be meant")
        return value


SectionT = typing.TypeVar("SectionT", bound=Section)


def read_section(kind: type[SectionT], path: Path, overrides: Sequence[str] = ()) -> SectionT:
    """A section from a YAML file, with `key.sub=value` overrides applied and checked.

    Raises UserError naming the file, or the override where that is at fault.
    """
    document = read_yaml(path)
    if not isinstance(document.value, dict):
        raise UserError(f"{path} must hold keys and values, such as `name: my-study`")
    for override in overrides:
        apply_override(document.value, override, document.texts)
    return parse_section(kind, document.value, _blame(str(path), overrides), document.texts)


Blame = Callable[
    [Sequence[Any], bool], str
]  # key path of a fault, whether the key itself is unknown -> who is at fault


def _blame(path: str, overrides: Sequence[str]) -> Blame:
    """Says whether a fault stands in the file or came from the command line."""

    def blame(key_path: Sequence[Any], unknown_key: bool) -> str:
        # The last override of a key is the one in force.
        for override in reversed(overrides):
            keys = tuple(override.partition("=")[0].split("."))
            if tuple(map(str, key_path[: len(keys)])) == keys:
                return f"command line, {override[:200]!r}"
            if key_path and keys[: len(key_path)] == tuple(key_path):  # a section that the override is in
                override_at_fault = f"command line, {override[:200]!r}"
                return override_at_fault if unknown_key else f"{path}, with {override[:200]!r} of the command line"
        return f"{path}, with {' '.join(overrides)[:200]}" if overrides and not key_path else path

    return blame


def parse_section(kind: type[SectionT], values: Mapping[str, Any], where: str | Blame, texts: Any = None) -> SectionT:
    """Check values against a schema; raises UserError naming `where`, the key and the nearest known keys.

    With the texts of a document, `values` are changed to what was meant: a text where YAML saw a number or a truth
    value and the schema asks for a text, and a list of one where it asks for a list.
    """
    blame: Blame = where if callable(where) else lambda key_path, unknown: where
    try:
        check_plain(values)
    except ValueError as error:
        raise UserError(f"{blame((), False)}: {error}") from None
    # Each round mends at least one value or ends: a mended value may show the next fault behind it.
    while True:
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            if not any([_mend(values, texts, problem) for problem in error.errors()]):
                messages = [_message(kind, values, blame, problem) for problem in error.errors()]
                raise UserError("\n".join(messages)) from error


def _mend(values: Any, texts: Any, problem: Mapping[str, Any]) -> bool:
    """Put what was meant in place of the value that a problem names; False where that is not clear."""
    key_path = _key_path(values, problem["loc"])
    if texts is None or not key_path:
        return False
    *parents, last = key_path
    for name in parents:
        values = values[name]
        texts = texts[name] if isinstance(texts, dict) and name in texts or isinstance(texts, list) else None
    given = values[last]
    if not isinstance(given, bool | int | float | str):
        return False
    text = texts[last] if isinstance(texts, list) or isinstance(texts, dict) and last in texts else None
    # `name: 2024` or `no`: the schema asks for a text, so the written text is meant.
    if problem["type"] in ("string_type", "path_type") and isinstance(text, str) and not isinstance(given, str):
        values[last] = text
        return True
    # `seeds=1` means [1]. With a comma it may mean several, which is not guessed.
    if problem["type"] == "list_type" and text is not None and "," not in str(text):
        values[last] = [given]
        texts[last] = [text]
        return True
    return False


def _key_path(values: Any, location: Sequence[Any]) -> list[Any]:
    """The keys and indices of a validation error's location, without the names of a union's branches."""
    key_path = []
    for name in location:
        inside = isinstance(values, dict) and name in values
        if inside or (isinstance(values, list) and isinstance(name, int) and name < len(values)):
            values = values[name]
            key_path.append(name)
    return key_path


def _message(kind: type[Section], values: Any, blame: Blame, problem: Mapping[str, Any]) -> str:
    key = ".".join(str(name) for name in problem["loc"])
    at = problem["loc"] if problem["type"] == "missing" else _key_path(values, problem["loc"])
    where = blame(at, problem["type"] == "extra_forbidden")
    if problem["type"] == "extra_forbidden":
        *parents, last = problem["loc"]
        return f"{where}: unknown key {key!r}{did_you_mean(str(last), _keys_at(kind, parents))}"
    if problem["type"] == "missing":
        return f"{where}: key {key!r} is missing"
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "list_type":
        text += "; write a list in brackets, such as [1, 2]"
    if not key:  # a rule of several keys: what was given for all of them says nothing
        return f"{where}: {text}"
    return f"{where}: {key}: {text} (got {str(problem['input'])[:80]!r})"


def _keys_at(kind: type[Section], location: Sequence[Any]) -> list[str]:
    """The keys of the section at a validation error's location."""
    section: Any = kind
    for name in location:
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            break
        section = section.model_fields[name].annotation if name in section.model_fields else None
        if typing.get_origin(section) in (typing.Union, types.UnionType):
            section = next(option for option in typing.get_args(section) if isinstance(option, type))
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
