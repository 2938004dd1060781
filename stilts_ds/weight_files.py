"""The weight files of a model folder: which there are, whether they are whole, and what their headers say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from stilts_ds.errors import UserError, first_line
from stilts_ds.run_dir import read_json

if TYPE_CHECKING:
    import torch

REMEDY = "convert the model to safetensors, or copy it again"


def weight_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])


def check_weights(folder: Path) -> None:
    """Raise UserError where a weight file is missing, cut short, or no safetensors file although it is called so."""
    files = weight_files(folder)
    for index in folder.glob("*.safetensors.index.json"):
        wanted = set(shards_in(index).values())
        missing = sorted(wanted - {file.name for file in files})
        if missing:
            raise UserError(f"{folder} lacks {missing[0]}, which {index.name} names; fetch the model again")
    if not files:
        raise UserError(f"{folder} has no weights (*.safetensors or pytorch_model*.bin); fetch the model again")
    for file in files:
        if file.suffix == ".safetensors":
            length, header = weights_header(file)
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            # safetensors: eight bytes with the header's length, the header, and the tensors behind it.
            expected = 8 + length + max(ends, default=0)
            if file.stat().st_size != expected:
                size = file.stat().st_size
                raise UserError(f"{file} has {size} of {expected} bytes; copy or download it again")


def shards_in(index: Path) -> dict[str, str]:
    """The weight file of each parameter of a split model. Raises UserError for what names no file beside the index."""
    index_file = read_json(index)
    shards = index_file.get("weight_map") if isinstance(index_file, dict) else None
    # Plain names only: a path in a stranger's index could lead out of the folder.
    if not isinstance(shards, dict) or not all(_is_plain_name(file) for file in shards.values()):
        raise UserError(f"{index} is no index of weight files; fetch the model again")
    return shards


def _is_plain_name(file: Any) -> bool:
    return isinstance(file, str) and file == Path(file).name


def parameter_count(path: str) -> int | None:
    """Parameters in a model folder, read off what its weight files say of themselves; None for hub models.

    Raises UserError for a damaged header or file.
    """
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return sum(_parameters_in(file) for file in files) or None
    return sum(_parameters_in_pickle(file) for file in folder.glob("pytorch_model*.bin")) or None


def _parameters_in(file: Path) -> int:
    return sum(math.prod(tensor["shape"]) for name, tensor in weights_header(file)[1].items() if name != "__metadata__")


def _parameters_in_pickle(file: Path) -> int:
    # Tied tensors share their numbers. Whole ones are no weights but ids, such as positions.
    weights = [tensor for tensor in pickled_tensors(file).values() if tensor.is_floating_point()]
    return sum({tensor.data_ptr(): tensor.numel() for tensor in weights}.values())


def pickled_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors in a file of torch.save, by name. Raises UserError for pickled code, which is never run, and for a
    damaged file."""
    import torch  # here: for no other weights does a login node wait for it

    try:
        # Mapped: nothing is read before it is used. Files of before torch 1.6 are no zip archives, and cannot be.
        stored = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
        return {name: value for name, value in stored.items() if isinstance(value, torch.Tensor)}
    except MemoryError:
        raise
    except Exception as error:  # pickled code is refused here; damaged files end in every kind
        raise UserError(f"cannot read the weights in {file}: {first_line(error)}; {REMEDY}") from error


def weights_header(file: Path) -> tuple[int, dict[str, Any]]:
    """Length in bytes and content of a safetensors file's header."""
    with open(file, "rb") as data:
        length = int.from_bytes(data.read(8), "little")
        # The length is a stranger's: 100 MB is the most that safetensors itself reads.
        if not 0 < length < min(100_000_000, file.stat().st_size):
            raise UserError(f"{file} is no safetensors file (its header is damaged); copy or download it again")
        try:
            header = json.loads(data.read(length))
            for name, tensor in header.items():
                if name != "__metadata__":
                    numbers = [*tensor["shape"], *tensor["data_offsets"]]
                    # type(...) is int: `true` counts as an int otherwise. No tensor has 2^50 values or bytes.
                    sensible = all(type(n) is int and 0 <= n < 1 << 50 for n in numbers)
                    if len(tensor["data_offsets"]) != 2 or not sensible:
                        raise ValueError(f"{name[:60]!r} has no sensible shape")
            return length, header
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{file}: its header is damaged ({error}); copy or download it again") from error
