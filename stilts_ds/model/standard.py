"""An encoder and one of our heads as the class that transformers has for them, where it has one that computes the same.

Heads are laid out in the ways below. Which one a class has is seen by its parameters, and that it computes what ours
does is tried on rows of tokens, before anything is written.

Legend: R rows, L tokens of a row, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stilts_ds.errors import UserError
from stilts_ds.model.heads import Head
from stilts_ds.model.multitask import MultiTask

# Our parameters of a head -> names in a class, `{base}` for the part that is the encoder; the first that fits is taken.
LAYOUTS: tuple[Mapping[str, str], ...] = (
    {"dense": "classifier.dense", "out_proj": "classifier.out_proj"},  # RoBERTa
    {"dense": "{base}.pooler.dense", "out_proj": "classifier"},  # BERT, and multiple choice of all
    {"dense": "{base}.pooler", "out_proj": "classifier"},  # ALBERT
    {"out_proj": "classifier"},
    {"out_proj": "score"},  # decoders
    {"out_proj": "qa_outputs"},
    {"dense": "lm_head.dense", "layer_norm": "lm_head.layer_norm", "bias": "lm_head.bias"},
    {
        "dense": "cls.predictions.transform.dense",
        "layer_norm": "cls.predictions.transform.LayerNorm",
        "bias": "cls.predictions.bias",
    },
    {"": "lm_head"},  # the output layer of a decoder alone
    {},  # a decoder whose output layer is its word embeddings
)
TRIED_ROWS, TRIED_LENGTH = 4, 24
TOLERANCE = 1e-4  # of logits, relative to the largest: two ways to compute attention differ by 1e-6


def standard_model(
    folder: Path, class_name: str, head: Head, encoder: Mapping[str, torch.Tensor], labels: Sequence[str], outputs: int
) -> Any:
    """The model of a transformers class with the configuration in `folder`, an encoder's weights and a head's.

    `outputs` is C, `labels` are their names where they have some. Raises UserError where transformers has no such class
    for this kind of model, or none with a head of our form.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    names = list(labels) or [f"LABEL_{number}" for number in range(outputs)]
    # Both ways at once: setting one of them alone would leave the count of the other.
    config.update({"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}})
    auto_class = getattr(transformers, class_name)
    if type(config) not in auto_class._model_mapping:
        raise UserError(f"transformers has no {class_name} for models of the kind {config.model_type!r}")
    with torch.random.fork_rng():  # the weights that it draws are replaced
        model = auto_class.from_config(config, attn_implementation="eager").float().eval()
    base = model.base_model_prefix
    state = {f"{base}.{name}": tensor for name, tensor in encoder.items()} | _head_state(model, base, head, config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    unset = [name for name in missing if name not in tied and not name.startswith(f"{base}.pooler")]
    if unset or unexpected:
        raise _no_such_head(class_name, config, ", ".join([*unset, *unexpected][:3]))
    model.tie_weights()
    return model


def _head_state(model: Any, base: str, head: Head, config: Any) -> dict[str, torch.Tensor]:
    """The head's parameters under the class's names."""
    ours = head.state_dict()
    known = model.state_dict()
    for layout in LAYOUTS:
        state = {}
        for name, tensor in ours.items():
            module, _, kind = name.rpartition(".")
            # `bias` of a language head is a parameter of the head itself, and `weight` of a decoder's, too.
            target = layout.get(name) or (f"{layout[module]}.{kind}" if module in layout else None)
            if target is not None:
                state[target.format(base=base)] = tensor
        fits = all(name in known and known[name].shape == tensor.shape for name, tensor in state.items())
        if len(state) == len(ours) and fits:
            return state
    raise _no_such_head(type(model).__name__, config, ", ".join(ours))


def _no_such_head(class_name: str, config: Any, names: str) -> UserError:
    return UserError(
        f"{class_name} of {config.model_type!r} has no head of this form ({names}); the phase's own encoder/ and "
        "heads.safetensors are the model"
    )


def check_same_outputs(model: Any, ours: MultiTask, name: str, width: int) -> None:
    """Raise UserError where a standard model says something else than ours, on rows of tokens drawn at random.

    `width` are the rows of an item (the choices of a question).
    """
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(11)
    shape = (TRIED_ROWS * width, TRIED_LENGTH)
    ids = torch.randint(min(10, vocabulary - 1), vocabulary, shape, generator=generator)
    with torch.no_grad():
        expected = _our_outputs(ours, name, ids)
        given = _standard_outputs(model, ids, width)
    # A class may read one token of a row where ours gives outputs of all.
    if given.dim() == 2 and expected.dim() == 3:
        expected = expected[:, 0 if ours.backbone.sees == "both" else -1]
    difference = (given.reshape(expected.shape) - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    if not difference <= TOLERANCE:
        problem = f"{type(model).__name__} computes other scores than the phase's head (off by {difference:.1e})"
        raise UserError(f"{problem}; the phase's own encoder/ and heads.safetensors are the model")


def _our_outputs(ours: MultiTask, name: str, ids: torch.Tensor) -> torch.Tensor:
    """The head's outputs at every token, [R, L, C]."""
    hidden = ours.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    head: Any = ours.heads[name]
    features = hidden.reshape(-1, hidden.shape[-1])
    logits = head(features, ours.word_embedding) if head.ties_embeddings else head(features)
    return torch.as_tensor(logits).reshape(*ids.shape, -1)


def _standard_outputs(model: Any, ids: torch.Tensor, width: int) -> torch.Tensor:
    """[R, C], [R, L, C], or for choices [R, 1]."""
    grouped = ids.reshape(-1, width, ids.shape[1]) if "MultipleChoice" in type(model).__name__ else ids
    output = model(input_ids=grouped, attention_mask=torch.ones_like(grouped))
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], -1)
    logits = torch.as_tensor(output.logits)
    return logits.reshape(-1, 1) if grouped is not ids else logits
