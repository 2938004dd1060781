"""YAML as people write it: plain values only, each key once, of sensible size and depth. Nothing in it can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from stilts_ds.errors import UserError

# A recipe has dozens of values; aliases of aliases would make billions of them.
MOST_BYTES, MOST_VALUES, DEEPEST = 1 << 18, 20_000, 50


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
        loader = yaml.SafeLoader(text)  # builds plain values only; a tag that asks for more is an error
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
    """Raises ValueError for text that neither a file nor a path can hold."""
    if isinstance(value, str):
        value.encode()  # an escape can name half a surrogate pair
        if "\0" in value:
            raise ValueError("a NUL character in a text")
    elif isinstance(value, dict):
        for part in (*value, *value.values()):
            check_plain(part)
    elif isinstance(value, list):
        for part in value:
            check_plain(part)


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
