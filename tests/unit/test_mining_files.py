"""`stilts_ds.mining` on files of vectors: pairs and neighbours equal the kernels'."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
import torch
from stilts_kernels import mine as mine_tensors
from stilts_kernels import topk
from vector_files import DIM, write_sides

from stilts_ds.errors import UserError
from stilts_ds.mining import MiningSettings, Texts, mine, models, search
from stilts_ds.mining import job as jobs


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return write_sides(tmp_path)


def tensors(paths: tuple[Path, Path]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.load(path)) for path in paths]


def read_tsv(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "margin, retrieval", [("ratio", "max"), ("distance", "forward"), ("absolute", "backward"), ("ratio", "intersect")]
)
def test_pairs_are_those_of_the_kernels(margin: str, retrieval: str, sides: tuple[Path, Path], tmp_path: Path) -> None:
    settings = MiningSettings(margin=margin, retrieval=retrieval, threshold=-100.0)
    result = mine(*sides, tmp_path / "pairs.tsv", settings=settings)
    expected = mine_tensors(*tensors(sides), 4, margin, retrieval)
    rows = read_tsv(tmp_path / "pairs.tsv")
    assert [(int(a), int(b)) for _, a, b in rows] == list(zip(expected.source.tolist(), expected.target.tolist()))
    assert [np.float32(score) for score, _, _ in rows] == expected.score.tolist()
    assert result.count == len(rows) and not jobs.work_folder(tmp_path / "pairs.tsv").exists()


def test_the_three_formats_hold_the_same(sides: tuple[Path, Path], tmp_path: Path) -> None:
    from pyarrow import parquet

    texts = tmp_path / "x.txt"
    texts.write_text("".join(f"text {i}\n" for i in range(40)), encoding="utf-8")
    for suffix in (".tsv", ".jsonl", ".parquet"):
        mine(Texts(texts, vectors=sides[0]), sides[1], tmp_path / f"pairs{suffix}")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    table = parquet.read_table(tmp_path / "pairs.parquet").to_pylist()
    assert list(rows[0]) == ["score", "source", "target", "source_text"] and table == rows
    plain = [[np.float32(score), *cells] for score, *cells in read_tsv(tmp_path / "pairs.tsv")]
    assert plain == [[np.float32(row["score"]), row["source"], row["target"], row["source_text"]] for row in rows]
    assert all(row["score"] > 0 and row["source_text"] == f"text {row['source']}" for row in rows)


def test_a_model_is_hashed_once_for_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a gigabyte takes a third of a second, which is much beside a few hundred sentences."""
    hashed = []
    monkeypatch.setattr(models, "fingerprint", lambda *given: hashed.append(given) or "its hash")
    for name in ("x.txt", "y.txt"):
        (tmp_path / name).write_text("a\nb c\n")
    mine(tmp_path / "x.txt", tmp_path / "y.txt", tmp_path / "pairs.tsv", model="toy")
    assert len(hashed) == 1


def test_search_mode_gives_every_source_its_best_target(sides: tuple[Path, Path], tmp_path: Path) -> None:
    shorter = tmp_path / "x30.npy"
    np.save(shorter, np.load(sides[0])[:30])
    result = mine(shorter, sides[1], tmp_path / "best.tsv", settings=MiningSettings(mode="search"))
    expected = mine_tensors(*tensors((shorter, sides[1])), 4, "ratio", "forward")
    best = dict(zip(expected.source.tolist(), expected.target.tolist()))
    assert [(int(a), int(b)) for _, a, b in read_tsv(tmp_path / "best.tsv")] == sorted(best.items())
    assert result.errors == sum(a != b for a, b in best.items()) < 15


def test_score_mode_scores_line_by_line(sides: tuple[Path, Path], tmp_path: Path) -> None:
    shorter = tmp_path / "x30.npy"
    np.save(shorter, np.load(sides[0])[:30])
    mine(shorter, sides[1], tmp_path / "scores.tsv", settings=MiningSettings(mode="score", k=3))
    x, y = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in tensors((shorter, sides[1])))
    cosines = x @ y.T
    own, other = cosines.topk(3, 1).values.mean(1), cosines.T.topk(3, 1).values.mean(1)
    expected = cosines.diagonal() / ((own + other) / 2)
    rows = read_tsv(tmp_path / "scores.tsv")
    assert [(a, b) for _, a, b in rows] == [(str(i), str(i)) for i in range(30)]
    assert [float(score) for score, _, _ in rows] == pytest.approx(expected.tolist(), rel=1e-5)
    with pytest.raises(UserError, match="x.npy has 40 lines and .*y.npy 30; give sides of one length"):
        mine(*sides, tmp_path / "more.tsv", settings=MiningSettings(mode="score"))


def test_equal_texts_count_as_one(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """As evaluation does it: its first row stands for a text, and pairs of a text that stands twice can be dropped."""
    np.save(sides[0], np.load(sides[0])[[*range(20), 0, 1, 0]])
    texts = [tmp_path / "x.txt", tmp_path / "y.txt"]
    texts[0].write_text("".join(f"text {i}\n" for i in [*range(20), 0, 1, 0]))
    texts[1].write_text("".join(f"Text {i}\n" for i in range(30)))
    given = [Texts(text, vectors=side) for text, side in zip(texts, sides)]
    mine(given[0], given[1], tmp_path / "one.tsv", settings=MiningSettings(unify=True))
    settings = MiningSettings(unify=True, drop_repeated=True)
    mine(given[0], given[1], tmp_path / "dropped.tsv", settings=settings)
    one, dropped = (read_tsv(tmp_path / name) for name in ("one.tsv", "dropped.tsv"))
    expected = mine_tensors(torch.from_numpy(np.load(sides[0])[:20]), tensors(sides)[1], 4)
    assert [int(row[1]) for row in one] == expected.source[expected.score > 0].tolist()
    assert dropped == [row for row in one if row[1] not in ("0", "1")] and len(dropped) == len(one) - 2


def test_gold_gives_scores_and_a_threshold(tmp_path: Path) -> None:
    """Orthogonal pairs of falling similarity: of four mined pairs the third is wrong."""
    eye = np.eye(DIM, dtype=np.float32)
    np.save(tmp_path / "x.npy", eye[:4])
    np.save(tmp_path / "y.npy", np.stack([eye[i] + 0.1 * (i + 1) * eye[4 + i] for i in range(4)]))
    (tmp_path / "gold.tsv").write_text("0\t0\n1\t1\n2\t3\n")
    settings = MiningSettings(margin="absolute", k=1, dev_part=1)
    result = mine(
        tmp_path / "x.npy", tmp_path / "y.npy", tmp_path / "p.tsv", settings=settings, gold=tmp_path / "gold.tsv"
    )
    judgement = result.judgement
    assert judgement is not None and judgement.dev == judgement.scores
    assert judgement.scores.precision == 100 and judgement.scores.recall == pytest.approx(200 / 3)
    assert judgement.scores.f1 == pytest.approx(80) and result.count == 2
    cosines = [1 / np.hypot(1, 0.1 * (i + 1)) for i in range(4)]
    assert judgement.threshold == pytest.approx((cosines[1] + cosines[2]) / 2)
    given = MiningSettings(margin="absolute", k=1, threshold=0.5)
    result = mine(
        tmp_path / "x.npy", tmp_path / "y.npy", tmp_path / "q.tsv", settings=given, gold=tmp_path / "gold.tsv"
    )
    assert result.judgement is not None and result.judgement.dev is None and result.count == 4
    assert result.judgement.scores.precision == 50


def test_a_dev_part_chooses_and_the_rest_is_scored(sides: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "gold.tsv").write_text("".join(f"{i}\t{i}\n" for i in range(20)))
    result = mine(*sides, tmp_path / "p.tsv", gold=tmp_path / "gold.tsv")
    judgement = result.judgement
    assert judgement is not None and judgement.dev is not None
    assert judgement.dev.gold + judgement.scores.gold == 20 and 0 < judgement.dev.gold < 20
    assert judgement.scores.f1 > 80


@pytest.mark.parametrize("metric", ["cosine", "inner"])
def test_search_gives_the_kernels_neighbours(metric: str, sides: tuple[Path, Path], tmp_path: Path) -> None:
    assert search(*sides, tmp_path / "n.jsonl", k=3, metric=metric) == 120
    rows = [json.loads(line) for line in (tmp_path / "n.jsonl").read_text().splitlines()]
    expected = topk(*tensors(sides), 3, metric)
    assert [int(row["neighbour"]) for row in rows] == expected.indices.flatten().tolist()
    assert [row["score"] for row in rows] == expected.values.flatten().tolist()
    assert [(row["query"], row["rank"]) for row in rows[:4]] == [("0", 1), ("0", 2), ("0", 3), ("1", 1)]


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    page = (ranks.ROOT / "docs" / "mining.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "de.txt").write_text("a\nb c\nd\n")
    (tmp_path / "en.txt").write_text("b c\nd\n")
    exec(code, {})
    assert "pairs in pairs.jsonl" in capsys.readouterr().out
    mined = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert {(row["source_text"], row["target_text"]) for row in mined} == {("b c", "b c"), ("d", "d")}
    nearest = read_tsv(tmp_path / "nearest.tsv")
    assert [row[1:] for row in nearest if row[2] == "1"] == [["0", "1", "1", "b c", "b c"], ["1", "1", "2", "d", "d"]]


def test_both_number_formats_are_searched(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """Rows that float16 holds exactly give the same pairs in both formats."""
    for path in sides:
        np.save(path, np.load(path).astype(np.float16).astype(np.float32))
    mine(*sides, tmp_path / "full.tsv")
    np.save(sides[0], np.load(sides[0]).astype(np.float16))
    mine(*sides, tmp_path / "half.tsv")
    assert (tmp_path / "half.tsv").read_bytes() == (tmp_path / "full.tsv").read_bytes()
