"""Faulty files, outputs and settings of `stilts_ds.mining`: each is named and leaves nothing behind."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disk import fill, small_disk
from stilts_kernels.common.collectives import collectives_of
from vector_files import DIM, vectors, write_sides

from stilts_ds.errors import UserError
from stilts_ds.mining import Encoder, MiningSettings, Texts, VectorSettings, embed, mine, search
from stilts_ds.mining import job as jobs
from stilts_ds.mining.vectors import note_of


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return write_sides(tmp_path)


def texts(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


FAULTS: dict[str, Any] = {
    "not utf-8": (b"a\nb\xff\nc\n", {}, r"x.txt:2: byte 2 of the line \(0xff\) is not valid UTF-8"),
    "empty": (b"", {}, "x.txt: is empty"),
    "a byte order mark alone": (b"\xef\xbb\xbf", {}, "x.txt: is empty"),
    "packed, with another name": (gzip.compress(b"a\n"), {}, "x.txt: is gzip-compressed; unpack it"),
    "an array": (b"\x93NUMPY\x01", {}, "x.txt: is a NumPy array, not text"),
    "line ends of old Macs": (b"a\rb\r", {}, "x.txt:1: a carriage return"),
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


@pytest.mark.parametrize(
    "content, message",
    [
        (gzip.compress(b"a\n" * 9999)[:-4], "the compressed file is damaged .*download"),
        (b"a\nb\n", "the compressed file is damaged .*download"),
        (b"", "is empty"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(b"a\nb\xff\n"), r"x.txt.gz:2: byte 2 of the line \(0xff\)"),
    ],
)
def test_faulty_packed_texts_are_named(content: bytes, message: str, sides: tuple[Path, Path], tmp_path: Path) -> None:
    refused(tmp_path, message, Texts(texts(tmp_path / "x.txt.gz", content), vectors=sides[0]), sides[1])


def refused(folder: Path, message: str, *arguments: Any, **options: Any) -> None:
    """The call is refused, and leaves no file."""
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match=message):
        mine(*arguments, folder / "pairs.tsv", **options)
    assert sorted(folder.iterdir()) == before


def test_faulty_vectors_are_named(sides: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = sides
    np.save(tmp_path / "good.npy", vectors(5, 3))
    whole = (tmp_path / "good.npy").read_bytes()
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "short.npy").write_bytes(whole[:-4])
    # As `cat a.npy b.npy` joins two files.
    (tmp_path / "joined.npy").write_bytes(whole * 2)
    (tmp_path / "empty.npy").touch()
    for name, message in (
        ("gone", r"gone.npy: cannot be opened \(No such file"),
        ("folder", r"folder.npy: cannot be opened \(Is a directory"),
        ("short", "short.npy: cut short: .* write or copy it again"),
        ("joined", "joined.npy: 288 bytes more than shape"),
        ("empty", "empty.npy: not a .npy file"),
    ):
        refused(tmp_path, message, tmp_path / f"{name}.npy", target)
    for array in VECTORS_OF_OTHER_KINDS:
        np.save(tmp_path / "x.npy", array, allow_pickle=True)
        refused(tmp_path, "x.npy: needs a C-ordered .*; save numpy.ascontiguousarray", source, target)
    for shape in ((0, DIM), (3, 0)):
        np.save(tmp_path / "x.npy", np.zeros(shape, np.float32))
        refused(tmp_path, "x.npy: holds no vectors", source, target)
    np.save(tmp_path / "x.npy", np.ones((5, DIM + 1), np.float32))
    refused(tmp_path, "x.npy has 9 numbers a vector and .*y.npy 8", source, target)


VECTORS_OF_OTHER_KINDS = (
    np.ones((5, DIM), np.int64),
    np.ones((5, DIM)),
    np.ones((5, DIM), ">f4"),
    np.asfortranarray(vectors(5, 1)),
    np.array([["a", 1]] * 5, object),
    np.ones(DIM, np.float32),
    np.ones((1, 5, DIM), np.float32),
)


@pytest.mark.parametrize(
    "number, message, taken",
    [
        (np.nan, "holds NaN or infinity", False),
        (np.inf, "holds NaN or infinity", False),
        (3e38, r"its norm is 1e\+15 or more", False),
        (0.0, "is a zero vector", True),
        (1e-40, "is so short", True),
    ],
)
def test_rows_that_no_search_takes_are_named(
    number: float, message: str, taken: bool, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    """`taken`: an inner product needs no direction."""
    rows = np.load(sides[0])
    rows[37] = number
    np.save(sides[0], rows)
    refused(tmp_path, f"x.npy: row 37 .*{message}.*rows count from 0", *sides)
    if taken:
        assert search(*sides, tmp_path / "n.tsv", k=1, metric="inner") == 40
    else:
        with pytest.raises(UserError, match="x.npy: row 37"):
            search(*sides, tmp_path / "n.tsv", k=1, metric="inner")


def test_widths_are_compared_before_texts_are_embedded(sides: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a\nb\n")
    refused(
        tmp_path, "x.txt has 128 numbers a vector and .*y.npy 8; make both", tmp_path / "x.txt", sides[1], model="toy"
    )


def test_faulty_gold_is_named(sides: tuple[Path, Path], tmp_path: Path) -> None:
    gold = tmp_path / "gold.tsv"
    for content, message in (
        ("0\t0\n1\t99\n", "gold.tsv:2: no sentence has the id '99'"),
        ("0\t0\n35\t1\n1\t35\n", "gold.tsv:3: the ids stand in the other order"),
        ("0\t0\n0\t0\n", "gold.tsv:2: repeats the pair of line 1"),
        ("0 0\n", "gold.tsv:1: 1 column, expected source id TAB target id"),
        ("".join(f"{i % 40}\t{i % 30}\n" for i in range(31)), "gold.tsv:31: 31 gold pairs for 30 sentences"),
        ("", "gold.tsv: is empty"),
    ):
        gold.write_text(content)
        refused(tmp_path, message, *sides, gold=gold)
    refused(tmp_path, r"gone.tsv: cannot be opened \(No such file", *sides, gold=tmp_path / "gone.tsv")


def test_gold_is_read_as_the_benchmarks(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """Packed, with a byte order mark and Windows' line ends."""
    lines = "".join(f"{i}\t{i}\n" for i in range(20))
    (tmp_path / "gold.tsv").write_text(lines)
    (tmp_path / "gold.tsv.gz").write_bytes(gzip.compress(("\ufeff" + lines.replace("\n", "\r\n")).encode()))
    plain, packed = (
        mine(*sides, tmp_path / f"{gold}.jsonl", gold=tmp_path / gold).judgement for gold in ("gold.tsv", "gold.tsv.gz")
    )
    assert plain is not None and plain == packed


def test_settings_that_cannot_be_are_named(sides: tuple[Path, Path], tmp_path: Path) -> None:
    for settings, message in (
        (MiningSettings(margin="ration"), "unknown margin 'ration'; did you mean ratio"),
        (MiningSettings(k=0), "k 0: give 1"),
        (MiningSettings(drop_repeated=True), "drop_repeated needs unify"),
        (MiningSettings(mode="score", unify=True), "mode score takes no unify"),
        (MiningSettings(unify=True), "x.npy: unify compares texts"),
        (MiningSettings(threshold=float("nan")), "threshold nan: give a finite number"),
        (MiningSettings(dev_part=0.0), "dev part 0.0"),
        (MiningSettings(dev_part=0.3), "a dev part chooses the threshold by gold pairs"),
    ):
        refused(tmp_path, message, *sides, settings=settings)
    (tmp_path / "x.txt").write_text("a\n")
    refused(tmp_path, "x.txt holds texts: name the model", tmp_path / "x.txt", sides[1])
    with pytest.raises(UserError, match="pairs.csv: the format is named by the end"):
        mine(*sides, tmp_path / "pairs.csv")
    with pytest.raises(UserError, match="unknown metric 'l2'"):
        search(*sides, tmp_path / "n.tsv", metric="l2")
    for k, message in ((31, "k 31: .*y.npy has 30 rows; give 1 to 30"), (0, "k 0: give 1")):
        with pytest.raises(UserError, match=message):
            search(*sides, tmp_path / "n.tsv", k=k)
    encoder = Encoder("toy", settings=VectorSettings(prefix="\udcff"))
    refused(tmp_path, "prefix holds half a surrogate pair", tmp_path / "x.txt", sides[1], model=encoder)


def test_nothing_is_overwritten(sides: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "pairs.tsv"
    output.write_text("mine\n")
    refused(tmp_path, "pairs.tsv exists; nothing is overwritten", *sides)
    output.unlink()
    foreign = tmp_path / "pairs.tsv.work"
    for name in ("thesis.tex", jobs.NOTED):
        foreign.mkdir()
        (foreign / name).write_text('{"all": "of it"}')
        refused(tmp_path, "pairs.tsv.work is no work folder of this program", *sides)
        assert (foreign / name).read_text() == '{"all": "of it"}'
        shutil.rmtree(foreign)
    (tmp_path / "elsewhere").mkdir()
    foreign.symlink_to("elsewhere")
    refused(tmp_path, "pairs.tsv.work is no work folder of this program", *sides)
    assert not list((tmp_path / "elsewhere").iterdir())
    foreign.unlink()
    with pytest.raises(UserError, match="gone is no folder; make it"):
        mine(*sides, tmp_path / "gone" / "pairs.tsv")
    assert not (tmp_path / "gone").exists()


@pytest.mark.processes
def test_a_full_disk_is_named_and_costs_nothing(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """What torch writes, what is written at an offset, and a table: with space again, the same call ends."""
    texts(tmp_path / "x.txt", b"".join(b"text %d\n" % i for i in range(600)))
    disk = tmp_path / "disk"

    def embedding() -> object:
        return embed("toy", tmp_path / "x.txt", disk / "x.npy")

    def searching() -> object:
        return search(*sides, disk / "n.tsv", k=30)

    def mining() -> object:
        return mine(*sides, disk / "p.jsonl", settings=MiningSettings(mode="search"))

    with small_disk(disk, 4) as mounted:
        if not mounted:
            pytest.skip("needs the right to mount a small file system")
        for call, name, room in (
            (embedding, "x.npy", 100_000),
            (searching, "n.tsv", 16_000),
            (mining, "p.jsonl", 4_096),
        ):
            junk = fill(disk)
            os.truncate(junk, junk.stat().st_size - room)
            with pytest.raises(OSError, match=f"No space left on device.*{name}.work"):
                call()
            assert not (disk / name).exists()
            junk.unlink()
            call()
            assert not jobs.work_folder(disk / name).exists()
            (disk / name).unlink()


def test_one_start_works_on_an_output(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """A second one is refused, and leaves the first one's folder, in which nothing is finished yet."""
    output = tmp_path / "pairs.tsv"
    with jobs.MiningWork(collectives_of(None), output) as work:
        work.begin({"k": 4}, {})
        with pytest.raises(UserError, match="another stilts is at work on .*pairs.tsv"):
            mine(*sides, output)
        jobs.remove_if_bare(output)  # what the ranks of a refused start do at the end
        assert (work.work / jobs.NOTED).exists()
    assert not work.work.exists()


def test_a_kill_while_inputs_are_noted_is_no_obstacle(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """The draft of the note stays, and the same command goes on."""
    output = tmp_path / "pairs.tsv"
    jobs.work_folder(output).mkdir()
    (jobs.work_folder(output) / f".{jobs.NOTED}.0badcafe").write_text('{"inp')
    assert mine(*sides, output).count > 0 and not jobs.work_folder(output).exists()


def test_a_kill_between_the_note_and_the_vectors_is_no_obstacle(tmp_path: Path) -> None:
    """`embed` gives two files their names; a start after a kill between them takes the first as its own work."""
    texts(tmp_path / "x.txt", b"a\nb c\n")
    embed("toy", tmp_path / "x.txt", tmp_path / "whole.npy")

    def put_and_die(draft: Path, name: Path) -> None:
        put_new(draft, name)
        raise KeyboardInterrupt

    put_new, output = jobs.put_new, tmp_path / "x.npy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "put_new", put_and_die)
        with pytest.raises(KeyboardInterrupt):
            embed("toy", tmp_path / "x.txt", output)
    assert note_of(output).exists() and not output.exists()
    embed("toy", tmp_path / "x.txt", output)
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes() and not jobs.work_folder(output).exists()


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
    with pytest.raises(UserError, match=r"for which the content of target \(.*y.npy\) was .* delete that folder"):
        mine(*sides, output)
    with pytest.raises(UserError, match="for which k was 4, and now it is 3"):
        np.save(sides[1], kept)
        mine(*sides, output, settings=MiningSettings(k=3))
    assert mine(*sides, output).count > 0 and not jobs.work_folder(output).exists()
