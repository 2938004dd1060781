"""The weight files of a model folder: which there are, whether they are whole, and what their headers say."""

from __future__ import annotations

import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError
from stilts_ds.run_dir import read_json

TENSOR_BYTES = re.compile(r"/data/\d+$")  # members of torch.save's archives that hold numbers
DESCRIBED_BYTES = 16 << 20  # of the pickle that names tensors; a model's has some kilobytes
# Names by which that pickle calls kinds of numbers, and their bytes. Without integers: position ids are no weights.
STORAGE_BYTES = {b"FloatStorage": 4, b"HalfStorage": 2, b"BFloat16Storage": 2, b"DoubleStorage": 8}


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
    """Parameters in a model folder, read off its weight files' headers; None for hub models.

    Of `pytorch_model*.bin` it is the most that their bytes may be, since nothing is unpickled. Raises UserError for a
    damaged header.
    """
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return sum(_parameters_in(file) for file in files) or None
    return sum(_most_parameters_in(file) for file in folder.glob("pytorch_model*.bin")) or None


def _parameters_in(file: Path) -> int:
    return sum(math.prod(tensor["shape"]) for name, tensor in weights_header(file)[1].items() if name != "__metadata__")


def _most_parameters_in(file: Path) -> int:
    """Numbers in a file of torch.save: the bytes of its tensors by the width of its narrowest kind of numbers."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            stored = sum(member.file_size for member in members if TENSOR_BYTES.search(member.filename))
            [pickled] = [member for member in members if member.filename.endswith("/data.pkl")]
            with archive.open(pickled) as described:
                kinds = described.read(DESCRIBED_BYTES)
    except zipfile.BadZipFile:  # as torch saved before version 1.6: one pickle after the other, then the tensors
        stored = file.stat().st_size
        with open(file, "rb") as data:
            kinds = data.read(DESCRIBED_BYTES)
    except ValueError as error:
        raise UserError(f"{file} is no file of torch.save; copy or download it again") from error
    widths = [width for name, width in STORAGE_BYTES.items() if name in kinds]
    return stored // min(widths, default=4)


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
