"""All GPU goals in a quarter of an hour: one command, bounded, and given again it goes on where it stopped.

    stilts bench gpu --out results/gpu            on a machine with a GPU
    stilts bench gpu --out results/trial --trial  everything small, on a CPU: whether it runs, and no figure

Each measurement is a process of its own with a limit, so that none can take the time of the others; what is done stands
in OUT/<name>.json and is not done again. The most valuable come first. At the end, and after every start, a table sets
what was measured beside the goals (OUT/table.md). Kernels pass their gate against float64 before they are timed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stilts_bench.gpu_goals import FAILED, table

WHOLE_MINUTES = 15.0
NINE = "anli_plus, mnli, qqp, squad_v1, squad_v2, hellaswag, ccg, cosmosqa, commonsenseqa"


@dataclass(frozen=True)
class Sizes:
    """How much is measured; `device` is where."""

    device: str
    matmul: int  # rows of the square product whose rate others are compared with
    queries: int
    rows: int
    variant_rows: int  # of the bank that variants of the search are compared on
    pairs: int  # sentences of a side, two ways
    corpus: int  # the same, as large as BUCC's largest
    dim: int
    rounds: int
    hidden: int  # of the model that trains, with random weights
    layers: int
    vocabulary: int
    batch: int  # examples of a step; a GPU's make 16 thousand tokens
    steps: int
    dtype: str
    masked: int  # tokens that the masked language modelling head foresees


FULL = Sizes(
    "cuda", 8192, 16_384, 1_048_576, 262_144, 131_072, 400_000, 1024, 3, 1024, 24, 250_002, 384, 30, "bf16", 2458
)
TRIAL = Sizes("cpu", 128, 64, 1024, 300, 256, 512, 64, 2, 64, 2, 2000, 8, 3, "fp32", 40)


# --- what is measured -------------------------------------------------------------------------------------------------


def measure_matmul(sizes: Sizes, out: Path) -> dict[str, Any]:
    """TFLOP/s of a square product of random numbers, and TB/s of a copy."""
    import torch

    from stilts_bench.device import seconds_of
    from stilts_bench.results import machine

    device = torch.device(sizes.device)
    left, right = (torch.randn(sizes.matmul, sizes.matmul, device=device).to(torch.bfloat16) for _ in range(2))
    source = torch.randn(sizes.matmul, sizes.matmul, device=device)
    target = torch.empty_like(source)
    product, copy = (lambda: torch.mm(left, right)), (lambda: target.copy_(source))
    best = {}
    for name, work in (("product", product), ("copy", copy)):
        work()  # the first allocates and tunes
        best[name] = min(seconds_of(work, device) for _ in range(10))
    return {
        "tflops": 2e-12 * sizes.matmul**3 / best["product"],
        "copy_tb_per_s": 2e-12 * source.numel() * 4 / best["copy"],
        "machine": machine(device),
    }


def search(kind: str, queries: str, rows: str, k: int, dtype: str = "") -> Callable[[Sizes, Path], dict[str, Any]]:
    """A search of the kernels' benchmark: `topk` one way, `mine` two ways with margin and matching. `dtype`: float32
    rows in place of the bfloat16 ones that models on a GPU give."""

    def measure(sizes: Sizes, out: Path) -> dict[str, Any]:
        import torch

        from stilts_bench.cases import BenchmarkCase, make_rows
        from stilts_bench.kernels import run_case

        device = torch.device(sizes.device)
        data = "bitext" if kind == "mine" else "gaussian"
        case = BenchmarkCase("gpu", kind, getattr(sizes, queries), getattr(sizes, rows), sizes.dim, k, data=data)
        sides = None
        if dtype:
            left, right = make_rows(case, 1)
            sides = left.to(device), right.to(device)
        return run_case(case, sizes.rounds, sides, device)

    return measure


def measure_variants(sizes: Sizes, out: Path) -> dict[str, Any]:
    """The fused search, old against new: formats of the screen, panels, and the tuner's candidates."""
    if sizes.device == "cpu":
        # Without a GPU the kernels run interpreted; Triton asks for it when it is imported.
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    from stilts_bench.variants import compare_variants

    generator = torch.Generator(sizes.device).manual_seed(5)
    queries, bank = (
        torch.randn(count, sizes.dim, generator=generator, device=sizes.device)
        for count in (sizes.queries, sizes.variant_rows)
    )
    return compare_variants(queries, bank, 4, sizes.rounds)


def measure_head(sizes: Sizes, out: Path) -> dict[str, Any]:
    """Forward and backward of the masked language modelling head: ours on the masked tokens, against logits of all
    tokens and a cross-entropy that leaves the others out, as Hugging Face's models compute it."""
    import torch

    from stilts_bench.device import extra_bytes, seconds_of
    from stilts_ds.families.build import build_head
    from stilts_ds.model.heads import HeadShape, HeadSpec, LanguageHead
    from stilts_ds.rows.batch import Targets

    device = torch.device(sizes.device)
    dtype = torch.bfloat16 if sizes.dtype == "bf16" else torch.float32
    tokens = round(sizes.masked / 0.15)
    head = build_head(HeadSpec("mlm", "text"), HeadShape(sizes.hidden, sizes.hidden, 0.0, sizes.vocabulary, 1e-5))
    assert isinstance(head, LanguageHead)
    head = head.to(device, dtype)
    embedding = torch.randn(sizes.vocabulary, sizes.hidden, device=device, dtype=dtype).mul_(0.02).requires_grad_()
    hidden = torch.randn(tokens, sizes.hidden, device=device, dtype=dtype, requires_grad=True)
    read = torch.randperm(tokens)[: sizes.masked].sort().values.to(device)
    gold = torch.randint(sizes.vocabulary, (sizes.masked,), device=device)
    everywhere = torch.full((tokens,), -100, device=device).index_copy(0, read, gold)
    targets = Targets(read, gold, torch.ones(len(read), device=device), torch.zeros_like(read))

    def ours() -> torch.Tensor:
        options = {"gold": gold, "likeliest": False} if head.in_chunks else {}
        return head.losses(head(hidden[read], embedding=embedding, **options), targets).float().mean()

    def all_tokens() -> torch.Tensor:
        logits = head.output(head.before_output(hidden), embedding)
        return torch.nn.functional.cross_entropy(logits.float(), everywhere)

    found: dict[str, Any] = {}
    for name, loss in (("ours", ours), ("all_tokens", all_tokens)):

        def work(loss: Callable[[], torch.Tensor] = loss) -> None:
            loss().backward()

        work()  # gradients are there from now on: what is counted is beyond the weights and theirs
        found[name] = {
            "loss": float(loss().detach()),
            "seconds": min(seconds_of(work, device) for _ in range(sizes.rounds)),
            "extra_bytes": extra_bytes(work, device),
        }
    if abs(found["ours"]["loss"] - found["all_tokens"]["loss"]) > 0.02:
        raise ValueError(f"the two heads have other losses ({found}): not the same work")
    return found


def train(stage: int, attention: str = "packed", batch: int = 0, dtype: str = "") -> Callable[..., dict[str, Any]]:
    """Steps of an encoder of XLM-R Large's shape with random weights on the toy world's nine tasks, through
    `stilts run`; `batch` 0: the size's own."""

    def measure(sizes: Sizes, out: Path) -> dict[str, Any]:
        size = batch or sizes.batch
        name = f"zero{stage}-{attention}-{size}"
        study = [
            f"name={name}", f"output_dir={out / 'runs'}", f"intermediate={{nine: [{NINE}]}}", "targets=[xnli]",
            "sampling.unit=example", "keep=scores", "report_to=[]",
        ]  # fmt: skip
        model = [f"model.name_or_path={random_model(sizes, out)}", f"model.attn_implementation={attention}"]
        engine = [f"engine.zero_stage={stage}", f"engine.dtype={dtype or sizes.dtype}", "launch.nproc=1"]
        settings = {
            "max_steps": sizes.steps, "train_batch_size": size, "per_device_train_batch_size": size,
            "save_steps": 0, "eval_examples": 1, "logging_steps": 3,
        }  # fmt: skip
        training = [f"intermediate_training.{key}={value}" for key, value in settings.items()]
        stilts = [sys.executable, "-m", "stilts_launcher.cli", "run", "quickstart"]
        command = [*stilts, "--phase", "nine/seed1/intermediate", *study, *model, *engine, *training]
        subprocess.run(command, check=True)
        [curve] = (out / "runs" / name).glob("phases/intermediate-*/metrics.jsonl")
        records = [json.loads(line) for line in curve.read_text().splitlines()]
        steps = [record for record in records if "train/loss" in record]
        rates = [record["train/tokens_per_second"] for record in steps]
        # The later half: the first steps allocate, compile and tune.
        settled = sorted(rates[len(rates) // 2 :])
        peaks = [record.get("memory/device_peak_gib", 0.0) for record in records]
        return {
            "first_loss": steps[0]["train/loss"],
            "tokens_per_second": settled[len(settled) // 2],
            "mfu": steps[-1].get("train/mfu"),
            "peak_gib": max(peaks),
        }

    return measure


def random_model(sizes: Sizes, out: Path) -> Path:
    """A folder with an encoder of XLM-R's kind, random weights and the toy world's tokenizer; made once."""
    from stilts_ds.model_files import TOY
    from stilts_ds.toy.model import write_shape

    folder = out / "model"
    if not folder.exists():
        # Renamed when it is whole: a step that is ended while it writes leaves none.
        fresh = out / f".model.{os.getpid()}"
        write_shape(fresh, TOY, sizes.hidden, sizes.layers, sizes.vocabulary)
        os.replace(fresh, folder)
    return folder


def run_gates(sizes: Sizes, out: Path) -> dict[str, Any]:
    """The tests that need a GPU, of a checkout: kernels against float64, and steps that wait for nothing."""
    root = Path(__file__).resolve().parents[3]
    # A trial starts the same program, which finds no test there: it has no GPU to try.
    mark = "gpu" if sizes.device == "cuda" else "gpu and not gpu"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", mark, "tests/kernels", "-p", "no:cacheprovider"],
        cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    none_chosen = 5
    if done.returncode not in (0, none_chosen):
        raise ValueError(f"tests failed: {done.stdout[-3000:]}")
    return {"told": done.stdout.strip().splitlines()[-1:]}


@dataclass(frozen=True)
class Step:
    """One measurement in a process of its own, which is ended after `seconds`."""

    name: str
    seconds: int
    measure: Callable[[Sizes, Path], dict[str, Any]]


STEPS = (
    Step("matmul", 30, measure_matmul),
    Step("topk-k4", 90, search("topk", "queries", "rows", 4)),
    Step("two-way", 90, search("mine", "pairs", "pairs", 4)),
    Step("variants", 100, measure_variants),
    Step("train", 100, train(1)),
    Step("train-padded", 100, train(1, "sdpa")),
    Step("head", 40, measure_head),
    Step("topk-k16", 90, search("topk", "queries", "rows", 16)),
    Step("topk-float32", 90, search("topk", "queries", "rows", 4, "float32")),
    Step("train-24", 70, train(1, batch=24)),
    Step("zero2", 80, train(2)),
    Step("zero3", 100, train(3)),
    Step("zero0", 80, train(0, dtype="fp32")),
    Step("gates", 150, run_gates),
    Step("mining-400k", 120, search("mine", "corpus", "corpus", 4)),
)


# --- running ----------------------------------------------------------------------------------------------------------


def read_results(out: Path) -> dict[str, Any]:
    """What is done, in the order of the steps."""
    return {
        step.name: json.loads(path.read_text())
        for step in STEPS
        if (path := out / f"{step.name}.json").exists()
    }  # fmt: skip


def write_result(out: Path, name: str, result: Mapping[str, Any]) -> None:
    # Renamed into place: a step that was killed while it wrote is one that is not done.
    fresh = out / f".{name}.json"
    fresh.write_text(json.dumps(result, indent=1))
    os.replace(fresh, out / f"{name}.json")


def run_step(step: Step, out: Path, trial: bool, limit: float) -> None:
    """Measure one step in a process of its own; one that fails or takes too long leaves the reason."""
    command = [sys.executable, "-m", "stilts_bench.gpu", "--out", str(out), "--step", step.name]
    command += ["--trial"] if trial else []
    # A session of its own: ranks that it started end with it.
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # a checkout's folders, where nothing is installed
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, **paths})
    try:
        status = process.wait(timeout=limit)
        reason = f"ended with status {status}; its output says why"
    except subprocess.TimeoutExpired:
        status, reason = -1, f"took more than {limit:.0f} s and was ended"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status != 0:
        write_result(out, step.name, {FAILED: reason})


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when every step is done, 3 when time ran out before, 1 when one failed."""
    parser = argparse.ArgumentParser(prog="stilts bench gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; given again, it is continued")
    parser.add_argument("--minutes", type=float, default=WHOLE_MINUTES, help="of this start (default: 15)")
    parser.add_argument("--trial", action="store_true", help="everything small, on a CPU: no figure counts")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="these steps alone")
    parser.add_argument("--again", action="store_true", help="also steps that failed before")
    parser.add_argument("--step", choices=[step.name for step in STEPS], help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    out, sizes = given.out.resolve(), TRIAL if given.trial else FULL
    if given.step:
        [step] = [step for step in STEPS if step.name == given.step]
        write_result(out, step.name, step.measure(sizes, out))
        return 0
    import torch

    if not given.trial and not torch.cuda.is_available():
        print("error: torch sees no CUDA device; --trial runs everything small on the CPU", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * given.minutes
    chosen = [step for step in STEPS if not given.only or step.name in given.only]
    done = read_results(out)
    for step in chosen:
        if step.name in done and not (given.again and FAILED in done[step.name]):
            continue
        left = ends - time.monotonic()
        # A step that cannot end in time would only take it from those that can.
        if left >= step.seconds:
            print(f"{step.name}: at most {step.seconds} s, {left:.0f} s left", flush=True)
            run_step(step, out, given.trial, step.seconds)
    done = read_results(out)
    (out / "table.md").write_text(table(done, [step.name for step in STEPS], given.trial))
    print((out / "table.md").read_text())
    if any(FAILED in done[step.name] for step in chosen if step.name in done):
        return 1
    return 0 if all(step.name in done for step in chosen) else 3


if __name__ == "__main__":
    sys.exit(main())
