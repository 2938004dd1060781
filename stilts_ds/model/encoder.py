"""Hugging Face encoders and decoders in and out: the only module that loads or saves a transformer."""

from __future__ import annotations

import copy
import inspect
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from stilts_ds.config import ModelPart
from stilts_ds.errors import UserError, counted, first_line, is_out_of_memory
from stilts_ds.model import attention
from stilts_ds.model.backbone import Backbone
from stilts_ds.model.checks import check_dropout, check_hidden_states, packs_exactly
from stilts_ds.model.dropout import set_dropout
from stilts_ds.model.masks import Masks
from stilts_ds.model_files import check_folder, read_config, refuse_own_code
from stilts_ds.model_kinds import encoder_decoder
from stilts_ds.weight_files import REMEDY, pickled_tensors, shards_in

log = logging.getLogger(__name__)
CPU = torch.device("cpu")
NameOf = Callable[[str], "str | None"]  # a checkpoint's parameter -> what it is called here; None: not wanted


def quiet() -> None:
    """Silence transformers' progress bars and notes; its errors come back as exceptions."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_encoder(
    path: str | Path, setting: ModelPart, revision: str | None = None, device: torch.device = CPU, dtype: str = "fp32"
) -> nn.Module:
    """Load the encoder or decoder of any checkpoint in float32 on the CPU, without pooler or task head.

    With `attn_implementation: packed` it takes packed rows where that gives its own hidden states, which is tried on
    the `device` and in the `dtype` (of `engine.dtype`) that it will run with; the log says so where it does not.

    Raises UserError for a folder without configuration or weights, weights that do not fit the configuration, a model
    that is code of its own, which is never run, and one that makes no hidden states of rows of tokens, with the reason.
    """
    check_folder(path)
    try:
        model_class, arguments = _network_class(path, setting, revision)
        model, info = model_class.from_pretrained(
            str(path),
            revision=revision,
            output_loading_info=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # refused below, by name
            **arguments,
        )
    except UserError:
        raise
    except Exception as error:  # a configuration of strange values ends in every kind
        if is_out_of_memory(error):  # of which the folder is innocent; whoever loads says what to do
            raise
        refuse_own_code(path, error)
        remedy = "give a folder that save_pretrained wrote, or copy it again"
        raise UserError(f"cannot load a model from {path}: {first_line(error)}; {remedy}") from error
    if info["mismatched_keys"]:
        name, stored, expected = sorted(info["mismatched_keys"])[0]
        raise UserError(
            f"{path}: {name} has shape {list(stored)}, but config.json makes it {list(expected)}; "
            "the folder mixes the files of two models"
        )
    missing = [k for k in info["missing_keys"] if "position_ids" not in k and "token_type_ids" not in k]
    if missing:
        raise UserError(
            f"{path}: weights are missing for {counted(len(missing), 'parameter')}, such as {sorted(missing)[0]}; "
            "the folder holds another model or only a part of one"
        )
    check_hidden_states(model, str(path))
    backbone = Backbone(model)
    if backbone.sees == "left":
        log.info("%s: it reads from left to right; a row's %s token stands for it", path, backbone.sentence_token)
    if setting.dropout is not None:
        check_dropout(model, setting.dropout, str(path))
    if setting.attn_implementation == "packed":
        pack(model, str(path), device, dtype)
    return model


def unfilled_encoder(path: str | Path, setting: ModelPart, revision: str | None, packs: bool) -> nn.Module:
    """The network that `load_encoder` makes of a checkpoint, for a process that gets its weights from another one.

    Reads the configuration and no weights: parameters are memory that nothing was written to, which costs none.
    `packs`: whether that process found that the network takes packed rows.
    """
    from transformers.initialization import no_init_weights

    model_class, arguments = _network_class(path, setting, revision)
    config = arguments.pop("config")
    with no_init_weights():
        model = model_class._from_config(config, **arguments)
    model.tie_weights()
    if packs:
        use_packed_attention(model)
    network: nn.Module = model.eval()  # as from_pretrained leaves it
    return network


def _network_class(path: str | Path, setting: ModelPart, revision: str | None) -> tuple[Any, dict[str, Any]]:
    """The class of a checkpoint's network without task head, and the arguments to make it with."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(str(path), revision=revision, trust_remote_code=False)
    check_kind(config, str(path))
    if setting.dropout is not None:
        set_dropout(config, setting.dropout)
    model_class: Any = AutoModel._model_mapping[type(config)]
    if isinstance(model_class, tuple):  # such as Funnel's: with and without its decoder of lengths
        model_class = model_class[0]
    takes_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    arguments: dict[str, Any] = {"config": config, "dtype": torch.float32}
    if setting.attn_implementation != "packed":  # which is tried when the weights are there
        arguments["attn_implementation"] = setting.attn_implementation
    if takes_pooler:
        arguments["add_pooling_layer"] = False
    return model_class, arguments


def check_kind(config: Any, name: str) -> None:
    """Raise UserError for a kind of model that does not read tokens of any language by itself, as its configuration
    says."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as TO_SEQUENCES

    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False) or kind in TO_SEQUENCES:
        raise encoder_decoder(name, kind)
    if getattr(config, "is_decoder", False):
        problem = "is_decoder makes an encoder of it that reads from left to right, which no head was made for"
    elif "text_config" in config.sub_configs:
        parts = ", ".join(sorted(config.sub_configs))
        problem = f"it reads texts beside images or sounds ({parts}), and no part of it is taken alone"
    elif getattr(config, "vocab_size", None) is None:
        problem = "it has no vocabulary of tokens; it reads characters, images or sounds"
    elif kind == "xmod" or (getattr(config, "use_lang_emb", False) and int(getattr(config, "n_langs", 1)) > 1):
        problem = "it needs the language of each text (adapters or embeddings of languages), which it does not get here"
    else:
        return
    raise UserError(f"{name} ({kind}): {problem}; use another model")


def pack(model: Any, name: str, device: torch.device = CPU, dtype: str = "fp32") -> None:
    """Let a model take packed rows, if it gives the same hidden states so on `device`. It comes back to the CPU."""
    register_packed_attention()
    try:
        same = packs_exactly(model.to(device), attention.NAME, device, dtype)
    except torch.OutOfMemoryError:  # ZeRO-3 trains models that no one device holds
        log.warning("%s: whole, it is too large for %s; whether rows can be packed is tried on the CPU", name, device)
        same = packs_exactly(model.to(CPU), attention.NAME, CPU, dtype)
    model.to(CPU)
    if same:
        log.info("%s: rows are packed, none is padded", name)
    else:
        log.warning("%s: packed rows give it other hidden states; rows are padded to the longest of a batch", name)


def use_packed_attention(model: Any) -> None:
    """Let a model take packed rows that is known to give the same hidden states so."""
    register_packed_attention()
    model.set_attn_implementation(attention.NAME)


def register_packed_attention() -> None:
    """Give transformers our attention, under its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(attention.NAME, attention.packed_attention)


def recompute_activations(model: Any, masks: Masks | None) -> None:
    """Gradient checkpointing, under the name that newer versions of transformers give it, or its older one. What is
    computed again draws the same `masks`; None for a model without dropout."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    contexts = {} if masks is None else {"context_fn": masks.again}
    enable({"use_reentrant": False, **contexts})


def compile_layers(model: Any) -> None:
    """Compile each layer of an encoder in place, once for all batch shapes. Parameters keep their names.

    Packed attention stays as it is: its calls depend on the rows' lengths, and each batch would be compiled anew.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(attention.NAME, torch.compiler.disable(attention.packed_attention))
    layers = max((module for module in model.modules() if isinstance(module, torch.nn.ModuleList)), key=len)
    for layer in layers:
        layer.compile(dynamic=True)
    log.info("%d encoder layers are compiled in the first steps", len(layers))


# Parts of a checkpoint's language modelling head and what they are here: RoBERTa's relatives, and BERT's.
HEAD_PARTS = (
    ("lm_head.", ""),
    ("cls.predictions.transform.dense.", "dense."),
    ("cls.predictions.transform.LayerNorm.", "layer_norm."),
    ("cls.predictions.", ""),
)
OLD_NAMES = {"layer_norm.gamma": "layer_norm.weight", "layer_norm.beta": "layer_norm.bias"}
LANGUAGE_HEAD = ("dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias", "bias")
OUTPUT_LAYER = ("lm_head.weight", "embed_out.weight")  # a decoder's, where it is not its word embeddings


def read_language_head(path: str | Path, revision: str | None = None) -> dict[str, torch.Tensor] | None:
    """The language modelling head of XLM-R, BERT and their relatives (HEAD_PARTS), float32 on the CPU.

    Only these tensors are read. None where the checkpoint has no such head, only a part of it or, in BERT's form, one
    with another activation than GELU. Its decoder is the word embeddings, and so is not read.
    """
    tensors = _read_tensors(str(path), revision, _name_in_head)
    # Older checkpoints hold the bias of the output as the decoder's.
    if "bias" not in tensors and "decoder.bias" in tensors:
        tensors["bias"] = tensors["decoder.bias"]
    if not set(LANGUAGE_HEAD) <= set(tensors) or _activation(str(path), revision) != "gelu":
        return None
    return {name: tensors[name].float() for name in LANGUAGE_HEAD}


def read_output_layer(path: str | Path, revision: str | None = None) -> dict[str, torch.Tensor] | None:
    """A decoder's output layer where it is a matrix of its own, float32 on the CPU; None where it was not kept."""
    tensors = _read_tensors(str(path), revision, lambda key: "weight" if key in OUTPUT_LAYER else None)
    return {"weight": tensors["weight"].float()} if tensors else None


def _read_tensors(path: str, revision: str | None, name_of: NameOf) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint that `name_of` gives a name, by that name."""
    tensors: dict[str, torch.Tensor] = {}
    for file in _weight_files(path, revision, name_of):
        try:
            tensors |= _tensors_in(file, name_of)
        except (MemoryError, UserError):
            raise
        except Exception as error:  # damaged files end in every kind
            raise UserError(f"cannot read the weights in {file}: {first_line(error)}; {REMEDY}") from error
    return tensors


def _activation(path: str, revision: str | None) -> str:
    from transformers.utils import cached_file

    file = cached_file(path, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    config = {} if file is None else read_config(Path(file).parent)
    return str(config.get("hidden_act", "gelu"))


def _weight_files(path: str, revision: str | None, name_of: NameOf) -> list[Path]:
    """The weight files of a folder or hub model that hold what `name_of` names; several where the model is split."""
    from transformers.utils import cached_file

    for name in ("model.safetensors", "pytorch_model.bin"):
        quietly: dict[str, Any] = dict.fromkeys(
            ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False
        ) | {"revision": revision}
        whole = cached_file(path, name, **quietly)
        if whole is not None:
            return [Path(whole)]
        index = cached_file(path, f"{name}.index.json", **quietly)
        if index is not None:
            shard_of = shards_in(Path(index))
            # Only the shards that are asked for: a head lies in one of many gigabytes.
            shards = sorted({shard for key, shard in shard_of.items() if name_of(key)})
            return [Path(file) for shard in shards if (file := cached_file(path, shard, **quietly)) is not None]
    return []


def _tensors_in(file: Path, name_of: NameOf) -> dict[str, torch.Tensor]:
    if file.suffix != ".safetensors":
        return {name: value for key, value in pickled_tensors(file).items() if (name := name_of(key))}
    with safe_open(file, "pt") as stored:
        return {name: stored.get_tensor(key) for key in stored.keys() if (name := name_of(key))}  # noqa: SIM118


def _name_in_head(key: str) -> str | None:
    """What a checkpoint's parameter is in a language modelling head; None outside of it, and for the decoder."""
    for prefix, ours in HEAD_PARTS:
        if key.startswith(prefix):
            name = ours + key.removeprefix(prefix)
            return None if name.endswith("decoder.weight") else OLD_NAMES.get(name, name)
    return None


def _language_model(
    model: Any, state: dict[str, torch.Tensor], output_layer: torch.Tensor
) -> tuple[Any, dict[str, torch.Tensor]]:
    """A decoder with its output layer, without memory for weights of its own, and its parameters."""
    from transformers import AutoModelForCausalLM

    # A copy: the live model, which goes on training, reads the name of its attention there.
    config = copy.deepcopy(model.config)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    output = whole.get_output_embeddings()
    name = next(name for name, module in whole.named_modules() if module is output)
    parameters = {f"{whole.base_model_prefix}.{key}": value for key, value in state.items()}
    return whole, {**parameters, f"{name}.weight": output_layer}


def save_encoder(
    model: Any, state: dict[str, torch.Tensor], folder: Path, output_layer: torch.Tensor | None = None
) -> None:
    """Write `state` (this network's parameters, float32, on the CPU) so that AutoModel.from_pretrained loads it.

    With a decoder's trained `output_layer`, AutoModelForCausalLM loads the whole language model from the same folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = model
    if output_layer is not None:
        whole, state = _language_model(model, state, output_layer)
    whole.save_pretrained(folder, state_dict=state)
    # transformers writes the type of the live model, which DeepSpeed has cast, and loads weights in the type that is
    # written: what everybody else loads would be rounded, and not the model that was scored.
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("dtype", "float32") != "float32":
        config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_generation_config(folder: Path, end: int, never_written: Sequence[int]) -> None:
    """Let `generate` of transformers write from `folder` what we write: up to the token `end`, and without some tokens.

    What the pretrained model came with is not kept: its penalties and temperatures would change what is written.
    """
    from transformers import GenerationConfig

    suppressed = list(never_written) or None
    GenerationConfig(eos_token_id=end, pad_token_id=end, suppress_tokens=suppressed).save_pretrained(folder)
