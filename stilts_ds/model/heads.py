"""Output heads, one class per task family. Each turns hidden states into logits and logits into loss terms.

Shapes: m tokens that a head reads, H hidden size, n targets (see stilts_ds.batches.collate.Targets).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

from stilts_ds.batches.collate import Targets
from stilts_ds.errors import UserError


@dataclass(frozen=True)
class HeadSpec:
    """A head as data: `labels` in index order (empty for span, choice and text); `width` is the choices a question."""

    name: str
    family: str
    labels: tuple[str, ...] = ()
    width: int = 1

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "labels": list(self.labels)}


class SentenceHead(nn.Module):
    """Dense, tanh, projection of the first token (RobertaClassificationHead's form): pair and choice."""

    def __init__(self, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.dense(self.dropout(features)))
        return self.out_proj(self.dropout(hidden))


class TokenHead(nn.Module):
    """Dropout and projection of each token: tag and span."""

    def __init__(self, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.out_proj(self.dropout(features))


class MaskedLanguageModelHead(nn.Module):
    """Dense, GELU, LayerNorm, then the word embeddings as decoder (XLMRobertaLMHead's form, tied)."""

    def __init__(self, hidden: int, vocabulary: int, epsilon: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.layer_norm = nn.LayerNorm(hidden, eps=epsilon)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, features: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        return F.linear(self.layer_norm(F.gelu(self.dense(features))), embedding, self.bias)


def set_language_head(head: nn.Module, found: dict[str, torch.Tensor], source: str) -> None:
    """Load pretrained weights [dense, layer_norm, bias] into a language modelling head.

    Raises UserError where a shape differs.
    """
    for name, parameter in head.named_parameters():
        if parameter.shape != found[name].shape:
            shapes = f"{list(found[name].shape)}, expected {list(parameter.shape)}"
            raise UserError(f"{source}: lm_head.{name} has shape {shapes}; the folder mixes the files of two models")
        parameter.data.copy_(found[name])


def build_head(spec: HeadSpec, hidden: int, dropout: float, vocabulary: int, epsilon: float) -> nn.Module:
    if spec.family == "text":
        head: nn.Module = MaskedLanguageModelHead(hidden, vocabulary, epsilon)
    elif spec.family in ("pair", "choice"):
        head = SentenceHead(hidden, len(spec.labels) if spec.family == "pair" else 1, dropout)
    else:
        head = TokenHead(hidden, 2 if spec.family == "span" else len(spec.labels), dropout)
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return head


def losses(spec: HeadSpec, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Cross-entropy of each target, float32 [n]; for span, the mean of the start's and the end's."""
    logits = logits.float()
    if spec.family == "choice":
        logits = logits.reshape(-1, spec.width)
    if spec.family != "span":
        return F.cross_entropy(logits, targets.gold, reduction="none")
    table = by_window(logits, targets)
    start = F.cross_entropy(table[..., 0], targets.gold[:, 0], reduction="none")
    return (start + F.cross_entropy(table[..., 1], targets.gold[:, 1], reduction="none")) / 2


def by_window(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Logits of windows one after the other [m, 2] as a table [n, longest, 2]; no token can be chosen behind an end."""
    assert targets.cells is not None
    table = logits.new_full((len(targets.gold), targets.longest, 2), torch.finfo(logits.dtype).min)
    return table.index_put((targets.cells[:, 0], targets.cells[:, 1]), logits)
