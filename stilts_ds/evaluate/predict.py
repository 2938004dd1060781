"""What a model says of rows: dealt over ranks with exact row counts. What ranks make of a head's outputs is gathered on
rank 0; vectors stay where they are made."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from stilts_ds.batches.collate import PackedItems
from stilts_ds.config import SWEEP, EvaluationPart, TrainingPart
from stilts_ds.data.split import Split
from stilts_ds.engine.preempt import Asking, Stopped, stop_if_requested
from stilts_ds.engine.sharded import LockStep, ShardedModel
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate.embedding import CHUNK, Embedder, batch_count, share_of
from stilts_ds.evaluate.generate import Generator
from stilts_ds.families.asked import Passes, Work
from stilts_ds.families.base import Condensing, Family, HeadVerbs, Output, evaluation_masking
from stilts_ds.model.backbone import Layer
from stilts_ds.model_kinds import Sees
from stilts_ds.rows.batch import Batch, Targets, pack_rows, window_cells
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer

Forward = Callable[..., Any]
Items = tuple[int, list[int]]  # the number of some rows, and items of them
Condense = Callable[[int, int, Output], Output]  # number of the rows, item, output -> what travels
KINDS = ("outputs", "losses", "programs")  # of `Passes`, in the order in which they are made
GATHER_SECONDS = 60.0  # a run that is killed predicts again what rank 0 had not gathered


def deal(lengths: Sequence[Sequence[int]], batch_size: int, ranks: int, kinds: Sequence[str] = ()) -> list[list[Items]]:
    """Each rank's batches of items of one set of rows after the other: longest items of a set first, neighbours of like
    length, the same number of batches on every rank.

    Every item stands in exactly one batch of one rank. A batch holds the same items for any number of ranks, so that
    outputs are equal to the byte. Empty ones fill up the last round only: no rank waits between two sets. With the
    `kinds` of sets they fill up a kind's last round, too, so that each round is of one kind.
    """
    batches: list[Items] = []

    def fill_up(number: int) -> None:
        batches.extend([(number, [])] * (math.ceil(len(batches) / ranks) * ranks - len(batches)))

    for number, of_set in enumerate(lengths):
        if kinds and number and kinds[number] != kinds[number - 1]:
            fill_up(number - 1)
        # Longest first: the batch that needs most memory comes at once, and not at the end of an hour.
        order = sorted(range(len(of_set)), key=lambda item: (-of_set[item], item))
        batches += [(number, order[first : first + batch_size]) for first in range(0, len(order), batch_size)]
    fill_up(len(lengths) - 1)
    return [batches[rank::ranks] for rank in range(ranks)]


class SplitOutputs(NamedTuple):
    """All outputs of a split, in the order of its items, as a head's `decode` takes them."""

    split: Split
    records: Sequence[Any]
    rows: Rows
    outputs: list[Output]


@dataclass(frozen=True)
class Predictor:
    """A model that predicts (stilts_ds.families.base.Model): its forward pass, or the engine's, on all ranks."""

    forward: Forward
    tokenizer: Tokenizer
    batch_size: int
    world: World
    kept: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gave when it was last asked for by this name; another name takes its place. A collective."""
        if name not in self.kept:
            self.kept.clear()  # one pool of candidates may take gigabytes
            self.kept[name] = compute()
        return self.kept[name]

    @property
    def first(self) -> bool:
        return self.world.first

    @property
    def sees(self) -> Sees:
        return self.tokenizer.sees

    @property
    def comm(self) -> Any:
        return self.world.objects

    @property
    def device(self) -> torch.device:
        return self.world.device

    def broadcast(self, value: Any) -> Any:
        return self.world.broadcast(value)

    def stop_if_requested(self) -> None:
        stop_if_requested(self.world)

    def outputs(self, family: Family, head: str, rows: Rows, setting: TrainingPart) -> list[Output]:
        """Outputs of all items in order, on rank 0 ([] elsewhere), of a head that condenses none. A collective."""
        verbs = family.verbs(self.sees)
        assert verbs.condensing is None
        gathered = list(self._made(verbs, head, [Passes(rows, "outputs")], setting, as_it_is))
        return gathered[0][1] if gathered else []

    def work_done(
        self, works: Sequence[Work], family: Family, head: str, setting: TrainingPart
    ) -> Iterator[tuple[int, list[list[Any]]]]:
        """The number of each of the works of a family's splits and what its passes made, on rank 0 soon after all ranks
        have the last of them; nothing elsewhere. Ranks go from one to the next without meeting. A collective."""
        verbs = family.verbs(self.sees)
        places = [(number, place) for number, work in enumerate(works) for place in range(len(work.passes))]
        # Kind after kind, so that a round holds passes of like length. What takes longest comes last: a work is whole,
        # and kept whatever happens then, as soon as its programs are there.
        places.sort(key=lambda at: KINDS.index(works[at[0]].passes[at[1]].made))
        asked = [works[number].passes[place] for number, place in places]
        made: list[dict[int, list[Any]]] = [{} for _ in works]
        for index, outputs in self._made(verbs, head, asked, setting, as_it_is):
            number, place = places[index]
            made[number][place] = outputs
            if len(made[number]) == len(works[number].passes):
                yield number, [made[number].pop(place) for place in range(len(works[number].passes))]

    def split_outputs(
        self, splits: Sequence[Split], head: str, setting: TrainingPart, evaluation: EvaluationPart
    ) -> Iterator[SplitOutputs]:
        """Outputs of splits of one family, each split on rank 0 soon after all ranks have its last one; nothing
        elsewhere. Ranks go from one split to the next without meeting. A collective."""
        verbs = splits[0].family.verbs(self.sees)
        rows = [split.rows(setting) for split in splits]
        condense: Condense = as_it_is
        if verbs.condensing is not None:
            condense = self._condense(verbs.condensing, splits, rows, evaluation)
        asked = [Passes(of_set, "outputs") for of_set in rows]
        for number, outputs in self._made(verbs, head, asked, setting, condense):
            yield SplitOutputs(splits[number], splits[number].records(), rows[number], outputs)

    def _condense(
        self, condensing: Condensing, splits: Sequence[Split], rows: Sequence[Rows], evaluation: EvaluationPart
    ) -> Condense:
        """What this rank makes of its own items' outputs, with the texts that rank 0 sends it. A collective."""
        dealt = self._deal([Passes(of_set, "outputs") for of_set in rows])
        messages: list[Any] = []
        # One rank reads the sources for all, and what it cannot read ends all.
        self.world.on_rank_0(lambda: messages.extend(_texts(condensing, splits, rows, dealt)))
        texts, which = self.world.scatter(messages)
        items = [(number, item) for number, of_batch in dealt[self.world.rank] for item in of_batch]
        text_of = dict(zip(items, which.tolist()))

        def condense(number: int, item: int, output: Output) -> Output:
            return condensing.condense(texts[text_of[number, item]], rows[number], item, output, evaluation)

        return condense

    def _deal(self, asked: Sequence[Passes]) -> list[list[Items]]:
        # Ranks that share the model have to make the same passes at once.
        kinds = [passes.made for passes in asked] if isinstance(self.forward, ShardedModel) else ()
        lengths = [passes.rows.item_lengths.tolist() for passes in asked]
        return deal(lengths, self.batch_size, self.world.size, kinds)

    @torch.no_grad()
    def _made(
        self, verbs: HeadVerbs, head: str, asked: Sequence[Passes], setting: TrainingPart, condense: Condense
    ) -> Iterator[tuple[int, list[Any]]]:
        """The number of each of `asked` and what was made of all its items in order, on rank 0 as soon as that has been
        gathered; nothing elsewhere. A collective."""
        gathered = GatheredOutputs([len(passes.rows) for passes in asked], self.world)
        asking = Asking(self.world)
        maker = _Maker(self, verbs, head, setting)

        def whole() -> Iterator[tuple[int, list[Any]]]:
            for number, outputs in gathered.gather():
                is_flat = asked[number].made == "programs"
                yield number, [_unflat(output) for output in outputs] if is_flat else outputs

        for number, items in self._deal(asked)[self.world.rank]:
            try:
                # Rank 0's clock says when, and all ranks hear of it where they ask whether to stop.
                is_due = asking.stop_or_save(gathered.is_due())
            except Stopped:  # on all ranks alike: what is whole by now is kept
                yield from whole()
                raise
            if is_due:
                yield from whole()
            for item, output in zip(items, maker.make(asked[number], items)):
                gathered.add(number, item, condense(number, item, output))
        yield from whole()
        gathered.check_complete()

    def _batch(
        self,
        verbs: HeadVerbs,
        head: str,
        rows: Rows,
        items: Sequence[int],
        setting: TrainingPart,
        learns: bool = False,
    ) -> tuple[Batch, list[int]]:
        """The rows of some items with what a head reads of them, or learns from them, and for how many tokens each."""
        packed = PackedItems([(rows, item) for item in items], self.tokenizer)
        if not items:
            return packed.batch, []
        masking = evaluation_masking(self.tokenizer, setting.mlm_probability)
        tokens, golds = [], []
        for number, item in enumerate(items):
            where = (rows, item, packed.starts(number), packed.ids, masking)
            if learns:
                targets = verbs.targets(*where)
                tokens.append(targets.tokens)
                golds.append(targets.gold)
            else:
                tokens.append(verbs.reads(*where))
        counts = [len(read_tokens) for read_tokens in tokens]
        cells, longest = window_cells(counts if verbs.by_window else [])
        none = torch.zeros(0, dtype=torch.long)
        read = torch.from_numpy(np.concatenate(tokens).astype(np.int64))
        gold = torch.from_numpy(np.concatenate(golds).astype(np.int64)) if learns else none
        packed.batch.heads[head] = Targets(read, gold, none.float(), none, cells, longest=longest)
        return packed.batch, counts

    def vectors(self, rows: Rows, evaluation: EvaluationPart) -> torch.Tensor:
        """Pooled hidden states of this rank's share of the rows, one row a sentence: float32 [n, H] on the CPU, and of
        every layer [n, L + 1, H] with `retrieval_layer: sweep`. The ranks' shares follow each other in rank order. A
        collective."""
        layer: Layer = "all" if evaluation.retrieval_layer == SWEEP else evaluation.retrieval_layer
        is_shared = isinstance(self.forward, ShardedModel)
        embedder = Embedder(
            self.forward,
            self.tokenizer,
            self.world.device,
            self.batch_size,
            layer,
            evaluation.retrieval_pooling,
            cuts=not is_shared,
        )
        shares = [share_of(len(rows), rank, self.world.size) for rank in range(self.world.size)]
        first, stop = shares[self.world.rank]
        asking = Asking(self.world)
        chunks = [
            embedder.chunk(rows, begin, min(stop, begin + CHUNK), between=asking.stop_if_requested)
            for begin in range(first, stop, CHUNK)
        ]
        # All ranks ask before each of their batches whether to stop; those with fewer go on asking, and a rank without
        # sentences asks once at least.
        counts = [batch_count(begin, end, self.batch_size) for begin, end in shares]
        for _ in range(max(1, *counts) - counts[self.world.rank]):
            asking.stop_if_requested()
            # A pass without sentences: where ranks share the model all make the same number, and where there are no
            # vectors it gives an empty tensor of the right width.
            if is_shared or not chunks:
                chunks.append(embedder(rows, []))
        return torch.cat(chunks)


class _Maker:
    """Makes one rank's batches by the head of a model, of any kind of `Passes`."""

    def __init__(self, predictor: Predictor, verbs: HeadVerbs, head: str, setting: TrainingPart) -> None:
        self.predictor, self.verbs, self.head, self.setting = predictor, verbs, head, setting
        self.device = predictor.world.device
        # Ranks that share the model write together: as many passes as the one with the longest program needs.
        self.writing, self.finish = predictor.forward, nothing_to_finish
        if isinstance(predictor.forward, ShardedModel):
            stand_in = pack_rows([], predictor.tokenizer).to(self.device)
            self.writing = LockStep(predictor.forward, predictor.world, stand_in, "next")
            self.finish = self.writing.finish

    def make(self, asked: Passes, items: Sequence[int]) -> list[Output]:
        """What is made of a batch of items. Where ranks share the model, a collective."""
        if asked.made == "programs":
            assert asked.decoding is not None
            generator = Generator(self.writing, self.predictor.tokenizer, self.device, self.head, asked.decoding)
            written = generator.write(asked.rows, items) if items else []
            self.finish()
            return [_flat(samples) for samples in written]
        learns = asked.made == "losses"
        batch, counts = self.predictor._batch(self.verbs, self.head, asked.rows, items, self.setting, learns)
        made = self.predictor.forward(batch.to(self.device), "losses" if learns else "logits")
        if not items:
            return []
        if learns:
            return np.split(made[self.head].cpu().numpy(), np.cumsum(counts)[:-1])
        return _split(self.verbs, made[self.head], counts)


def nothing_to_finish() -> None:
    """Of a model that is whole on every rank."""


def as_it_is(number: int, item: int, output: Output) -> Output:
    """Of a head whose outputs travel as they are."""
    return output


def _texts(
    condensing: Condensing, splits: Sequence[Split], rows: Sequence[Rows], dealt: Sequence[Sequence[Items]]
) -> list[Any]:
    """For each rank the texts of its items, each once, and which of them each of its items has, in their order."""
    records = [split.records() for split in splits]
    messages = []
    for batches in dealt:
        number_of: dict[str, int] = {}
        which: list[int] = []
        for number, items in batches:
            texts = condensing.texts(records[number], rows[number], items)
            which += [number_of.setdefault(text, len(number_of)) for text in texts]
        messages.append([list(number_of), np.array(which, np.int32)])
    return messages


class GatheredOutputs:
    """Outputs of all ranks for sets of `sizes` items, which rank 0 gathers now and then."""

    def __init__(self, sizes: Sequence[int], world: World) -> None:
        self.sizes, self.world = sizes, world
        self.time = time.monotonic()  # of the last gathering
        self.local: dict[int, dict[int, Output]] = defaultdict(dict)  # of this rank, since then
        self.left: dict[int, dict[int, Output]] = {number: {} for number in range(len(sizes))}  # on rank 0, of all

    def add(self, number: int, item: int, output: Output) -> None:
        self.local[number][item] = output

    def is_due(self) -> bool:
        """Whether rank 0 wants what the ranks have."""
        return self.world.first and time.monotonic() - self.time >= GATHER_SECONDS

    def gather(self) -> Iterator[tuple[int, list[Output]]]:
        """On rank 0 the sets that are complete now, in their order. A collective."""
        messages = self.world.gather({number: _packed(outputs) for number, outputs in self.local.items()})
        self.local.clear()
        for message in messages:
            for number, packed in message.items():
                self.left[number] |= _unpacked(packed)
        whole = [number for number, outputs in self.left.items() if len(outputs) == self.sizes[number]]
        for number in whole if self.world.first else []:
            yield number, _in_order([self.left.pop(number)], self.sizes[number])
        # From here: what rank 0 did with them takes no part of the time to the next gathering.
        self.time = time.monotonic()

    def check_complete(self) -> None:
        """Raises RuntimeError on rank 0 where items of a set did not come back."""
        if self.world.first and self.left:
            number, outputs = next(iter(self.left.items()))
            raise RuntimeError(f"{self.sizes[number]} items went out, {len(outputs)} came back")


def _packed(outputs: dict[int, Output]) -> list[np.ndarray]:
    """Outputs by item as three arrays, which travel quicker than an array an item: the items, how many values each
    has along its first axis, and the values."""
    counts = [len(output) for output in outputs.values()]
    return [np.array(list(outputs), np.int64), np.array(counts, np.int64), np.concatenate(list(outputs.values()))]


def _unpacked(packed: Sequence[np.ndarray]) -> dict[int, Output]:
    items, counts, values = packed
    return dict(zip(items.tolist(), np.split(values, np.cumsum(counts)[:-1])))


def _flat(samples: Sequence[Sequence[int]]) -> np.ndarray:
    """The samples of a prompt as one array, which travels like any output: their number, lengths and ids."""
    return np.array([len(samples), *map(len, samples), *(id for ids in samples for id in ids)], np.int64)


def _unflat(flat: np.ndarray) -> list[list[int]]:
    count = int(flat[0])
    ends = np.cumsum(flat[1 : 1 + count])
    return [ids.tolist() for ids in np.split(flat[1 + count :], ends[:-1])]


def _in_order(by_rank: list[dict[int, Any]], count: int) -> list[Any]:
    if not by_rank:
        return []
    merged = {item: value for of_rank in by_rank for item, value in of_rank.items()}
    # An item twice or not at all would shift every answer behind it in the file.
    if sorted(merged) != list(range(count)):
        raise RuntimeError(f"{count} items went out, {len(merged)} came back")
    return [merged[item] for item in range(count)]


def _split(verbs: HeadVerbs, logits: torch.Tensor, counts: Sequence[int]) -> list[Output]:
    """Cut a batch's logits into items; `counts` are the tokens read of each."""
    values = logits.float().cpu().numpy()
    # NaN would still be decoded: argmax answers the first label, and the score would look like a bad model's.
    if not np.isfinite(values).all():
        raise UserError("the model's outputs are not finite; its weights are damaged, train it again")
    return [verbs.output(of_item) for of_item in np.split(values, np.cumsum(counts)[:-1])]
