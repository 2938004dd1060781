"""One shared backbone and one head per label space.

Every forward pass runs ALL heads in one sorted order, on every rank and micro-batch; a head without examples gets an
empty slice. Its loss is a true zero, so each parameter has a gradient in every step, in the same order on all ranks.
That is the one scheme under which DeepSpeed's stages 0-3 and offload agree with a single process: a head that does not
take part otherwise keeps stale gradients (stage 3, offload) or mixes with other heads across ranks (stages 1 and 2).

Meaning: an idle head has a zero gradient. Weight decay and Adam's momentum still act on it, at every stage alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from stilts_ds.model.backbone import Backbone, Layer
from stilts_ds.model.dropout import has_dropout
from stilts_ds.model.heads import Head
from stilts_ds.model.masks import Masks
from stilts_ds.rows.batch import Batch, Targets


class MultiTask(nn.Module):
    """A backbone's network, under the name `encoder` that its files have, and heads.

    forward(batch, "loss") returns (weighted loss sum, per-task loss sums [tasks], per-task target counts [tasks]);
    forward(batch, "logits") returns {head: logits} for the heads in the batch; of heads in chunks, likeliest outputs;
    forward(batch, "losses") returns {head: loss of each target [n]} for the heads in the batch;
    forward(batch, "next") returns {head: logits} of all heads, for the few tokens that decoding reads;
    forward(batch, "hidden", layer) returns the hidden states [T, H] of one layer (0 is the embedding output), or with
    `all` those of every layer [L + 1, T, H].

    """

    def __init__(self, backbone: Backbone, heads: Mapping[str, Head], tasks: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = backbone.network
        # Sorted once, here: every loop over heads below takes this order, on all ranks.
        self.specs = {name: heads[name].spec for name in sorted(heads)}
        self.tasks = tasks
        self.heads = nn.ModuleDict({name: heads[name] for name in self.specs})
        self.masks = Masks()
        self.drops = has_dropout(self)

    @property
    def packs(self) -> bool:
        """Whether rows go through the network without padding."""
        return self.backbone.packs

    @property
    def word_embedding(self) -> torch.Tensor:
        return self.backbone.word_embedding

    def forward(self, batch: Batch, mode: str = "loss", layer: Layer = -1) -> Any:
        if mode == "hidden":
            return self.backbone.hidden_states(batch, layer)
        # Without dropout the masks' mode would cost time in every call of torch.
        if self.training and self.drops and batch.mask_keys is not None:
            with self.masks.of(batch, self.packs):
                return self._outputs(batch, mode, self.masks)
        return self._outputs(batch, mode)

    def _outputs(self, batch: Batch, mode: str, masks: Masks | None = None) -> Any:
        hidden = self.backbone.hidden_states(batch, masks=masks)
        return self._losses(hidden, batch) if mode == "loss" else self._logits(hidden, batch, mode)

    def head(self, name: str) -> Head:
        return cast(Head, self.heads[name])

    def _run_head(self, name: str, hidden: torch.Tensor, targets: Targets, mode: str) -> torch.Tensor:
        """A head's outputs; of heads in chunks its losses or likeliest outputs, where the mode asks for these."""
        read = hidden[targets.tokens]
        head = self.head(name)
        options: dict[str, Any] = {}
        if head.ties_embeddings:
            options["embedding"] = self.word_embedding
        if head.in_chunks:
            learns = mode in ("loss", "losses")
            options |= {"gold": targets.gold if learns else None, "likeliest": mode == "logits"}
        with self.masks.reading(targets.tokens):
            return head(read, **options)

    def _losses(self, hidden: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        total = hidden.new_zeros((), dtype=torch.float32)
        sums = torch.zeros(self.tasks, dtype=torch.float32, device=hidden.device)
        counts = torch.zeros(self.tasks, dtype=torch.float32, device=hidden.device)
        for name in self.specs:  # sorted by name
            head = self.head(name)
            targets = batch.heads.get(name) or head.no_targets(hidden.device)
            losses = head.losses(self._run_head(name, hidden, targets, "loss"), targets)
            # A head without targets adds an empty sum: zero, and with it a true zero gradient.
            total = total + (losses * targets.weight).sum()
            # Losses by task are for the curves only, so they keep no graph.
            sums.index_add_(0, targets.task, losses.detach())
            counts.index_add_(0, targets.task, torch.ones_like(losses))
        return total, sums, counts

    def _logits(self, hidden: torch.Tensor, batch: Batch, mode: str) -> dict[str, torch.Tensor]:
        """Logits, or losses, of every head in sorted order (all run, so that ZeRO-3 ranks gather alike)."""
        out = {}
        for name in self.specs:
            head = self.head(name)
            targets = batch.heads.get(name) or head.no_targets(hidden.device)
            output = self._run_head(name, hidden, targets, mode)
            out[name] = (head.losses(output, targets) if mode == "losses" else output).float()
        return out
