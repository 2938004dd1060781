"""Output heads: modules that turn hidden states into logits and logits into loss terms.

A family's head.py says which of them it uses, with how many outputs and which loss.

Shapes: m tokens that a head reads, H hidden size, C outputs, n targets (see stilts_ds.rows.batch.Targets).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from stilts_ds.errors import UserError
from stilts_ds.model_kinds import Sees
from stilts_ds.rows.batch import Targets


@dataclass(frozen=True)
class HeadSpec:
    """A head as data: `labels` in index order (empty for span, choice and text); `width` is the choices a question."""

    name: str
    family: str
    labels: tuple[str, ...] = ()
    width: int = 1

    def to_json(self) -> dict[str, object]:
        # JSON has no tuples; what is read back must equal what was written.
        return {**asdict(self), "labels": list(self.labels)}


@dataclass(frozen=True)
class HeadShape:
    """What a head takes from the backbone: hidden size, width of word embeddings, dropout, vocabulary size, epsilon of
    LayerNorm; which way tokens see; and of a decoder's own output layer, whether it is the word embeddings and what
    its logits are capped at (softly; None: they are not)."""

    hidden: int
    embedding: int
    dropout: float
    vocabulary: int
    epsilon: float
    sees: Sees = "both"
    ties_output: bool = True
    logit_cap: float | None = None


class Head(nn.Module):
    """A head of one label space. `ties_embeddings`: its forward also takes the encoder's word embeddings.

    `in_chunks`: it has so many outputs that those of all targets are never in memory at once. Its forward takes `gold`
    and gives loss terms [n], or takes `likeliest` and gives the index of each token's largest logit [m, 1].
    """

    ties_embeddings = False
    in_chunks = False

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec

    def losses(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Cross-entropy of each target over the outputs, float32 [n]."""
        # Term by term, because each has a weight of its own; float32, since logits may be of half precision.
        return F.cross_entropy(logits.float(), targets.gold, reduction="none")

    def no_targets(self, device: torch.device) -> Targets:
        """Targets of a batch in which the head has nothing to do."""
        none = torch.zeros(0, dtype=torch.long, device=device)
        return Targets(none, none, torch.zeros(0, device=device), none, None)

    def reset_parameters(self) -> None:
        """New weights as BERT's: normal with standard deviation 0.02, biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


class SentenceHead(Head):
    """Dense, tanh, projection of the sentence token (RobertaClassificationHead's form): [m, H] to [m, C]."""

    def __init__(self, spec: HeadSpec, shape: HeadShape, outputs: int) -> None:
        super().__init__(spec)
        self.dense = nn.Linear(shape.hidden, shape.hidden)
        self.dropout = nn.Dropout(shape.dropout)
        self.out_proj = nn.Linear(shape.hidden, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.dense(self.dropout(features)))
        return self.out_proj(self.dropout(hidden))


class TokenHead(Head):
    """Dropout and projection of each token: [m, H] to [m, C]."""

    def __init__(self, spec: HeadSpec, shape: HeadShape, outputs: int) -> None:
        super().__init__(spec)
        self.dropout = nn.Dropout(shape.dropout)
        self.out_proj = nn.Linear(shape.hidden, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.out_proj(self.dropout(features))


CHUNK = 256  # tokens whose logits are in memory at once: 256 MB of XLM-R's


class LanguageHead(Head):
    """Scores over the vocabulary: some layers, and an output layer that is mostly the word embeddings.

    `in_chunks`: logits are made chunk by chunk, and again in the backward pass.
    """

    def __init__(self, spec: HeadSpec, in_chunks: bool) -> None:
        super().__init__(spec)
        self.in_chunks = in_chunks

    def before_output(self, features: torch.Tensor) -> torch.Tensor:
        """What the output layer reads, [m, H] to [m, E]."""
        return features

    def output(self, features: torch.Tensor, embedding: torch.Tensor | None) -> torch.Tensor:
        """Logits, [m, E] to [m, V]."""
        raise NotImplementedError

    def forward(
        self,
        features: torch.Tensor,
        embedding: torch.Tensor | None = None,
        gold: torch.Tensor | None = None,
        likeliest: bool = False,
    ) -> torch.Tensor:
        # The layers before the output are small and run once: ZeRO-3 would not expect them again.
        before = self.before_output(features)
        if gold is not None:
            pairs = zip(before.split(CHUNK), gold.split(CHUNK))
            return torch.cat([self._losses_again(chunk, embedding, chunk_gold) for chunk, chunk_gold in pairs])
        if likeliest:
            return torch.cat([self._likeliest(chunk, embedding) for chunk in before.split(CHUNK)])
        return self.output(before, embedding)

    def _losses_again(self, chunk: torch.Tensor, embedding: torch.Tensor | None, gold: torch.Tensor) -> torch.Tensor:
        """Loss terms of a chunk whose logits are computed once more in the backward pass, in place of being kept."""

        def losses(read: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
            return F.cross_entropy(self.output(read, weight).float(), gold, reduction="none")

        return checkpoint(losses, chunk, embedding, use_reentrant=False, preserve_rng_state=False)

    def _likeliest(self, chunk: torch.Tensor, embedding: torch.Tensor | None) -> torch.Tensor:
        """The index of each token's largest logit [m, 1], NaN where there is none; in float32, which holds them all."""
        largest, index = self.output(chunk, embedding).max(-1, keepdim=True)
        return index.float().masked_fill(~largest.isfinite(), torch.nan)

    def losses(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        """As of any head; in chunks, forward has computed them."""
        return logits if self.in_chunks else super().losses(logits, targets)


class MaskedLanguageModelHead(LanguageHead):
    """Dense, GELU, LayerNorm, then the word embeddings as decoder (XLMRobertaLMHead's form, tied).

    Where those are narrower than hidden states (ELECTRA, ALBERT), the dense layer leads to their width, as there.
    """

    ties_embeddings = True

    def __init__(self, spec: HeadSpec, shape: HeadShape, in_chunks: bool = False) -> None:
        super().__init__(spec, in_chunks)
        self.dense = nn.Linear(shape.hidden, shape.embedding)
        self.layer_norm = nn.LayerNorm(shape.embedding, eps=shape.epsilon)
        # The bias is the head's own, while the matrix is the encoder's.
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))

    def before_output(self, features: torch.Tensor) -> torch.Tensor:
        return self.layer_norm(F.gelu(self.dense(features)))

    def output(self, features: torch.Tensor, embedding: torch.Tensor | None) -> torch.Tensor:
        assert embedding is not None
        return F.linear(features, embedding, self.bias)


class NextTokenHead(LanguageHead):
    """A decoder's own output layer: scores of the next token from each token's hidden state, [m, H] to [m, V].

    It is the word embeddings, or a matrix of its own (`weight`) where the decoder does not tie the two. Logits are
    capped as the decoder does it: cap * tanh(logit / cap) (Gemma Team 2024, arXiv 2408.00118, section 2).
    """

    def __init__(self, spec: HeadSpec, shape: HeadShape, in_chunks: bool = False) -> None:
        super().__init__(spec, in_chunks)
        self.ties_embeddings = shape.ties_output
        self.cap = shape.logit_cap
        if not shape.ties_output:
            self.weight = nn.Parameter(torch.empty(shape.vocabulary, shape.hidden))

    def output(self, features: torch.Tensor, embedding: torch.Tensor | None) -> torch.Tensor:
        logits = F.linear(features, self.weight if embedding is None else embedding)
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def reset_parameters(self) -> None:
        if not self.ties_embeddings:
            nn.init.normal_(self.weight, std=0.02)


def set_language_head(head: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Load pretrained weights into a language modelling head, by the names of its parameters.

    Raises UserError where a shape differs.
    """
    for name, parameter in head.named_parameters():
        if parameter.shape != weights[name].shape:
            shapes = f"{list(weights[name].shape)}, expected {list(parameter.shape)}"
            raise UserError(f"{source}: lm_head.{name} has shape {shapes}; the folder mixes the files of two models")
        # In place: the parameter stays the one that the model has registered.
        parameter.data.copy_(weights[name])
