"""`stilts_ds.mining` on files of vectors: pairs equal the kernels', and every fault is named and leaves nothing."""

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

from stilts_ds.errors import UserError
from stilts_ds.mining import MiningSettings, Texts, mine, search
from stilts_ds.mining import job as jobs

DIM = 8


def vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """40 source vectors; 30 targets, of which the first 20 are the sources' with noise."""
    source, noise = vectors(40, 1), vectors(30, 2)
    target = noise.copy()
    target[:20] = source[:20] + 0.2 * noise[:20]
    paths = tmp_path / "x.npy", tmp_path / "y.npy"
    for path, rows in zip(paths, (source, target)):
        np.save(path, rows)
    return paths


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


# --- faults ----------------------------------------------------------------------------------------------------------


def texts(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


FAULTS: dict[str, Any] = {
    "not utf-8": (b"a\nb\xff\nc\n", {}, r"x.txt:2: byte 2 of the line \(0xff\) is not valid UTF-8"),
    "empty": (b"", {}, "x.txt: is empty"),
    "fewer lines than vectors": (b"a\nb\n", {}, "x.npy has 40 vectors and .*x.txt 2 lines"),
    "a tab": (b"a\nb\tc\n", {}, "x.txt:2: a tab stands inside the text, which a table of lines cannot hold"),
    "no id": (b"1\ta\nb\n", {"ids": True}, "x.txt:2: expected id TAB text"),
    "an id twice": (b"1\ta\n1\tb\n", {"ids": True}, "x.txt:2: id '1' is that of line 1, too"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_texts_are_named(name: str, sides: tuple[Path, Path], tmp_path: Path) -> None:
    content, options, message = FAULTS[name]
    source = Texts(texts(tmp_path / "x.txt", content), vectors=sides[0], **options)
    refused(tmp_path, message, source, sides[1])


def refused(folder: Path, message: str, *arguments: Any, **options: Any) -> None:
    """The call is refused, and leaves no file."""
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match=message):
        mine(*arguments, folder / "pairs.tsv", **options)
    assert sorted(folder.iterdir()) == before


def test_faulty_vectors_are_named(sides: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = sides
    refused(tmp_path, "gone.npy does not exist", tmp_path / "gone.npy", target)
    np.save(tmp_path / "none.npy", vectors(0, 1))
    refused(tmp_path, "none.npy: holds no vectors", tmp_path / "none.npy", target)
    np.save(tmp_path / "wide.npy", np.ones((5, DIM + 1), np.float32))
    np.save(tmp_path / "int.npy", np.ones((5, DIM), np.int64))
    refused(tmp_path, "int.npy: needs a C-ordered .* array of float32 or float16", tmp_path / "int.npy", target)
    for name, message in (("wide", "wide.npy has 9 numbers a vector and .*y.npy 8"), ("bad", "bad.npy: row 3 .* NaN")):
        spoiled = vectors(5, 3)
        spoiled[3, 1] = np.nan
        if name == "bad":
            np.save(tmp_path / "bad.npy", spoiled)
        refused(tmp_path, message, tmp_path / f"{name}.npy", target)


def test_faulty_gold_is_named(sides: tuple[Path, Path], tmp_path: Path) -> None:
    gold = tmp_path / "gold.tsv"
    for content, message in (
        ("0\t0\n1\t99\n", "gold.tsv, line 2: the id '99' names no sentence"),
        ("0\t0\n0\t0\n", "gold.tsv, line 2: repeats the pair of line 1"),
        ("0 0\n", "gold.tsv, line 1: .* is not two ids"),
        ("".join(f"{i % 40}\t{i % 30}\n" for i in range(31)), "gold.tsv, line 31: 31 gold pairs for 30 sentences"),
        ("", "gold.tsv"),
    ):
        gold.write_text(content)
        refused(tmp_path, message, *sides, gold=gold)


def test_settings_that_cannot_be_are_named(sides: tuple[Path, Path], tmp_path: Path) -> None:
    for settings, message in (
        (MiningSettings(margin="ration"), "unknown margin 'ration'; did you mean ratio"),
        (MiningSettings(k=0), "k 0: give 1"),
        (MiningSettings(drop_repeated=True), "drop_repeated needs unify"),
        (MiningSettings(mode="score", unify=True), "mode score takes no unify"),
        (MiningSettings(unify=True), "x.npy: unify compares texts"),
        (MiningSettings(threshold=float("nan")), "threshold nan: give a finite number"),
        (MiningSettings(dev_part=0.0), "dev part 0.0"),
    ):
        refused(tmp_path, message, *sides, settings=settings)
    (tmp_path / "x.txt").write_text("a\n")
    refused(tmp_path, "x.txt holds texts: name the model", tmp_path / "x.txt", sides[1])
    with pytest.raises(UserError, match="pairs.csv: the format is named by the end"):
        mine(*sides, tmp_path / "pairs.csv")
    with pytest.raises(UserError, match="unknown metric 'l2'"):
        search(*sides, tmp_path / "n.tsv", metric="l2")
    with pytest.raises(UserError, match="cannot search: .*k = 31 is outside 1..30"):
        search(*sides, tmp_path / "n.tsv", k=31)


def test_nothing_is_overwritten(sides: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "pairs.tsv"
    output.write_text("mine\n")
    refused(tmp_path, "pairs.tsv exists; nothing is overwritten", *sides)
    output.unlink()
    own = tmp_path / "pairs.tsv.work"
    own.mkdir()
    (own / "thesis.tex").write_text("all of it")
    refused(tmp_path, "pairs.tsv.work is no work folder of this program", *sides)
    assert (own / "thesis.tex").read_text() == "all of it"


def test_work_on_other_inputs_is_not_continued(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """A start that was stopped has noted its inputs; one with a changed shard is refused, and the first may go on."""
    output = tmp_path / "pairs.tsv"

    def stop(*arguments: object, **options: object) -> None:
        (jobs.work_folder(output) / "search-0-of-1-00000001.pt").touch()  # something is finished
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stilts_ds.mining.mine_pairs.neighbours_both_ways", stop)
        with pytest.raises(KeyboardInterrupt):
            mine(*sides, output)
    changed, kept = np.load(sides[1]), np.load(sides[1])
    changed[0] += 1
    np.save(sides[1], changed)
    with pytest.raises(UserError, match="for which the content of target was .* delete that folder"):
        mine(*sides, output)
    with pytest.raises(UserError, match="for which k was 4, and now it is 3"):
        np.save(sides[1], kept)
        mine(*sides, output, settings=MiningSettings(k=3))
    assert mine(*sides, output).count > 0 and not jobs.work_folder(output).exists()
