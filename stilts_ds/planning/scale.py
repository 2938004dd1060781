"""What ranks do outside the arithmetic of a phase, at any number of ranks: bytes, collectives, files, rank 0's seconds.

Counts follow from the code and from DeepSpeed 0.19.8 as it was seen; tests hold them to what 1, 2 and 4 ranks count
(tests/engine/test_scale_counts.py). Seconds are these counts at the rates of a cluster, which are inputs: `Rates` says
of each where its default comes from. Everything here is arithmetic, and no torch is imported.

Collectives are taken to run as rings: a rank sends payload x (N - 1) / N bytes, of an all-reduce twice that (Patarasuk
and Yuan 2009, Bandwidth optimal all-reduce algorithms); their start as a tree of log2(N) hops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stilts_ds.engine.open_files import open_files
from stilts_ds.model_files import Shape, bert_shape

HEAD_TENSORS = 2  # weight and bias of a classifier; its numbers are too few to count
OBJECT_CALLS = 2  # collectives of one exchange of objects: their lengths, then the messages
AGREEMENTS = 2  # in which ranks say that they wrote their part of a checkpoint, and that all of it is there
USUAL_FILES = 1024  # open in one process, on most Linux systems; ranks ask for more (engine/open_files.py)
BEAT_CALLS = 2  # of the store, for each rank that rank 0 watches, in each beat
BEAT_SECONDS = 0.5  # between two beats (engine/heartbeat.py)
FACTS, HASH, AGREEMENT = 600, 80, 10  # bytes of a rank's message: about its node, its model, a write without fault


# Conneau et al. 2020 (arXiv 1911.02116, table 6) and Goyal et al. 2021 (arXiv 2105.00572, section 2); 514 positions
# and one type.
MODELS = {
    "Base": bert_shape(12, 768, 12, 3072, 250_002, 515),
    "Large": bert_shape(24, 1024, 16, 4096, 250_002, 515),
    "XL": bert_shape(36, 2560, 32, 10_240, 250_880, 515),
    "XXL": bert_shape(48, 4096, 32, 16_384, 250_880, 515),
}


def tensors_of(shape: Shape) -> int:
    """Parameters as tensors: embeddings and a LayerNorm, eight of attention, four of the feed-forward part and four of
    LayerNorms in each layer, and a head."""
    return 5 + 16 * shape.layers + HEAD_TENSORS


@dataclass(frozen=True)
class Rates:
    """Bytes and calls a second of a cluster, and seconds of a hop. None of a cluster was measured.

    Assumed: `network` (a rank's share: 200 Gbit/s, as of InfiniBand HDR), `hop` (a message between two GPUs), `gloo`
    (between two processes over TCP), `reading` and `writing` (what one node and all nodes get of a parallel file
    system), `entry` (opening, making or removing a file there). Measured on one core of a shared virtual machine (AMD
    EPYC, November 2026) as CPU seconds: `store` (a call of torch's store), `sha256`, `decode` (JSON of a message).
    """

    network: float = 25e9
    hop: float = 10e-6
    gloo: float = 50e-6
    reading: float = 5e9
    writing: float = 100e9
    entry: float = 1e-3
    store: float = 32e-6
    sha256: float = 1.77e9
    decode: float = 26e6

    @property
    def asking(self) -> float:
        """Seconds of a call of the store on another node: there and back, and the call itself."""
        return 2 * self.gloo + self.store


@dataclass(frozen=True)
class Work:
    """One phase's training. `stage` is ZeRO's, `value_bytes` those of a number in the model (4 or 2), `micro_batches`
    what a rank takes of a step."""

    parameters: int
    tensors: int
    stage: int = 1
    value_bytes: int = 4
    micro_batches: int = 1

    @classmethod
    def of(cls, shape: Shape, stage: int = 1, value_bytes: int = 4) -> Work:
        return cls(shape.parameters, tensors_of(shape), stage, value_bytes)


@dataclass(frozen=True)
class Traffic:
    """`calls` of collectives in which all ranks take part, `payload` bytes of their tensors, `sent` by one rank."""

    calls: int
    payload: int
    sent: int

    def __add__(self, more: Traffic) -> Traffic:
        return Traffic(self.calls + more.calls, self.payload + more.payload, self.sent + more.sent)

    def seconds(self, ranks: int, rates: Rates) -> float:
        return self.sent / rates.network + self.calls * math.log2(max(2, ranks)) * rates.hop


NOTHING = Traffic(0, 0, 0)


def spread(calls: int, payload: int, ranks: int, passes: int = 1) -> Traffic:
    """A payload that goes round all ranks: once (broadcast, gather, scatter), or in two passes (all-reduce)."""
    return Traffic(calls, payload, passes * payload * (ranks - 1) // ranks)


# --- what each part sends ---------------------------------------------------------------------------------------------


def sending_weights(work: Work, ranks: int) -> Traffic:
    """At the start of a phase rank 0's weights go to all ranks, one parameter after the other, in the numbers of the
    model; where these have 16 bits, the exact ones follow for what each rank trains."""
    once = spread(work.tensors, work.parameters * work.value_bytes, ranks)
    return once if work.value_bytes == 4 else once + spread(work.tensors, work.parameters * 4, ranks)


def step(work: Work, ranks: int) -> Traffic:
    """Gradients and weights of one optimiser step, without the few small all-reduces of norms. `calls` are counted for
    one bucket; more buckets send the same bytes.

    Stages 2 and 3 reduce after each micro-batch. DeepSpeed's stages 1 and 2 reduce all gradients on all ranks, as
    stage 0 does, and gather the weights.
    """
    size = work.parameters * work.value_bytes
    if work.stage == 0:
        return spread(1, size, ranks, 2)
    if work.stage == 1:
        return spread(1, size, ranks, 2) + spread(1, size, ranks)
    reduced = work.micro_batches * size
    if work.stage == 2:
        return spread(work.micro_batches, reduced, ranks, 2) + spread(1, size, ranks)
    # Forward and backward gather each parameter anew.
    return spread(work.micro_batches, reduced, ranks) + spread(2 * work.tensors, 2 * reduced, ranks)


def gathering(work: Work, ranks: int, kinds: int) -> Traffic:
    """Whole float32 parameters, or their moments, of every stage but 0 (where each rank has them): of so many kinds.
    Stages 1 and 2 add up what ranks have, stage 3 gathers it."""
    if work.stage == 0:
        return NOTHING
    passes = 1 if work.stage == 3 else 2
    return spread(kinds * work.tensors, kinds * work.parameters * 4, ranks, passes)


def best_model(work: Work, ranks: int) -> Traffic:
    """Of a new best model on dev, the weights come to rank 0, and so to all."""
    return gathering(work, ranks, 1)


def saving(work: Work, ranks: int) -> Traffic:
    """A checkpoint: the weights and both moments are made whole, one after the other, and each rank keeps its share."""
    return gathering(work, ranks, 3)


def checkpoint_bytes(work: Work) -> int:
    """Of all ranks' files: float32 weights and two moments."""
    return 12 * work.parameters


def checkpoint_files(ranks: int) -> int:
    """One a rank, and the manifest."""
    return ranks + 1


# --- rank 0's seconds -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartOfTraining:
    """`sent` bytes of a rank between ranks, `calls` of collectives, `files` written, and seconds of rank 0 in all and
    of what grows with the number of ranks."""

    name: str
    sent: int
    calls: int
    files: int
    seconds: float
    growing: float


def objects(exchanges: int, message: int, ranks: int, rates: Rates) -> float:
    """Seconds of rank 0 in exchanges of objects: lengths and messages go round a ring, and each is decoded."""
    return exchanges * (OBJECT_CALLS * (ranks - 1) * rates.gloo + ranks * message / rates.decode)


def committing(ranks: int, rates: Rates) -> float:
    """Rank 0 reads and removes the description of each rank's file, and all ranks agree that nothing failed."""
    return 2 * ranks * rates.entry + objects(AGREEMENTS, AGREEMENT, ranks, rates)


def parts(work: Work, ranks: int, rates: Rates) -> list[PartOfTraining]:
    """Start-up, a step, a checkpoint, and what an evaluation does before it predicts."""
    weights, one_step, save = sending_weights(work, ranks), step(work, ranks), saving(work, ranks)
    model_bytes = 4 * work.parameters
    reading = model_bytes / rates.reading + model_bytes / rates.sha256
    # Each rank's mark is looked for and read; then packages, nodes and models are compared.
    meeting = 2 * (ranks - 1) * rates.asking + objects(1, FACTS, ranks, rates) + objects(1, HASH, ranks, rates)
    writing = checkpoint_bytes(work) / min(rates.writing, ranks * rates.reading)
    commit = committing(ranks, rates)
    # Float32 weights: whole ones to each rank or, at stage 3, its part. What passes gather there is not counted.
    sent = spread(work.tensors, model_bytes, ranks)
    starting = _part("start-up", weights, 0, reading, meeting, ranks, rates)
    stepping = _part("step", one_step, 0, 0.0, 0.0, ranks, rates)
    keeping = _part("checkpoint", save, checkpoint_files(ranks), writing, commit, ranks, rates)
    evaluating = _part("evaluation", sent, 0, reading, 0.0, ranks, rates)
    return [starting, stepping, keeping, evaluating]


def _part(
    name: str, traffic: Traffic, files: int, alone: float, growing: float, ranks: int, rates: Rates
) -> PartOfTraining:
    hops = traffic.calls * math.log2(max(2, ranks)) * rates.hop
    seconds = alone + growing + traffic.seconds(ranks, rates)
    return PartOfTraining(name, traffic.sent, traffic.calls, files, seconds, growing + hops)


def beating(ranks: int, rates: Rates) -> float:
    """Seconds in which rank 0 looks once at the beats of all ranks."""
    return BEAT_CALLS * (ranks - 1) * rates.asking


@dataclass(frozen=True)
class Limit:
    """What stops working, or costs more than it should, from so many ranks on."""

    ranks: int
    what: str


def limits(rates: Rates, batch: int) -> list[Limit]:
    """The limits in the order in which they are met, for steps of `batch` examples, on GPUs."""
    files = next(ranks for ranks in range(2, 1 << 20) if open_files(ranks, True, on_gpus=True) > USUAL_FILES)
    beats = next(ranks for ranks in range(2, 1 << 20) if beating(ranks, rates) > BEAT_SECONDS)
    commits = next(ranks for ranks in range(2, 1 << 20) if committing(ranks, rates) > 10)
    met = [
        Limit(batch + 1, f"a step of {batch} examples has none for a rank; worlds side by side use the rest"),
        Limit(files, f"rank 0 has more than {USUAL_FILES} files open, the usual limit, which ranks raise"),
        Limit(beats, f"rank 0 needs more than the {BEAT_SECONDS:g} s between two beats to look at all of them"),
        Limit(commits, "rank 0 needs more than 10 s to commit a checkpoint whose files are written"),
    ]
    return sorted(met, key=lambda limit: limit.ranks)
