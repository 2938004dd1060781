"""Retrieval against plain Python: pooling, nearest neighbours, mining, and the threshold."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stilts_ds.errors import UserError
from stilts_ds.families.bitext import head as retrieve
from stilts_ds.families.bitext.head import EmbeddedSide, Mined
from stilts_ds.model.pooling import mean_pool, pool


def test_each_sentence_is_pooled_over_its_own_tokens() -> None:
    hidden, offsets = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([0, 2, 3])
    assert torch.equal(pool(hidden, offsets), torch.tensor([[2.0, 3.0], [5.0, 6.0]]))
    assert mean_pool(hidden.bfloat16(), offsets).dtype == torch.float32
    assert torch.equal(pool(hidden, offsets, "first"), torch.tensor([[1.0, 2.0], [5.0, 6.0]]))
    with pytest.raises(UserError, match="unknown pooling 'maen'; did you mean mean"):
        pool(hidden, offsets, "maen")


def test_tatoeba_each_english_sentence_picks_a_foreign_one() -> None:
    source = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-3.0, 0.1]])
    english = torch.tensor([[-1.0, 0.0], [9.0, 1.0]])
    assert retrieve.tatoeba_predict(source, english) == [2, 0]
    with pytest.raises(UserError, match="the embedding of source sentence 1 is not finite"):
        retrieve.tatoeba_predict(torch.tensor([[1.0, 0.0], [math.nan, 0.0]]), english)
    with pytest.raises(UserError, match="no sentences"):
        retrieve.tatoeba_predict(source[:0], english)


def side(name: str, texts: list[str], rows: Any) -> EmbeddedSide:
    return EmbeddedSide(
        name, [f"{name}-{i}" for i in range(len(texts))], texts, torch.as_tensor(rows, dtype=torch.float32)
    )


def quadratic_mine(source: EmbeddedSide, target: EmbeddedSide, k: int) -> dict[tuple[str, str], float]:
    """The paper's protocol with lists and loops, float64."""

    def unified(one: EmbeddedSide) -> tuple[list[str], list[list[float]]]:
        texts = list(dict.fromkeys(one.texts))
        rows = [one.embeddings[one.texts.index(text)].double().tolist() for text in texts]
        return texts, [[v / math.hypot(*row) for v in row] for row in rows]

    (x_texts, x), (y_texts, y) = unified(source), unified(target)
    k = min(k, len(x), len(y))
    cos = [[sum(a * b for a, b in zip(u, v)) for v in y] for u in x]
    columns = [list(column) for column in zip(*cos)]

    def neighbours(rows: list[list[float]]) -> list[list[int]]:
        return [sorted(range(len(row)), key=lambda j: -row[j])[:k] for row in rows]

    x_near, y_near = neighbours(cos), neighbours(columns)
    x_mean = [sum(cos[i][j] for j in near) / len(near) for i, near in enumerate(x_near)]
    y_mean = [sum(columns[j][i] for i in near) / len(near) for j, near in enumerate(y_near)]

    def margin(i: int, j: int) -> float:
        return cos[i][j] / ((x_mean[i] + y_mean[j]) / 2)

    pooled = [max((margin(i, j), i, j) for j in near) for i, near in enumerate(x_near)]
    pooled += [max((margin(i, j), i, j) for i in near) for j, near in enumerate(y_near)]
    used_x, used_y, found = set(), set(), {}
    for score, i, j in sorted(pooled, reverse=True):
        if i in used_x or j in used_y:
            continue
        used_x.add(i)
        used_y.add(j)
        once = source.texts.count(x_texts[i]) == target.texts.count(y_texts[j]) == 1
        if once and score > 0:
            pair = (source.ids[source.texts.index(x_texts[i])], target.ids[target.texts.index(y_texts[j])])
            found[pair] = score
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 10**6), st.data())
def test_mining_equals_the_quadratic_version(n: int, m: int, k: int, seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for name, count in (("de", n), ("en", m)):
        words = data.draw(st.lists(st.integers(0, 14), min_size=count, max_size=count))
        table = torch.rand(15, 6, generator=generator, dtype=torch.float64) + 0.05
        sides.append(side(name, [f"{name} text {w}" for w in words], table[words]))
    mined = retrieve.bucc_mine(*sides, k=k)
    expected = quadratic_mine(*sides, k=k)
    assert {item.pair for item in mined} == set(expected)
    assert all(item.score == pytest.approx(expected[item.pair], rel=1e-4) for item in mined)
    assert [item.score for item in mined] == sorted((item.score for item in mined), reverse=True)


def test_repeated_texts_take_part_in_matching_but_are_dropped() -> None:
    source = side("de", ["a", "b", "a", " a "], [[1, 0], [0, 1], [1, 0], [1, 0]])
    target = side("en", ["x", "y"], [[1, 0.1], [0.1, 1]])
    assert [item.pair for item in retrieve.bucc_mine(source, target)] == [("de-1", "en-1")]


def test_faulty_sides_are_refused() -> None:
    good = side("en", ["x"], [[1.0]])
    with pytest.raises(UserError, match="1 id, 1 text, 2 embeddings"):
        retrieve.bucc_mine(side("de", ["x"], [[1.0], [2.0]]), good)
    with pytest.raises(UserError, match="the id 'a' 2 times"):
        retrieve.bucc_mine(EmbeddedSide("de", ["a", "a"], ["x", "y"], torch.ones(2, 1)), good)


MINED = [Mined("a", "1", 1.5), Mined("b", "9", 1.25), Mined("c", "3", 1.0), Mined("d", "8", 0.5)]


def test_threshold_from_dev_is_applied_to_test() -> None:
    gold = {("a", "1"), ("c", "3"), ("e", "5")}
    threshold, f1 = retrieve.best_threshold(MINED, gold)
    assert threshold == 0.75 and f1 == pytest.approx(200 / 3)
    assert retrieve.bucc_predict(MINED, threshold) == [("a", "1"), ("b", "9"), ("c", "3")]
    assert retrieve.bucc_predict([Mined("t", "t", 0.75), Mined("u", "u", 0.74)], threshold) == [("t", "t")]


def test_threshold_edge_cases() -> None:
    assert retrieve.best_threshold(MINED[:1], {("a", "1")}) == (1.5, 100.0)
    assert retrieve.best_threshold(MINED, {("z", "z")}) == (math.inf, 0.0)
    ties = [Mined("a", "1", 1.0), Mined("b", "9", 1.0), Mined("c", "9", 0.0)]
    assert retrieve.best_threshold(ties, {("a", "1")}) == (0.5, pytest.approx(200 / 3))
    with pytest.raises(UserError, match="no gold pairs"):
        retrieve.best_threshold(MINED, set())
