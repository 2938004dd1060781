"""`stilts embed`, `stilts mine` and `stilts search`: options, and on which ranks they run."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stilts_ds.engine.preempt import Stopped, die_with, install_handlers
from stilts_ds.errors import UserError, counted, printable
from stilts_launcher.discover import discover
from stilts_launcher.imports import heavy_imports
from stilts_launcher.mining_plan import add_plan, check_plan, plan

STOPPED = 85
AFTER_FIRST = 3.0  # seconds that the others wait for rank 0 to be refused
Work = Callable[[Any, Any], None]  # what the ranks talk over (None: alone), the device -> nothing


def add_embed(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=embed)
    parser.add_argument("model", help="a model's folder, the folder of a trained phase, or a hub id")
    parser.add_argument("texts", type=Path, help="UTF-8 file, a sentence a line")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npy", help="a new file")
    parser.add_argument(
        "--stored", default="fp32", choices=["fp32", "fp16"], help="numbers in the file (default: fp32)"
    )
    _add_encoder(parser)
    _add_common(parser)


def add_mine(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=mine)
    parser.add_argument("source", type=Path, nargs="?", help="UTF-8 file, a sentence a line; or vectors (.npy)")
    parser.add_argument("target", type=Path, nargs="?", help="the same for the other language")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a new .tsv, .jsonl or .parquet")
    parser.add_argument("--model", help="makes the vectors of texts: a folder, a trained phase's folder, or a hub id")
    parser.add_argument("--source-vectors", type=Path, metavar="FILE.npy", help="a vector for each line of the source")
    parser.add_argument("--target-vectors", type=Path, metavar="FILE.npy", help="a vector for each line of the target")
    parser.add_argument(
        "--mode",
        default="mine",
        choices=["mine", "search", "score"],
        help="mine pairs; the best target of each source sentence; or scores of line i with line i (default: mine)",
    )
    parser.add_argument(
        "--margin",
        default="ratio",
        choices=["ratio", "distance", "absolute"],
        help="how a cosine is compared with those of the neighbours (default: ratio)",
    )
    parser.add_argument(
        "--retrieval",
        default="max",
        choices=["max", "forward", "backward", "intersect"],
        help="which candidates become pairs (default: max)",
    )
    parser.add_argument("-k", type=int, default=4, metavar="N", help="neighbours each way (default: 4)")
    parser.add_argument("--threshold", type=float, metavar="X", help="keep scores of at least X (default: above 0)")
    parser.add_argument("--unify", action="store_true", help="equal texts of a side count as one sentence, its first")
    parser.add_argument(
        "--drop-repeated", action="store_true", help="with --unify: no pairs of texts that stand twice on their side"
    )
    parser.add_argument("--gold", type=Path, metavar="FILE", help="lines `source id TAB target id` to score pairs with")
    parser.add_argument(
        "--dev-part",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of the source sentences whose gold chooses the threshold, where none is given (default: 0.5)",
    )
    parser.add_argument(
        "--neighbours",
        default="exact",
        choices=["exact", "ivf"],
        help="all sentences are compared, or those that an approximate FAISS index names (default: exact)",
    )
    parser.add_argument("--nlist", type=int, metavar="N", help="lists of the index (default: about 4 sqrt(sentences))")
    parser.add_argument("--nprobe", type=int, metavar="N", help="lists that a sentence is compared with (default: 32)")
    _add_encoder(parser)
    _add_memory(parser)
    _add_common(parser)
    add_plan(parser)


def add_search(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=search)
    parser.add_argument("queries", type=Path, help="UTF-8 file, a sentence a line; or vectors (.npy)")
    parser.add_argument("bank", type=Path, help="what is searched, of the same kind")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="a new .tsv, .jsonl or .parquet"
    )
    parser.add_argument("--model", help="makes the vectors of texts: a folder, a trained phase's folder, or a hub id")
    parser.add_argument("--query-vectors", type=Path, metavar="FILE.npy", help="a vector for each line of the queries")
    parser.add_argument("--bank-vectors", type=Path, metavar="FILE.npy", help="a vector for each line of the bank")
    parser.add_argument("-k", type=int, default=16, metavar="N", help="neighbours of a query (default: 16)")
    parser.add_argument("--metric", default="cosine", choices=["cosine", "inner"], help="(default: cosine)")
    _add_encoder(parser)
    _add_memory(parser)
    _add_common(parser)


def _add_encoder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", metavar="REV", help="of a hub id: branch, tag or commit")
    parser.add_argument("--layer", type=int, default=-1, metavar="N", help="hidden state, from 0 (default: the last)")
    parser.add_argument(
        "--pooling", default="mean", choices=["mean", "first", "last"], help="tokens of the vector (default: mean)"
    )
    parser.add_argument("--prefix", default="", metavar="TEXT", help="stands before each text, such as 'query: '")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"], help="of the network (default: fp32)")
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="tokens of a sentence (default: 512 or the model's)"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="sentences of a batch (default: 32)")


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memory", type=float, default=1.0, metavar="GIB", help="scratch of a rank (default: 1)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ids", action="store_true", help="lines of text files are `id TAB text`")
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="ranks to start on this machine (default: one for each GPU, or one)"
    )


def embed(given: argparse.Namespace) -> int:
    def work(comm: Any, device: Any) -> None:
        from stilts_ds.mining import Texts
        from stilts_ds.mining import embed as embed_texts

        made = embed_texts(
            _encoder(given.model, given), Texts(given.texts, ids=given.ids), given.output,
            stored=given.stored, comm=comm, device=device,
        )  # fmt: skip
        _say(comm, f"{made}: vectors of {given.texts}")

    return _on_ranks(given, work)


def mine(given: argparse.Namespace) -> int:
    check_plan(given)
    if given.plan:
        return plan(given, _encoder(given.model, given), _bytes(given))

    def work(comm: Any, device: Any) -> None:
        from stilts_ds.mining import MiningSettings, Texts
        from stilts_ds.mining import mine as mine_pairs

        settings = MiningSettings(
            given.mode, given.margin, given.retrieval, given.k, given.threshold,
            given.unify, given.drop_repeated, given.dev_part, _bytes(given),
            given.neighbours, given.nlist, given.nprobe,
        )  # fmt: skip
        result = mine_pairs(
            Texts(given.source, given.source_vectors, given.ids),
            Texts(given.target, given.target_vectors, given.ids),
            given.output,
            model=_encoder(given.model, given),
            settings=settings,
            gold=given.gold,
            comm=comm,
            device=device,
        )
        _say(comm, _told(result, given))

    return _on_ranks(given, work)


def search(given: argparse.Namespace) -> int:
    def work(comm: Any, device: Any) -> None:
        from stilts_ds.mining import Texts
        from stilts_ds.mining import search as search_bank

        count = search_bank(
            Texts(given.queries, given.query_vectors, given.ids),
            Texts(given.bank, given.bank_vectors, given.ids),
            given.output,
            k=given.k,
            metric=given.metric,
            model=_encoder(given.model, given),
            memory=_bytes(given),
            comm=comm,
            device=device,
        )
        _say(comm, f"{given.output}: {counted(count, 'neighbour')}")

    return _on_ranks(given, work)


def _encoder(model: str | None, given: argparse.Namespace) -> Any:
    from stilts_ds.mining import Encoder, VectorSettings

    if model is None:
        return None
    settings = VectorSettings(
        given.layer, given.pooling, given.prefix, given.dtype, given.max_length, given.batch_size
    )  # fmt: skip
    return Encoder(model, given.revision, settings)


def _bytes(given: argparse.Namespace) -> int:
    if not 0 < given.memory < 1 << 20:
        raise UserError(f"--memory {given.memory:g}: give GiB above 0")
    return int(given.memory * (1 << 30))


def _told(result: Any, given: argparse.Namespace) -> str:
    """What was mined, as the terminal shows it."""
    lines = [f"{result.output}: {counted(result.count, 'line')}"]
    if result.errors is not None:
        lines.append(f"errors: {result.errors:,} of {result.count:,} sentences found another line than their own")
    judgement = result.judgement
    if judgement is not None:
        scores, dev = judgement.scores, judgement.dev
        shown = f"precision {scores.precision:.2f}  recall {scores.recall:.2f}  F1 {scores.f1:.2f}"
        if dev is None:
            lines.append(f"threshold {judgement.threshold:.6f} (given)")
        else:
            lines.append(f"threshold {judgement.threshold:.6f}, the best for {counted(dev.gold, 'gold pair')}")
        where = "on the pairs that chose it" if dev == scores else "on the other pairs"
        lines.append(f"{shown}  ({counted(scores.gold, 'gold pair')}{'' if dev is None else ', ' + where})")
    return "\n".join(lines)


def _say(comm: Any, text: str) -> None:
    if os.environ.get("RANK", "0") == "0" or comm is None:
        print(printable(text), flush=True)


# --- ranks -----------------------------------------------------------------------------------------------------------


def _on_ranks(given: argparse.Namespace, work: Work) -> int:
    """Do `work` as one of the ranks that a launcher started, on ranks that are started here, or alone."""
    install_handlers()  # before the heavy imports, so that a stop asked for meanwhile is not lost
    # A rank of ours dies with the process that started it; one of a cluster's launcher has none to die with.
    if launcher := os.environ.get("STILTS_LAUNCHER"):
        die_with(int(launcher))
    rank_place = discover(os.environ)
    if rank_place is not None:
        os.environ.update(rank_place.variables())
        return _as_a_rank(given, work)
    count = _rank_count(given.ranks)
    # Without a process group: a single rank has nobody to meet.
    if count == 1:
        return _alone(work)
    from stilts_launcher import local

    # The ranks are this very command again, which then finds their variables in its environment.
    return local.start_ranks(given.words, count, None, program="stilts_launcher.cli")


def _rank_count(wanted: int | None) -> int:
    import torch

    from stilts_launcher.rank_place import usable_cores

    devices = torch.cuda.device_count()
    if wanted is None:
        return max(1, devices)
    most, unit = (devices, "GPU") if devices else (usable_cores(), "core")
    if not 1 <= wanted <= most:
        raise UserError(f"--ranks {wanted}: this machine has {counted(most, unit)} to use; give 1 to {most}")
    return wanted


def _alone(work: Work) -> int:
    with heavy_imports():
        import torch

        from stilts_ds.model.encoder import quiet

    # On standard error: standard output is for results.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    quiet()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        work(None, device)
    # Its own exit status, by which a batch script tells a stop from a failure.
    except Stopped as stopped:
        print(f"stopped by {stopped}; what is finished is kept, the same command continues", file=sys.stderr)
        return STOPPED
    return 0


def _as_a_rank(given: argparse.Namespace, work: Work) -> int:
    with heavy_imports():
        from stilts_ds.engine.preflight import check_same_start
        from stilts_ds.engine.ranks import run_as_rank
        from stilts_ds.engine.world import World
        from stilts_ds.mining.job import check_output, remove_if_bare, work_folder
        from stilts_ds.model.encoder import quiet
    from stilts_ds.run_dir import RunDir

    try:
        # Before this rank's log is opened: that makes a folder.
        check_output(given.output)
    except UserError:
        # Rank 0 tells it for all: the launcher ends the others when it is gone.
        if os.environ["RANK"] != "0":
            time.sleep(AFTER_FIRST)
        raise
    folder = work_folder(given.output)
    # What was asked for must be alike on all ranks; how it was worded need not be.
    options = {name: str(value) for name, value in vars(given).items() if name not in ("verb", "words", "options")}

    def as_rank(world: World) -> None:
        check_same_start(world, options)
        work(world.objects, world.device)

    quiet()
    try:
        return run_as_rank(RunDir(folder), folder / "logs", as_rank)
    finally:
        # A start that was refused leaves no folder behind, though the ranks' logs were in it.
        if os.environ["RANK"] == "0":
            remove_if_bare(given.output)
