"""Small random models and tasks, so that engine tests need no data and no tokenizer file."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from row_builder import RowsBuilder

from stilts_ds.batches.collate import TaskRows
from stilts_ds.families.build import build_model
from stilts_ds.families.registry import get_family
from stilts_ds.model import attention
from stilts_ds.model.encoder import pack
from stilts_ds.model.heads import HeadSpec
from stilts_ds.model.multitask import MultiTask
from stilts_ds.rows.tokenizer import TokenTemplate

VOCABULARY = 60
SPECS = [
    HeadSpec("nli", "pair", ("a", "b", "c")),
    HeadSpec("copa", "choice", width=2),
    HeadSpec("squad", "span"),
    HeadSpec("tags", "tag", ("X", "Y", "Z", "W")),
    HeadSpec("mlm", "text"),
    HeadSpec("nli2", "pair", ("x", "y", "z")),
]


# Trained retrieval beside a task of another kind: each step is of one of them.
RANKED = [HeadSpec("nli", "pair", ("a", "b", "c")), HeadSpec("reqa", "ranking", width=2)]

# Programs beside a task of another kind: rows of both ways to read stand in one batch.
CODED = [HeadSpec("nli", "pair", ("a", "b", "c")), HeadSpec("code", "generate")]


def tokenizer_stub() -> SimpleNamespace:
    return SimpleNamespace(
        template=TokenTemplate((0,), (2, 2), (2,), (2,)),
        sees="both",
        pad=1,
        unk=3,
        mask=VOCABULARY - 1,
        special=frozenset({0, 1, 2, 3, VOCABULARY - 1}),
        vocabulary=VOCABULARY,
    )


def model(
    seed: int = 0,
    dropout: float = 0.0,
    hidden: int = 16,
    layers: int = 2,
    vocabulary: int = VOCABULARY,
    specs: list[HeadSpec] = SPECS,
    heads: int = 2,
    packed: bool = True,
) -> MultiTask:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(seed)
    config = XLMRobertaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        layer_norm_eps=1e-5,
    )
    encoder = XLMRobertaModel(config, add_pooling_layer=False)
    if packed:
        pack(encoder, "small")
        assert encoder.config._attn_implementation == attention.NAME
    return build_model(encoder, specs, len(specs))


def tasks(
    specs: list[HeadSpec] = SPECS, count: int = 24, length: int = 14, vocabulary: int = VOCABULARY
) -> dict[str, TaskRows]:
    """`count` random items a task, of unequal lengths."""
    found = {}
    for index, spec in enumerate(specs):
        rng = np.random.default_rng([7, index])
        out = RowsBuilder(
            labels=spec.family in ("pair", "choice"), spans=spec.family == "span", tags=spec.family == "tag",
            prefixes=spec.family == "generate",
        )  # fmt: skip
        for item in range(count):
            for _ in range(spec.width):
                ids = [0, *rng.integers(4, vocabulary - 1, int(rng.integers(2, length))).tolist(), 2]
                second = int(rng.integers(2, len(ids))) if spec.family == "generate" else len(ids)
                out.add_row(ids, second, item)
            out.end_item()
            if out.label is not None:
                out.label.append(int(rng.integers(max(len(spec.labels), spec.width))))
            if out.span is not None:
                first = int(rng.integers(0, len(ids) - 1))
                out.span.append((first, int(rng.integers(first, len(ids)))))
            if out.token_label is not None:
                labels = rng.integers(-1, len(spec.labels), len(ids))
                labels[1] = 0
                out.token_label.append(labels.astype(np.int32))
        found[spec.name] = TaskRows(spec.name, index, get_family(spec.family), spec.name, out.rows())
    return found
