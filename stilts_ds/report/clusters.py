"""Which items are drawn together: those that stand on one text, in any language of a translated test set.

The three pairs of an XNLI premise and the questions of a paragraph are missed together more often than others. Drawn
one by one they would look like more evidence than they are, so a resample draws whole clusters (Field and Welsh 2007).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Node = tuple[str, ...]


def cluster_numbers(
    items: Sequence[str], names: Mapping[str, Sequence[str]], texts: Mapping[str, Sequence[str]]
) -> NDArray[np.intp]:
    """The cluster of each of `items`, numbered from 0 in their order, [N].

    `names` are the items of each language and `texts` what each of them stands on. Items are in one cluster if they
    share a text in some language, directly or through others: MLQA's questions lie in paragraphs of several languages.
    """
    parent: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]  # shortens the way for the next search
            node = parent[node]
        return node

    # Union-find: an item is a node by its name alone, which translations share, a text one in its language.
    for language, names_of_language in names.items():
        for name, text in zip(names_of_language, texts[language], strict=True):
            parent[root((name,))] = root((language, text))
    numbers: dict[Node, int] = {}
    return np.array([numbers.setdefault(root((name,)), len(numbers)) for name in items], dtype=np.intp)
