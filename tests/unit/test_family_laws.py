"""Families own what is theirs: nobody else asks which family a task is of, and only heads import torch."""

from __future__ import annotations

import ast

from source_modules import MODULES, imports, tree_of

RECORD_CLASSES = {
    "Pair",
    "Choice",
    "Span",
    "Answer",
    "Tagged",
    "Text",
    "Bitext",
    "Sentence",
    "Query",
    "Candidate",
    "Wanted",
}
OUTSIDE = [
    name
    for name in MODULES
    if not name.startswith(("stilts_ds.families", "stilts_kernels", "stilts_ds.toy", "stilts_bench"))
]
FAMILY_MODULES = [name for name in MODULES if name.startswith("stilts_ds.families")]


def is_family(node: ast.expr) -> bool:
    """`family`, `x.family` or `x.family.name`."""
    if isinstance(node, ast.Attribute) and node.attr == "name":
        node = node.value
    return (isinstance(node, ast.Name) and node.id == "family") or (
        isinstance(node, ast.Attribute) and node.attr == "family"
    )


def test_only_families_know_which_family_it_is() -> None:
    """A wish for a new kind of output must be one folder: nobody else compares names or asks for a record's type."""
    assert len(OUTSIDE) > 100
    for name in OUTSIDE:
        asks_for_no_family(name)


def asks_for_no_family(name: str) -> None:
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            assert not any(map(is_family, sides)), f"{name}:{node.lineno} compares a family's name"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            assert not asked & RECORD_CLASSES, f"{name}:{node.lineno} asks for a record's type"
    for target, _ in imports(name):
        assert not target.endswith(".record"), f"{name} imports {target}: records are their family's"


def test_a_place_that_asks_for_a_family_would_be_found() -> None:
    for line in ('task.family == "tag"', 'x = family in ("pair",)', 'task.family.name != "span"'):
        [compare] = [node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Compare)]
        assert any(map(is_family, [compare.left, *compare.comparators]))


def test_only_heads_import_torch() -> None:
    """A login node plans with families: torch and the modules of models stand in head.py (and build.py, which asks)."""
    for name in FAMILY_MODULES:
        if name.endswith(".head") or name == "stilts_ds.families.build":
            continue
        for target, _ in imports(name):
            heavy = target.split(".")[0] == "torch" or target.startswith(("stilts_ds.model.", "stilts_ds.rows.batch"))
            assert not heavy, f"{name} imports {target}"


def test_every_family_has_the_same_files() -> None:
    folders = {name.split(".")[2] for name in FAMILY_MODULES if name.count(".") > 2}
    for folder in folders:
        parts = {name.split(".")[3] for name in FAMILY_MODULES if name.startswith(f"stilts_ds.families.{folder}.")}
        assert {"record", "rows", "head", "predictions", "score"} <= parts, folder
