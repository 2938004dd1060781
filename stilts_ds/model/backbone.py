"""The network below the heads, as the rest sees it: rows in, hidden states out, and the few facts that others need.

Legend: T tokens of all rows, H hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from stilts_ds.errors import UserError, counted
from stilts_ds.model import attention
from stilts_ds.model.attention import Packing
from stilts_ds.model.dropout import hidden_dropout
from stilts_ds.model.heads import HeadShape
from stilts_ds.model.masks import Masks
from stilts_ds.model_kinds import Sees, SentenceToken, sees_of, sentence_token, ties_output
from stilts_ds.rows.batch import Batch

log = logging.getLogger(__name__)
Layer = int | Literal["all"]  # an index into hidden_states, or all of them
ROBUST = "robust.method=random or adversarial"


@dataclass(frozen=True)
class Operations:
    """Operations of a forward and a backward pass: `by_token` for each token, `by_pair` for each pair of tokens of a
    row of which one sees the other. `causal`: a token sees itself and what stands left of it."""

    by_token: int
    by_pair: int
    causal: bool

    def of(self, tokens: float, squares: float) -> float:
        """Of rows that have so many tokens, and so many pairs of any two of a row (the sum of squared lengths)."""
        pairs = (squares + tokens) / 2 if self.causal else squares
        return self.by_token * tokens + self.by_pair * pairs


class Backbone:
    """An encoder or decoder of transformers (`network`), loaded without task head.

    `hidden_states(batch)` gives the hidden states [T, H] of a batch's tokens. `sees` says which tokens of its row a
    token sees, `sentence_token` which token of a row therefore stands for it, `packs` whether rows go through the
    network packed or padded to the longest; both give the same hidden states, which was tried when it was loaded
    (stilts_ds.model.checks). The object owns no parameters: `network` does, and MultiTask holds it.
    """

    def __init__(self, network: Any) -> None:
        config = network.config
        described = config.to_dict()
        self.network = network
        self.sees: Sees = sees_of(described)
        self.sentence_token: SentenceToken = sentence_token(self.sees)
        self.ties_output = ties_output(described)
        # load_encoder has tried it, and left the name of our attention in the configuration where it works.
        self.packs = getattr(config, "_attn_implementation", None) == attention.NAME
        self.uses_token_types = int(getattr(config, "type_vocab_size", 1) or 1) > 1

    @property
    def word_embedding(self) -> torch.Tensor:
        return self.network.get_input_embeddings().weight

    @property
    def embedding_width(self) -> int:
        """Channels of the word embeddings, also where an engine has spread their matrix over ranks. Raises UserError
        for word embeddings that are no table."""
        layer = self.network.get_input_embeddings()
        if not isinstance(layer, nn.Embedding):
            raise UserError(f"{ROBUST} needs word embeddings in a table, and the model's are a {type(layer).__name__}")
        return layer.embedding_dim

    # --- hidden states -----------------------------------------------------------------------------------------------

    def hidden_states(self, batch: Batch, layer: Layer | None = None, masks: Masks | None = None) -> torch.Tensor:
        """Hidden states [T, H] of the last layer, or of index `layer` (0 is the embedding output); [L + 1, T, H] with
        `all`, of the embeddings and L layers from one pass.

        In training, dropout is that of `masks`, inside whose `of(batch)` it must be called then; else torch's own.
        A batch's `disturbance` is added to its word embeddings.
        """
        with self._disturbed(batch):
            return self.packed(batch, layer, masks) if self.packs else self.padded(batch, layer)

    def drop_layers_above(self, layer: int, batch: Batch) -> int:
        """Let go of the layers that hidden state `layer` does not need; returns its index in what is left.

        Tried on `batch`: a network that cannot do without them keeps all its layers.
        """
        count = int(getattr(self.network.config, "num_hidden_layers", 0))
        index = layer if layer >= 0 else count + 1 + layer
        stacks = [
            (parent, name, stack)
            for parent in self.network.modules()
            for name, stack in parent.named_children()
            if isinstance(stack, nn.ModuleList) and len(stack) == count
        ]
        # ALBERT calls one layer many times; of two stacks, such as adapters beside layers, neither alone may be cut.
        if index + 1 >= count or len(stacks) != 1:
            return layer
        [(parent, name, stack)] = stacks
        expected = self.hidden_states(batch, index)
        # One more than is needed: some networks norm what their last layer gives, which would change the state.
        setattr(parent, name, stack[: index + 1])
        try:
            same = torch.equal(self.hidden_states(batch, index), expected)
        except Exception as error:  # a network that counts its layers by its configuration fails in a way of its own
            log.info("all layers are computed: %s", error)
            same = False
        if not same:
            setattr(parent, name, stack)
            return layer
        return index

    @contextmanager
    def _disturbed(self, batch: Batch) -> Iterator[None]:
        """Inside, the word embeddings come out with the batch's disturbance. Padding has none."""
        disturbance = batch.disturbance
        if disturbance is None:
            yield
            return
        calls: list[nn.Module] = []

        def add(module: nn.Module, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
            calls.append(module)
            added = disturbance
            if not self.packs:
                rows, width = embedded.shape[:2]
                table = disturbance.new_zeros((rows * width, disturbance.shape[1]))
                added = table.index_copy(0, batch.row * width + batch.position, disturbance)
            return embedded + added.view(embedded.shape).to(embedded.dtype)

        # A hook, and not `inputs_embeds`: ids still take their way through the layer (Gemma's multiplies by a factor).
        handle = self.network.get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()
        if len(calls) != 1:  # nothing would have been disturbed, or not what was meant
            kind, times = self.network.config.model_type, counted(len(calls), "time")
            raise UserError(f"{ROBUST} does not work with {kind}: it calls its word embeddings {times} a pass")

    def packed(self, batch: Batch, layer: Layer | None = None, masks: Masks | None = None) -> torch.Tensor:
        """All rows as one sequence of T tokens whose positions start again with each row: nothing is paid for
        padding."""
        causal = self.sees == "left"
        packing = Packing(batch.lengths, batch.offsets, causal, masks, batch.prefix, batch.cache)
        position_ids = batch.position + first_position(self.network)
        out = self.network(
            input_ids=batch.input_ids[None],
            position_ids=position_ids[None],
            packing=packing,
            output_hidden_states=layer is not None,
            **self._options(batch.token_type_ids[None]),
        )
        return _layer_of(out, layer)[..., 0, :, :]

    def padded(self, batch: Batch, layer: Layer | None = None, width: int = 0) -> torch.Tensor:
        """Rows padded at their ends to the longest (or to `width`), for networks whose attention cannot be replaced;
        padding is cut off again.

        Raises UserError for rows that are read from left to right behind a prefix: that is an attention of ours."""
        if batch.prefix is not None or batch.cache is not None:
            self.check_packs("programs")
        shape = len(batch.lengths), max(width, *batch.lengths)
        index_in_table = batch.row * shape[1] + batch.position

        def table(values: torch.Tensor, filler: int) -> torch.Tensor:
            return values.new_full((shape[0] * shape[1],), filler).index_copy(0, index_in_table, values).view(shape)

        out = self.network(
            input_ids=table(batch.input_ids, filler(self.network)),
            attention_mask=table(torch.ones_like(batch.input_ids), 0),
            output_hidden_states=layer is not None,
            **self._options(table(batch.token_type_ids, 0)),
        )
        return _layer_of(out, layer).flatten(-3, -2)[..., index_in_table, :]

    def check_packs(self, purpose: str) -> None:
        """Raise UserError where rows are padded, which `purpose` does not go with."""
        if not self.packs:
            raise UserError(
                f"{purpose}: the model's rows have to be packed, and those of {self.network.config.model_type} are "
                "padded here; set model.attn_implementation to `packed`, and take one of the kinds of models that "
                "docs/models.md lists"
            )

    def _options(self, token_types: torch.Tensor) -> dict[str, Any]:
        options: dict[str, Any] = {"token_type_ids": token_types} if self.uses_token_types else {}
        if self.sees == "left":  # training reads whole rows: keys and values of earlier calls would only take memory
            options["use_cache"] = False
        return options

    # --- sizes -------------------------------------------------------------------------------------------------------

    def head_shape(self) -> HeadShape:
        """What heads take from the network."""
        config = self.network.config
        return HeadShape(
            hidden=config.hidden_size,
            embedding=int(self.word_embedding.shape[1]),
            dropout=hidden_dropout(config),
            vocabulary=config.vocab_size,
            epsilon=float(getattr(config, "layer_norm_eps", 1e-5)),
            sees=self.sees,
            ties_output=self.ties_output,
            logit_cap=getattr(config, "final_logit_softcapping", None),
        )

    def operations(self) -> Operations:
        """Of the network's matrix products: 6 for each weight and token, and 12 w for each layer and pair of tokens, w
        the width of all heads together (Narayanan et al. 2021, arXiv 2104.04473, appendix, where w is the hidden size).

        Call it before an engine shards the network.
        """
        network, config = self.network, self.network.config
        tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
        tables.add(id(self.word_embedding))
        # Tables are looked up, not multiplied; biases and norms are vectors.
        weights = sum(p.numel() for p in network.parameters() if p.dim() == 2 and id(p) not in tables)
        width = config.hidden_size
        # Decoders may have heads that are wider or narrower than hidden_size / heads.
        if self.sees == "left" and getattr(config, "head_dim", None):
            width = config.num_attention_heads * config.head_dim
        return Operations(6 * weights, 12 * width * config.num_hidden_layers, self.sees == "left")


def _layer_of(out: Any, layer: Layer | None) -> torch.Tensor:
    if layer is None:
        return out.last_hidden_state
    return torch.stack(out.hidden_states) if layer == "all" else out.hidden_states[layer]


def filler(network: Any) -> int:
    """The token that rows are padded with; no other token sees it. Models without one take the first."""
    return int(getattr(network.config, "pad_token_id", None) or 0)


def first_position(network: Any) -> int:
    """Position id of a row's first token: RoBERTa and its relatives begin behind the padding token's, others at 0."""
    embeddings = getattr(network, "embeddings", None)
    counts_from_padding = hasattr(embeddings, "create_position_ids_from_input_ids")
    return int(embeddings.padding_idx) + 1 if embeddings is not None and counts_from_padding else 0
