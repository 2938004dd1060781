"""`stilts mine --plan`: what a search would take, before anything is paid for."""

from __future__ import annotations

import argparse
import dataclasses
import math
from typing import TYPE_CHECKING, Any

from stilts_ds.errors import UserError, counted, rough_time

if TYPE_CHECKING:
    from stilts_ds.mining.scale import Cluster, Costs, Sides

OPTIONS = ("sentences", "width", "rate", "network", "disk", "failures")
SAMPLE = 128  # sentences that are embedded to measure what one takes
GB = 1e9


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the plan."""
    group = parser.add_argument_group(
        "plan", "with --plan, SOURCE and TARGET may be left out for --sentences and --width"
    )
    group.add_argument("--plan", action="store_true", help="say bytes, operations, hours and memory; mine nothing")
    group.add_argument("--sentences", type=float, nargs=2, metavar="N", help="of both sides, such as 1e9 1e9")
    group.add_argument("--width", type=int, metavar="D", help="numbers of a vector")
    group.add_argument(
        "--rate", type=float, metavar="T", help="10^12 operations a second of a rank (default: measured)"
    )
    group.add_argument("--network", type=float, metavar="GB", help="GB a second that a rank sends (default: 1)")
    group.add_argument("--disk", type=float, metavar="GB", help="GB a second that rank 0 reads (default: 1)")
    group.add_argument("--failures", type=float, metavar="HOURS", help="from one failure of a rank to its next")


def check_plan(given: argparse.Namespace) -> None:
    """Raise UserError where options of the plan stand without it, or what mining needs is missing."""
    if given.plan:
        return
    for name in OPTIONS:
        if getattr(given, name) is not None:
            raise UserError(f"--{name} belongs to --plan; give --plan, too, or leave it out")
    for name, word in (("source", "SOURCE"), ("target", "TARGET"), ("output", "-o FILE")):
        if getattr(given, name) is None:
            raise UserError(f"stilts mine needs {word}; only --plan --sentences goes without")


def plan(given: argparse.Namespace, model: Any, memory: int) -> int:
    """Print the plan. Raises UserError for numbers that none can be and for faulty files."""
    from stilts_ds.mining.costs import measured_costs
    from stilts_ds.mining.scale import Cluster

    sides, embed = _sides(given, model)
    _check_numbers(given, sides)
    costs = measured_costs(sides.width, sides.k, embed)
    if given.rate is not None:
        costs = dataclasses.replace(costs, score=2 * sides.width / (given.rate * 1e12), row=0.0, known_row=0.0)
    cluster = Cluster(
        given.ranks or 1, memory, _or(given.network, 1.0) * GB, _or(given.disk, 1.0) * GB, _or(given.failures, math.inf)
    )
    print("\n".join(plan_lines(sides, cluster, costs, given.nlist, given.nprobe)))
    return 0


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _check_numbers(given: argparse.Namespace, sides: Sides) -> None:
    for name in ("rate", "network", "disk", "failures"):
        value = getattr(given, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} {value:g}: give a number above 0")
    for name in ("ranks", "nlist", "nprobe"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: give 1 or more")
    if not 1 <= sides.k <= min(sides.source, sides.target):
        raise UserError(
            f"-k {sides.k}: give 1 to {min(sides.source, sides.target):,}, the sentences of the smaller side"
        )


def _sides(given: argparse.Namespace, model: Any) -> tuple[Sides, float]:
    """The sizes, from numbers or from files, and the seconds of embedding a sentence, 0 where vectors are there."""
    from stilts_ds.mining.scale import Sides

    if given.sentences is not None:
        if given.source is not None or given.width is None:
            raise UserError("--sentences takes the place of SOURCE and TARGET, and needs --width")
        if not all(1 <= count <= 1e12 for count in given.sentences) or not 1 <= given.width <= 8192:
            raise UserError("--sentences: give 1 to 1e12 of each side, and --width 1 to 8192")
        return Sides(int(given.sentences[0]), int(given.sentences[1]), given.width, k=given.k), 0.0
    if given.source is None or given.target is None:
        raise UserError("--plan needs SOURCE and TARGET, or --sentences N N --width D")
    return _sides_of_files(given, model)


def _sides_of_files(given: argparse.Namespace, model: Any) -> tuple[Sides, float]:
    from stilts_ds.mining.scale import Sides
    from stilts_ds.mining.texts import TextFile
    from stilts_ds.mining.vectors import open_vectors, vectors_of_texts

    counts: list[int] = []
    sizes: list[int] = []
    texts: list[TextFile] = []
    widths: dict[str, int] = {}
    for path, vectors in ((given.source, given.source_vectors), (given.target, given.target_vectors)):
        if path.suffix == ".npy":
            vectors = path
        else:
            texts.append(TextFile.scan(path, given.ids))
            counts.append(texts[-1].lines)
        if vectors is not None:
            rows = open_vectors(vectors)
            widths[str(vectors)] = rows.shape[1]
            sizes.append(rows.element_size())
            if path.suffix == ".npy":
                counts.append(len(rows))
            else:
                vectors_of_texts(vectors, counts[-1], path)
    embed = 0.0
    if len(sizes) < 2:
        if model is None and given.width is None:
            raise UserError("texts without vectors: name the model that makes them (--model), or give --width")
        if model is not None:
            widths[str(given.model)], embed = _embedding(model, texts[0])
    if given.width is not None:
        widths["--width"] = given.width
    width = next(iter(widths.values()))
    if set(widths.values()) != {width}:
        by_name = ", ".join(f"{name}: {counted(numbers, 'number')} a vector" for name, numbers in widths.items())
        raise UserError(f"{by_name}; the vectors of both sides must be of one model")
    return Sides(counts[0], counts[1], width, max(sizes, default=4), given.k), embed


def _embedding(model: Any, texts: Any) -> tuple[int, float]:
    """The width of a model's vectors, and the seconds that a sentence takes, measured on the first ones."""
    import torch

    from stilts_ds.mining.costs import embedding_cost
    from stilts_ds.mining.models import ModelFolder

    folder = ModelFolder.find(model)
    embedder = folder.load(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))
    sentences = [folder.settings.prefix + text for text in texts.read(0, min(SAMPLE, texts.lines))]
    return embedder.width(), embedding_cost(embedder, sentences, folder.length)


# --- what is printed -------------------------------------------------------------------------------------------------


def plan_lines(sides: Sides, cluster: Cluster, costs: Costs, nlist: int | None, nprobe: int | None) -> list[str]:
    """The plan as the terminal shows it."""
    numbers, ranks = counted(sides.width, "number"), counted(cluster.ranks, "rank")
    return [
        f"{sides.source:,} x {sides.target:,} sentences, {numbers} a vector, k {sides.k}, {ranks}",
        *_table(_common(sides, cluster, costs)),
        "exact search",
        *_table(_exact(sides, cluster, costs)),
        *_approximate(sides, cluster, costs, nlist, nprobe),
    ]


def _common(sides: Sides, cluster: Cluster, costs: Costs) -> dict[str, str]:
    """What either search takes."""
    from stilts_ds.mining import scale

    embedding = rough_time(scale.embedding_seconds(sides, cluster, costs))
    of_a_rank, of_rank_0 = size(scale.rank_memory(sides, cluster)), size(scale.first_rank_memory(sides, cluster))
    return {
        "vectors": f"{size(sides.vector_bytes)} in both files",
        "embedding": f"{embedding} ({costs.embed * 1e3:.3g} ms a sentence)" if costs.embed else "done",
        "every start": f"{rough_time(scale.start_seconds(sides, cluster))} to read the vectors",
        "memory": f"{of_a_rank} a rank, {of_rank_0} rank 0, mapped vectors and texts aside",
    }


def _exact(sides: Sides, cluster: Cluster, costs: Costs) -> dict[str, str]:
    from stilts_ds.mining import scale

    counts, run = scale.ring(sides, cluster), scale.mean_run(sides, cluster, costs)
    operations = 2 * sides.width * sides.source * sides.target
    rate = 2 * sides.width / costs.score
    blocks, hops = counted(counts.blocks, "block"), counted(counts.hops, "hop")
    sent, received = size(run.sent / cluster.ranks), size(counts.gathered)
    return {
        "operations": f"{operations:.3g} ({rate:.3g} a second of a rank)",
        "time": f"{rough_time(run.seconds)}{_failing(cluster, run)}",
        "shards": f"{blocks} of {counts.block_rows:,} targets a rank, {hops}",
        "network": f"a rank sends {sent} and receives {received} of means and margins",
        "kept": f"{size(counts.saved)} of lists",
    }


def _approximate(sides: Sides, cluster: Cluster, costs: Costs, nlist: int | None, nprobe: int | None) -> list[str]:
    from stilts_ds.mining import scale

    if costs.index is None:
        return ["approximate index: FAISS is not installed here, so nothing could be measured"]
    probes = nprobe or scale.DEFAULT_NPROBE
    works = [scale.index_work(bank, sides, nlist, probes) for bank in (sides.target, sides.source)]
    crossing = scale.crossing(sides, costs, probes)
    seconds = scale.index_seconds(sides, cluster, costs.index, nlist, probes)
    lists = " and ".join(f"{work.nlist:,}" for work in works)
    bytes_on_disk = sum(work.file_bytes for work in works)
    files = sum(work.files for work in works)
    rows = {
        "time": f"{rough_time(seconds)}, without failures",
        "index": f"{size(bytes_on_disk)} in {counted(files, 'file')}",
        "pays from": "beyond 10^12 rows a side" if crossing is None else f"{crossing:,} rows a side",
    }
    return [f"approximate index (--neighbours ivf): {works[0].nprobe} of {lists} lists read", *_table(rows)]


def _failing(cluster: Cluster, run: Any) -> str:
    if not math.isfinite(cluster.hours_to_failure):
        return ", without failures"
    if not math.isfinite(run.seconds):
        return ": it fails more often than it saves; take less --memory, which makes smaller blocks"
    return f" with {counted(run.restarts, 'restart')}, the mean of simulated runs"


def _table(rows: dict[str, str]) -> list[str]:
    return [f"  {name:<12}{value}" for name, value in rows.items()]


def size(count: float) -> str:
    """Bytes in a unit that fits: `1.5 TB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"
