"""Texts to vectors: a file of sentences becomes a .npy file of as many rows.

The ranks share the chunks that are not finished (stilts_ds.evaluate.embedding) and write into one file. A finished
chunk is noted with a checksum of its rows, so that a start after a stop does the others only. The bits of a vector
depend neither on the ranks nor on the stops: batches are the same.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from stilts_kernels.common.collectives import Collectives, collectives_of
from stilts_kernels.common.progress import Progress

from stilts_ds.engine.preempt import stop_this_rank_if_requested
from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.evaluate.embedding import CHUNK, Embedder
from stilts_ds.families.bitext.rows import encode_texts
from stilts_ds.mining.job import MiningWork, is_unfinished, on_all, on_first, progress_log, refuse_existing
from stilts_ds.mining.models import Encoder, ModelFolder, model_files_of
from stilts_ds.mining.texts import TextFile, Texts
from stilts_ds.mining.vectors import STORED, make_empty, note_content, note_of, vectors_digest
from stilts_ds.rows.writer import HEADER
from stilts_ds.run_dir import write_sealed

log = logging.getLogger(__name__)
CPU = torch.device("cpu")


def embed(
    model: str | Path | Encoder,
    texts: str | Path | Texts,
    output: str | Path,
    *,
    stored: str = "fp32",
    comm: Any = None,
    device: torch.device = CPU,
) -> Path:
    """Write the vectors of a file of sentences, one a line, to `output` (.npy, float32 or float16 as `stored` says).

    Beside the output stands `<output>.json`, which says what the vectors were made of. On many ranks a collective over
    `comm` (an mpi4py communicator or a gloo process group); the files lie where all ranks see them. A call that was
    stopped is continued by the same call. Returns the output's path.

    Raises UserError for faulty texts (file and line), a model that cannot be loaded or has not these settings, an
    output that exists, and inputs that are others than those of the unfinished work in `<output>.work`.
    """
    ranks, path = collectives_of(comm), Path(output)
    encoder = model if isinstance(model, Encoder) else Encoder(model)
    given = texts if isinstance(texts, Texts) else Texts(texts)

    def check() -> None:
        if stored not in STORED:
            raise UserError(f"unknown number format {stored!r} of the file{did_you_mean(stored, STORED)}")
        if path.suffix != ".npy":
            raise UserError(f"{path}: vectors are written as .npy; end the name so")
        # The job refuses an existing output; its note, which is put first, would be overwritten just as well.
        if not is_unfinished(path):
            refuse_existing(note_of(path))

    on_first(ranks, check)
    with MiningWork(ranks, path) as job:
        text_file = scan(ranks, given)
        _embed(job, find_model(ranks, encoder), text_file, stored, device)
    return path


def embed_to(
    ranks: Collectives, model: ModelFolder, texts: TextFile, output: Path, stored: str, device: torch.device
) -> None:
    """Write the vectors of texts that were looked at, and their note, as `embed` does. A collective."""
    with MiningWork(ranks, output) as job:
        _embed(job, model, texts, stored, device)


def _embed(job: MiningWork, model: ModelFolder, texts: TextFile, stored: str, device: torch.device) -> None:
    ranks = job.ranks
    content = {"the content of texts": texts.digest, "lines": texts.lines}
    files = {"the content of texts": texts.path, "model": model.folder}
    job.begin({**content, "stored": stored, **model.inputs()}, files)
    draft = embed_file(ranks, model, texts, job.work, stored, device)
    digest = on_first(ranks, lambda: vectors_digest(draft))
    described = note_content(texts.digest, texts.lines, digest, model.inputs())
    note = job.work / "note.json"
    on_first(ranks, lambda: write_sealed(note, described))
    job.publish(draft, (note, note_of(job.output)))


def scan(ranks: Collectives, given: Texts, tab_fault: str = "") -> TextFile:
    """Rank 0 looks at a file of sentences for all ranks. A collective."""
    scanned = on_first(ranks, lambda: TextFile.scan(Path(given.path), given.ids, tab_fault).to_json())
    return TextFile.from_json(scanned)


def find_model(ranks: Collectives, encoder: Encoder) -> ModelFolder:
    """The model's folder. Rank 0 fetches it where it is to be downloaded; the others find it then. A collective."""
    on_first(ranks, lambda: str(model_files_of(encoder)))
    model_folder = on_all(ranks, lambda: ModelFolder.find(encoder))
    # Folders may be local to each machine: other files under one name would mix two models' vectors.
    digests = ranks.gather(model_folder.digest)
    for rank, digest in enumerate(digests):
        if digest != digests[0]:
            raise UserError(f"rank {rank} finds other files of {encoder.model} than rank 0; give all ranks the same")
    return model_folder


def embed_file(
    ranks: Collectives, model: ModelFolder, texts: TextFile, work: Path, stored: str, device: torch.device
) -> Path:
    """The vectors of all lines, in a file in the folder `work`, which may hold a part of them. A collective."""
    path = work / "vectors.npy"
    embedder = on_all(ranks, lambda: model.load(device))
    width = embedder.width()
    row_bytes = width * STORED[stored].itemsize

    def prepare() -> list[int]:
        if not path.exists():
            # Notes of finished chunks without their file are worth nothing.
            for file in work.glob("done-*.jsonl"):
                file.unlink()
            make_empty(path, texts.lines, width, stored)
        return left_chunks(path, texts.lines, row_bytes)

    left = on_first(ranks, prepare)
    # Of the unfinished chunks each rank takes a run: they need not be those of the ranks of an earlier start.
    first, stop = (len(left) * number // ranks.size for number in (ranks.rank, ranks.rank + 1))
    progress = progress_log(ranks, f"embedding {texts.path.name}", "sentences")
    on_all(ranks, lambda: embed_chunks(embedder, model, texts, path, left[first:stop], ranks.rank, progress))
    return path


def embed_chunks(
    embedder: Embedder,
    model: ModelFolder,
    texts: TextFile,
    path: Path,
    chunks: Sequence[int],
    rank: int,
    progress: Progress,
) -> None:
    """Embed the chunks of those numbers and note each when its rows are on the disk; `progress` hears how far it is."""
    width = embedder.width()
    with open(path, "r+b") as file, open(path.with_name(f"done-{rank:05d}.jsonl"), "a", encoding="ascii") as done:
        done.write("\n")  # ends a line that a kill cut short
        stored = STORED[header_dtype(path)]
        spans = [(chunk, chunk * CHUNK, min(texts.lines, (chunk + 1) * CHUNK)) for chunk in chunks]
        total = sum(stop - first for _, first, stop in spans)
        made = 0
        progress(made, total)
        for chunk, first, stop in spans:
            sentences = (model.settings.prefix + text for text in texts.read(first, stop))
            rows = encode_texts(sentences, embedder.tokenizer, model.length)
            vectors = embedder.chunk(rows, 0, stop - first, between=stop_this_rank_if_requested)
            # Rounded first: what is finite in float32 may be infinite in float16.
            rounded = vectors.numpy().astype(stored)
            check_finite(rounded, texts.path, first)
            content = rounded.tobytes()
            # At its own offset: ranks write into one file without waiting for each other.
            os.pwrite(file.fileno(), content, HEADER + first * width * stored.itemsize)
            # Rows before their note, so that a note is never ahead of what it vouches for.
            os.fsync(file.fileno())
            done.write(json.dumps({"chunk": chunk, "sum": xxhash.xxh3_128_hexdigest(content)}) + "\n")
            done.flush()
            made += stop - first
            progress(made, total)


def check_finite(vectors: np.ndarray, path: Path, first: int) -> None:
    """Raise UserError naming the line of the first vector that is not finite; `first` is the line before, from 1."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(
            f"{path}:{first + int(bad[0]) + 1}: the vector of this line is not finite in the file's number format; "
            "take fp32, or a model that is whole"
        )


def header_dtype(path: Path) -> str:
    """`fp32` or `fp16`, as a file of vectors says."""
    with open(path, "rb") as file:
        head = file.read(HEADER)
    return next(name for name, dtype in STORED.items() if dtype.str.encode() in head)


def left_chunks(path: Path, lines: int, row_bytes: int) -> list[int]:
    """The chunks that are not noted as finished, or whose rows are not those that were noted."""
    noted: dict[int, str] = {}
    for notes in sorted(path.parent.glob("done-*.jsonl")):
        for line in notes.read_text(encoding="ascii", errors="replace").split("\n"):
            try:
                entry = json.loads(line)
                noted[int(entry["chunk"])] = str(entry["sum"])
            except (ValueError, KeyError, TypeError):  # a line that a kill cut short
                continue
    left = []
    with open(path, "rb") as file:
        for chunk in range(-(-lines // CHUNK)):
            rows = min(lines - chunk * CHUNK, CHUNK)
            file.seek(HEADER + chunk * CHUNK * row_bytes)
            content = file.read(rows * row_bytes)
            # The checksum decides: a file system may keep a note and lose the rows.
            if chunk not in noted or noted[chunk] != xxhash.xxh3_128_hexdigest(content):
                left.append(chunk)
    return left
