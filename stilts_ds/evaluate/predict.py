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
from stilts_ds.families.base import Condensing, Family, HeadVerbs, Output, evaluation_masking
from stilts_ds.families.decoding import Decoding
from stilts_ds.model.backbone import Layer
from stilts_ds.model_kinds import Sees
from stilts_ds.rows.batch import Batch, Targets, pack_rows, window_cells
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer

Forward = Callable[..., Any]
Items = tuple[int, list[int]]  # the number of some rows, and items of them
Condense = Callable[[int, int, Output], Output]  # number of the rows, item, output -> what travels
GATHER_SECONDS = 60.0  # a run that is killed predicts again what rank 0 had not gathered


def deal(lengths: Sequence[Sequence[int]], batch_size: int, ranks: int) -> list[list[Items]]:
    """Each rank's batches of items of one set of rows after the other: longest items of a set first, neighbours of like
    length, the same number of batches on every rank.

    Every item stands in exactly one batch of one rank. A batch holds the same items for any number of ranks, so that
    outputs are equal to the byte. Empty ones fill up the last round only: no rank waits between two sets.
    """
    batches: list[Items] = []
    for number, of_set in enumerate(lengths):
        # Longest first: the batch that needs most memory comes at once, and not at the end of an hour.
        order = sorted(range(len(of_set)), key=lambda item: (-of_set[item], item))
        batches += [(number, order[first : first + batch_size]) for first in range(0, len(order), batch_size)]
    batches += [(0, [])] * (math.ceil(len(batches) / ranks) * ranks - len(batches))
    return [batches[rank::ranks] for rank in range(ranks)]


def shard(lengths: Sequence[int], batch_size: int, world: World) -> list[list[int]]:
    """This rank's batches of items of one set of rows (`deal`)."""
    return [items for _, items in deal([lengths], batch_size, world.size)[world.rank]]


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
        gathered = list(self._outputs(verbs, head, [rows], setting, as_it_is))
        return gathered[0][1] if gathered else []

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
        for number, outputs in self._outputs(verbs, head, rows, setting, condense):
            yield SplitOutputs(splits[number], splits[number].records(), rows[number], outputs)

    def _condense(
        self, condensing: Condensing, splits: Sequence[Split], rows: Sequence[Rows], evaluation: EvaluationPart
    ) -> Condense:
        """What this rank makes of its own items' outputs, with the texts that rank 0 sends it. A collective."""
        dealt = self._deal(rows)
        messages: list[Any] = []
        # One rank reads the sources for all, and what it cannot read ends all.
        self.world.on_rank_0(lambda: messages.extend(_texts(condensing, splits, rows, dealt)))
        texts, which = self.world.scatter(messages)
        items = [(number, item) for number, of_batch in dealt[self.world.rank] for item in of_batch]
        text_of = dict(zip(items, which.tolist()))

        def condense(number: int, item: int, output: Output) -> Output:
            return condensing.condense(texts[text_of[number, item]], rows[number], item, output, evaluation)

        return condense

    def _deal(self, rows: Sequence[Rows]) -> list[list[Items]]:
        return deal([of_set.item_lengths.tolist() for of_set in rows], self.batch_size, self.world.size)

    @torch.no_grad()
    def _outputs(
        self, verbs: HeadVerbs, head: str, rows: Sequence[Rows], setting: TrainingPart, condense: Condense
    ) -> Iterator[tuple[int, list[Output]]]:
        """The number of each of `rows` and the outputs of all its items in order, on rank 0 as soon as they have been
        gathered; nothing elsewhere. A collective."""
        gathered = GatheredOutputs([len(of_set) for of_set in rows], self.world)
        asking = Asking(self.world)
        for number, items in self._deal(rows)[self.world.rank]:
            try:
                # Rank 0's clock says when, and all ranks hear of it where they ask whether to stop.
                is_due = asking.stop_or_save(gathered.is_due())
            except Stopped:  # on all ranks alike: what is whole by now is kept
                yield from gathered.gather()
                raise
            if is_due:
                yield from gathered.gather()
            batch, counts = self._batch(verbs, head, rows[number], items, setting)
            logits = self.forward(batch.to(self.world.device), "logits")[head]
            for item, output in zip(items, _split(verbs, logits, counts)):
                gathered.add(number, item, condense(number, item, output))
        yield from gathered.gather()
        gathered.check_complete()

    @torch.no_grad()
    def losses(self, family: Family, head: str, rows: Rows, setting: TrainingPart) -> list[np.ndarray]:
        """The loss of each target of each item [n], in order, on rank 0 ([] elsewhere). A collective."""
        by_item: dict[int, np.ndarray] = {}
        verbs = family.verbs(self.sees)
        asking = Asking(self.world)
        for items in shard(rows.item_lengths.tolist(), self.batch_size, self.world):
            asking.stop_if_requested()
            batch, counts = self._batch(verbs, head, rows, items, setting, learns=True)
            losses = self.forward(batch.to(self.world.device), "losses")
            if items:
                by_item.update(zip(items, np.split(losses[head].cpu().numpy(), np.cumsum(counts)[:-1])))
        return _in_order(self.world.gather(by_item), len(rows))

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

    def write(self, head: str, rows: Rows, decoding: Decoding) -> list[list[list[int]]]:
        """The token ids of each sample of each prompt, on rank 0 ([] elsewhere). A collective.

        Each rank writes for its own prompts. Ranks that share the model take its passes together, as many as the rank
        with the longest program needs.
        """
        forward, finish = self.forward, nothing_to_finish
        if isinstance(forward, ShardedModel):
            stand_in = pack_rows([], self.tokenizer).to(self.world.device)
            forward = LockStep(forward, self.world, stand_in, "next")
            finish = forward.finish
        generator = Generator(forward, self.tokenizer, self.world.device, head, decoding)
        by_item: dict[int, list[list[int]]] = {}
        asking = Asking(self.world)
        for items in shard(rows.item_lengths.tolist(), self.batch_size, self.world):
            asking.stop_if_requested()
            by_item.update(zip(items, generator.write(rows, items) if items else []))
            finish()
        return _in_order(self.world.gather(by_item), len(rows))


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
    if not counts:
        return []
    values = logits.float().cpu().numpy()
    # NaN would still be decoded: argmax answers the first label, and the score would look like a bad model's.
    if not np.isfinite(values).all():
        raise UserError("the model's outputs are not finite; its weights are damaged, train it again")
    return [verbs.output(of_item) for of_item in np.split(values, np.cumsum(counts)[:-1])]
