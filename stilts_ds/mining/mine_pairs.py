"""Bitext mining from files to a file: pairs of translations, the best translation of each sentence, or scores of
sentences that are aligned already.

The margins and ways of retrieval are those of LASER (Artetxe and Schwenk 2019; stilts_kernels.mining).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stilts_kernels.common.canonical import canonical_scores
from stilts_kernels.common.collectives import Collectives, collectives_of
from stilts_kernels.common.progress import Progress
from stilts_kernels.common.ranking import slices
from stilts_kernels.common.rows import Rows
from stilts_kernels.mining.margin import MARGINS, Neighbours
from stilts_kernels.mining.match import RETRIEVALS, MinedPairs
from stilts_kernels.mining.ranks import means_of_ranks, pairs_on_first
from stilts_kernels.mining.state import SearchState
from torch import Tensor

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.families.bitext.head import Distinct, Mined, Pair, Place, neighbours_both_ways, text_digests
from stilts_ds.mining.candidates import CandidateSearch, IndexSettings, SideRows, neighbours_by_index
from stilts_ds.mining.gold import Judgement, Scores, judge, read_gold
from stilts_ds.mining.job import MiningWork, on_all, on_first, progress_log, refuse_existing, stop_together
from stilts_ds.mining.models import Encoder
from stilts_ds.mining.pairs_file import TAB_FAULT, check_name, write_table
from stilts_ds.mining.scale import DEFAULT_NPROBE
from stilts_ds.mining.sides import Side, check_widths, describe, files_of, find_sides, with_vectors
from stilts_ds.mining.texts import Texts
from stilts_ds.run_dir import hash_file

log = logging.getLogger(__name__)
CPU = torch.device("cpu")
MODES = ("mine", "search", "score")
WAYS = ("exact", "ivf")


@dataclass(frozen=True)
class MiningSettings:
    """What is mined. `k` neighbours each way (fewer where a side has fewer). `mode`: `mine` pairs, `search` the best
    target of every source sentence, or `score` line i of the source with line i of the target. `unify`: equal texts of
    a side count as one sentence, its first; `drop_repeated` then leaves out pairs with a text that occurs more than
    once on its side. `threshold`: keep scores of at least this (None: scores above 0). `dev_part`: the share of the
    source sentences whose gold pairs choose the threshold. `memory`: scratch bytes of a rank. `neighbours`: `exact`, or
    `ivf`: the best that an approximate index of `nlist` lists, of which `nprobe` are read, names
    (stilts_ds.mining.candidates says what None means)."""

    mode: str = "mine"
    margin: str = "ratio"
    retrieval: str = "max"
    k: int = 4
    threshold: float | None = None
    unify: bool = False
    drop_repeated: bool = False
    dev_part: float = 0.5
    memory: int = 1 << 30
    neighbours: str = "exact"
    nlist: int | None = None
    nprobe: int | None = None

    @property
    def index(self) -> IndexSettings:
        """How the approximate index is made and read."""
        return IndexSettings(self.nlist, DEFAULT_NPROBE if self.nprobe is None else self.nprobe)

    def check(self, has_gold: bool) -> None:
        """Raise UserError for values that none can be, and for settings that another one makes void."""
        for name, value, known in (
            ("mode", self.mode, MODES), ("margin", self.margin, MARGINS), ("retrieval", self.retrieval, RETRIEVALS),
            ("neighbours", self.neighbours, WAYS),
        ):  # fmt: skip
            if value not in known:
                raise UserError(f"unknown {name} {value!r}{did_you_mean(value, known)}")
        if self.k < 1:
            raise UserError(f"k {self.k}: give 1 neighbour or more")
        if self.memory < 1 << 24:
            raise UserError("memory: give 16 MiB or more")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UserError(f"threshold {self.threshold}: give a finite number")
        if not 0 < self.dev_part <= 1:
            raise UserError(f"dev part {self.dev_part}: give a share above 0, at most 1")
        if self.dev_part != DEFAULTS.dev_part and (not has_gold or self.threshold is not None):
            raise UserError("a dev part chooses the threshold by gold pairs: give gold, and no threshold")
        if self.drop_repeated and not self.unify:
            raise UserError("drop_repeated needs unify: without it equal texts are sentences of their own")
        if self.neighbours == "ivf":
            self.index.check()
        elif self.nlist is not None or self.nprobe is not None:
            raise UserError(
                "nlist and nprobe belong to the approximate index: set neighbours to ivf, or leave them out"
            )
        if self.mode != "mine" and (self.unify or has_gold or self.retrieval != "max" or self.threshold is not None):
            raise UserError(
                f"mode {self.mode} takes no unify, gold, retrieval or threshold: every sentence gets a line"
            )


DEFAULTS = MiningSettings()


@dataclass(frozen=True)
class MiningResult:
    """`count` lines were written to `output`. `judgement`: threshold and scores against the gold pairs, where these
    were given. `errors`: for mode `search` with sides of one length, how many sentences found another line than their
    own."""

    output: Path
    count: int
    judgement: Judgement | None = None
    errors: int | None = None


def mine(
    source: str | Path | Texts,
    target: str | Path | Texts,
    output: str | Path,
    *,
    model: str | Path | Encoder | None = None,
    settings: MiningSettings = DEFAULTS,
    gold: str | Path | None = None,
    comm: Any = None,
    device: torch.device = CPU,
) -> MiningResult:
    """Mine `source` and `target`, text files of a sentence a line (`Texts` says more) or vectors (.npy), into `output`:
    .tsv, .jsonl or .parquet with the columns score, source, target and, of texts, source_text and target_text.

    Vectors of texts are given, or made by `model` as `embed` makes them. `gold` is a file of `source id TAB target id`;
    ids are those of the text files, else row numbers from 0. On many ranks a collective over `comm` (an mpi4py
    communicator or a gloo process group), bit-equal to one rank; the files lie where all ranks see them. A start that
    was stopped is continued by the same call.

    Raises UserError for every fault of the inputs, naming file and line, and for an output that exists.
    """
    ranks, path = collectives_of(comm), Path(output)
    encoder = Encoder(model) if isinstance(model, (str, Path)) else model
    gold_file = None if gold is None else Path(gold)

    def check() -> None:
        settings.check(gold is not None)
        check_name(path)
        refuse_existing(path)

    on_all(ranks, check)  # every rank needs the packages that the settings name
    with MiningWork(ranks, path) as job:
        fault = TAB_FAULT if path.suffix == ".tsv" else ""
        sides = find_sides(ranks, (source, target), encoder, fault)
        check_widths(*sides)  # before texts are embedded
        gold_pairs = on_first(ranks, lambda: _gold(gold_file, sides))
        inputs = {
            **describe(source=sides[0], target=sides[1]),
            "the content of gold": on_first(ranks, lambda: "" if gold_file is None else hash_file(gold_file)),
            **asdict(settings),
        }
        files = files_of(source=sides[0], target=sides[1])
        key = job.begin(inputs, {**files, "the content of gold": gold_file})
        left, right = (
            with_vectors(ranks, side, job.work / f"{name}.npy", device)
            for name, side in zip(("source", "target"), sides)
        )
        check_widths(left, right)
        mining = Mining(ranks, settings, left, right, device)
        mining.search(job.work, key)
        draft = job.work / f"pairs{path.suffix}"
        result = mining.write(path, draft, gold_pairs)
        job.publish(draft)
    return result


def _gold(path: Path | None, sides: Sequence[Side]) -> list[list[str]] | None:
    if path is None:
        return None
    source_ids, target_ids = (side.texts.all_ids() if side.texts else side.ids for side in sides)
    return [list(pair) for pair in read_gold(path, source_ids, target_ids)]


class Mining:
    """One search for pairs; all methods but those with an underscore are collectives."""

    def __init__(
        self, ranks: Collectives, settings: MiningSettings, source: Side, target: Side, device: torch.device
    ) -> None:
        self.ranks, self.settings, self.sides, self.device = ranks, settings, (source, target), device
        self.vectors = [side.open() for side in self.sides]
        self.distinct = [self._distinct(side) for side in self.sides]
        # Margins need k neighbours on both sides, so the smaller side decides.
        self.k = min(settings.k, *(len(distinct.rows) for distinct in self.distinct))
        if self.k < settings.k:
            log.info("k is %d: a side has no more sentences", self.k)
        if settings.mode == "score":
            on_first(ranks, self._check_aligned)

    def _check_aligned(self) -> None:
        counts = [len(vectors) for vectors in self.vectors]
        if counts[0] != counts[1]:
            names = [str(side.path) for side in self.sides]
            raise UserError(
                f"mode score takes sides that are aligned line by line, but {names[0]} has {counts[0]:,} lines and "
                f"{names[1]} {counts[1]:,}; give sides of one length"
            )

    def _distinct(self, side: Side) -> Distinct:
        """The rows that take part. A collective: ranks look at a share of the texts each."""
        if not self.settings.unify:
            return Distinct.all(len(side.open()))
        if side.texts is None:
            raise UserError(f"{side.path}: unify compares texts, and vectors alone have none; give the texts, too")
        return Distinct.of_digests(text_digests(side.texts.all_texts()))

    def search(self, work: Path, key: str) -> None:
        """Neighbours both ways of this rank's rows; what is finished is kept in the folder `work` under `key`."""
        if self.settings.neighbours == "ivf":
            self.forward, self.backward = self._by_index(work, key)
            return
        shares = []
        for side, vectors, distinct in zip(self.sides, self.vectors, self.distinct):
            first, stop = side.share(self.ranks)
            rows = vectors[first:stop]
            # Without repeated texts the rows stay in their mapped file.
            shares.append(rows[distinct.within(first, stop)] if self.settings.unify else rows)
        progress = progress_log(self.ranks, "searching", "steps")
        # Between two steps all ranks look whether one of them was asked to stop: the search is a collective.
        search_place = Tracked(self.ranks, self.device, partial(stop_together, self.ranks), progress)
        left, right = shares
        self.forward, self.backward = neighbours_both_ways(
            left, right, self.k, search_place, memory=self.settings.memory, state=SearchState(work, key)
        )

    def _by_index(self, work: Path, key: str) -> tuple[Neighbours, Neighbours]:
        index = self.settings.index
        if self.ranks.rank == 0:
            log.info(
                "approximate: neighbours are sought in %d lists of a FAISS index a sentence; scores and margins are "
                "exact, but pairs may be missed", index.nprobe
            )  # fmt: skip
        progress = progress_log(self.ranks, "searching", "blocks")
        source, target = (
            SideRows(name, vectors, distinct.rows)
            for name, vectors, distinct in zip(("source", "target"), self.vectors, self.distinct)
        )
        return neighbours_by_index(CandidateSearch(self.ranks, self.k, index, work, key, progress), source, target)

    def write(self, output: Path, draft: Path, gold: Sequence[Sequence[str]] | None) -> MiningResult:
        """Write the table to `draft`; returns what is told about it, on every rank."""
        settings = self.settings
        if settings.mode == "score":
            pairs: MinedPairs | None = self._scores_of_lines()
        else:
            retrieval = "forward" if settings.mode == "search" else settings.retrieval
            pairs = pairs_on_first(self.ranks, self.forward, self.backward, settings.margin, retrieval)
        # Rank 0 writes; what it found goes to the others as plain values, so that all return the same.
        outcome = on_first(self.ranks, lambda: self._write(draft, output.suffix, pairs, gold))
        judgement = None if outcome["judgement"] is None else judgement_of(outcome["judgement"])
        return MiningResult(output, outcome["count"], judgement, outcome["errors"])

    def _scores_of_lines(self) -> MinedPairs | None:
        """The margins of all lines, in order, on rank 0. A collective."""
        source_mean, target_mean = means_of_ranks(self.ranks, self.forward), means_of_ranks(self.ranks, self.backward)
        first, stop = self.sides[0].share(self.ranks)
        line = torch.arange(stop - first)
        left, right = (Rows(vectors[first:stop], "rows", unit=True) for vectors in self.vectors)
        cosines = canonical_scores(left, right, line, line) if len(line) else torch.empty(0, dtype=torch.float64)
        means = (source_mean[first:stop] + target_mean[first:stop]) / 2
        # float32 as in the other modes, so that one pair has one score in all of them.
        margins = MARGINS[self.settings.margin](cosines, means).float()
        scores = self.ranks.collect_rows(margins, 0)
        if self.ranks.rank != 0:
            return None
        lines = torch.arange(sum(map(len, scores)))
        return MinedPairs(lines, lines, torch.cat(scores))

    def _write(
        self, draft: Path, suffix: str, pairs: MinedPairs | None, gold: Sequence[Sequence[str]] | None
    ) -> dict[str, Any]:
        assert pairs is not None, "rank 0 has the pairs"
        names = [side.ids for side in self.sides]
        pairs = self._kept(pairs)
        judgement, errors = None, None
        # Sides of one length are taken to be aligned, as those of Tatoeba are: then every other line is an error.
        if self.settings.mode == "search" and len(names[0]) == len(names[1]):
            errors = int((pairs.source != pairs.target).sum())
        if gold is not None:
            wanted: set[Pair] = {(pair[0], pair[1]) for pair in gold}
            mined = [Mined(names[0][i], names[1][j], score) for i, j, score in lines_of(pairs)]
            # Judged before the threshold, which the dev part is to choose among all scores.
            judgement = judge(mined, wanted, self.settings.dev_part, self.settings.threshold)
            pairs = chosen(pairs, pairs.score.double() >= judgement.threshold)
        columns = ["score", "source", "target"]
        texts = [None if side.texts is None else list(side.texts.all_texts()) for side in self.sides]
        columns += [f"{name}_text" for name, side in zip(("source", "target"), texts) if side is not None]
        count = write_table(draft, suffix, columns, cells_of(pairs, names, texts))
        return {"count": count, "judgement": None if judgement is None else asdict(judgement), "errors": errors}

    def _kept(self, pairs: MinedPairs) -> MinedPairs:
        """What may be written, a threshold that gold pairs choose aside, with the rows of the files."""
        settings = self.settings
        keep = torch.ones(len(pairs.score), dtype=torch.bool)
        if settings.threshold is not None:
            keep &= pairs.score.double() >= settings.threshold
        # LASER's default: without a threshold, what scores 0 or less is no pair.
        elif settings.mode == "mine":
            keep &= pairs.score > 0
        left, right = ((torch.from_numpy(side.rows), torch.from_numpy(side.once)) for side in self.distinct)
        if settings.drop_repeated:
            keep &= left[1][pairs.source] & right[1][pairs.target]
        kept = chosen(pairs, keep)
        kept = MinedPairs(left[0][kept.source], right[0][kept.target], kept.score)
        return chosen(kept, torch.argsort(kept.source, stable=True)) if settings.mode == "search" else kept


def chosen(pairs: MinedPairs, which: Tensor) -> MinedPairs:
    """The pairs of a mask or of row numbers."""
    return MinedPairs(*(column[which] for column in pairs))


def lines_of(pairs: MinedPairs) -> Iterator[tuple[int, int, float]]:
    """(source, target, score) of each pair, a block of them as Python's numbers at a time."""
    for block in slices(len(pairs.score)):
        yield from zip(*(column[block].tolist() for column in pairs))


def cells_of(
    pairs: MinedPairs, names: Sequence[Sequence[str]], texts: Sequence[list[str] | None]
) -> Iterator[tuple[Any, ...]]:
    """The cells of each line of the table."""
    for block in slices(len(pairs.score)):
        source, target, score = (column[block].tolist() for column in pairs)
        columns: list[Iterable[Any]] = [score]
        columns += [map(side.__getitem__, rows) for side, rows in zip(names, (source, target))]
        columns += [map(side.__getitem__, rows) for side, rows in zip(texts, (source, target)) if side is not None]
        yield from zip(*columns)


@dataclass(frozen=True)
class Tracked(Place):
    """A place of a search that tells how far it is."""

    log_progress: Progress = lambda done, total: None

    def progress(self, done: int, total: int) -> None:
        self.between()
        self.log_progress(done, total)


def judgement_of(value: dict[str, Any]) -> Judgement:
    """What `dataclasses.asdict` made of a judgement, as a judgement."""
    dev = None if value["dev"] is None else Scores(**value["dev"])
    return Judgement(value["threshold"], dev, Scores(**value["scores"]))
