"""What a model says of rows: sharded over ranks with exact row counts. A head's outputs are gathered on rank 0; vectors
stay where they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stilts_ds.batches.collate import PackedItems
from stilts_ds.config import SWEEP, EvaluationPart, TrainingPart
from stilts_ds.engine.preempt import Asking, stop_if_requested
from stilts_ds.engine.sharded import LockStep, ShardedModel
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate.embedding import CHUNK, Embedder, batch_count, share_of
from stilts_ds.evaluate.generate import Generator
from stilts_ds.families.base import Family, HeadVerbs, Output, evaluation_masking
from stilts_ds.families.decoding import Decoding
from stilts_ds.model.backbone import Layer
from stilts_ds.model_kinds import Sees
from stilts_ds.rows.batch import Batch, Targets, pack_rows, window_cells
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer

Forward = Callable[..., Any]


def shard(lengths: Sequence[int], batch_size: int, world: World) -> list[list[int]]:
    """This rank's batches of items: longest first, neighbours of like length, the same number on every rank.

    Every item stands in exactly one batch of one rank; ranks with fewer batches get empty ones at the end.
    """
    # Longest first: the batch that needs most memory comes at once, and not at the end of an hour.
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    of_rank = batches[world.rank :: world.size]
    return of_rank + [[]] * (math.ceil(len(batches) / world.size) - len(of_rank))


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

    @torch.no_grad()
    def outputs(self, family: Family, head: str, rows: Rows, setting: TrainingPart) -> list[Output]:
        """Outputs of all items in order, on rank 0 ([] elsewhere). A collective."""
        by_item: dict[int, Output] = {}
        verbs = family.verbs(self.sees)
        asking = Asking(self.world)
        for items in shard(rows.item_lengths.tolist(), self.batch_size, self.world):
            asking.stop_if_requested()
            batch, counts = self._batch(verbs, head, rows, items, setting)
            logits = self.forward(batch.to(self.world.device), "logits")[head]
            by_item.update(zip(items, _split(verbs, logits, counts)))
        return _in_order(self.world.gather(by_item), len(rows))

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
