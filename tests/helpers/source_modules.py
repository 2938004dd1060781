"""The project's modules as text and syntax trees, each read and parsed once for all the rules that look at them."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import ranks

SOURCES = {
    "stilts_ds": ranks.ROOT,
    "stilts_launcher": ranks.ROOT / "launcher",
    "stilts_kernels": ranks.ROOT / "kernels",
    "stilts_bench": ranks.ROOT / "kernels/bench",
}


def name_of(path: Path, base: Path) -> str:
    return ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    name_of(path, base): path for package, base in SOURCES.items() for path in sorted((base / package).rglob("*.py"))
}


def named(prefix: str) -> list[str]:
    """Modules whose names begin so; a rule that looks at none would hold for ever."""
    chosen = [name for name in MODULES if name.startswith(prefix)]
    assert chosen, f"no module is called {prefix}..."
    return chosen


@functools.cache
def source_of(name: str) -> str:
    return MODULES[name].read_text(encoding="utf-8")


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(source_of(name))


@functools.cache
def imports(name: str) -> tuple[tuple[str, bool], ...]:
    """Every module that one imports, also inside functions, and whether it is imported as soon as the file is."""
    return tuple(_imports(tree_of(name), name, at_once=True))


def _imports(node: ast.AST, importer: str, at_once: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{importer}: relative import"
            names = [f"{child.module}.{alias.name}" for alias in child.names]
            yield from ((name if name in MODULES else str(child.module), at_once) for name in names)
        elif not isinstance(child, ast.expr):  # no expression holds an import
            yield from _imports(child, importer, at_once and not isinstance(child, ast.FunctionDef))
