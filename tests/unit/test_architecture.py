"""The layout as rules: what may import what, which package is named where, what a light command must not load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
import ranks
from source_modules import MODULES, SOURCES, imports, named, source_of, tree_of

ROOT = ranks.ROOT
# The story from its first line to its last: a module imports only what stands before it, or beside it in its package.
ORDER = """
errors display escape shipped hub_client execute values versions phase_status run_dir locks yaml_files robust
execution generation data_settings quick_look retired config recipe_paths ds_files noise checklist tasks sources toy
model_kinds weight_files model_files model_hub rows model families task_files contamination named_tasks plan_file
trial_file phase_names lineage phase_queue disk augmentation planner unread data trackers batches engine export
evaluate mining planning report study phase_tracking phase_setup phase_record phases trial
"""
LAYERS = ORDER.split()
KERNEL_LAYERS = ["common", "dropout", "topk", "mining", "dispatch"]
TRANSFORMERS_BENCHES = ["stilts_bench.generation", "stilts_bench.training"]
HEAVY = {  # package -> the modules (or packages of modules) that may name it
    "deepspeed": ["stilts_ds.engine"],
    "transformers": [
        "stilts_ds.model.encoder",
        "stilts_ds.model.standard",
        "stilts_ds.rows.tokenizer",
        "stilts_ds.toy",
        *TRANSFORMERS_BENCHES,
    ],
    "tokenizers": ["stilts_ds.toy", "stilts_ds.rows.tokenizer"],
    "datasets": ["stilts_ds.sources.hub", "stilts_ds.sources.tables"],
    "tensorboard": ["stilts_ds.trackers"],
    "faiss": ["stilts_ds.mining.candidates", "stilts_bench"],
    "stilts_kernels": [
        "stilts_ds.model",
        "stilts_ds.families.bitext.head",
        "stilts_ds.families.ranking.head",
        "stilts_ds.mining",
        "stilts_launcher.doctor",
        "stilts_bench",
    ],
    "pandas": ["stilts_ds.study", "stilts_launcher.python"],
    "mpi4py": ["stilts_launcher.discover", "stilts_launcher.doctor"],
}
LIGHT = [
    "stilts_ds.execute.floors", "stilts_launcher.execute", "stilts_launcher.cli", "stilts_launcher.discover",
    "stilts_launcher.local", "stilts_ds.config", "stilts_ds.planner", "stilts_ds.plan_file", "stilts_ds.trial_file",
    "stilts_ds.evaluate.result", "stilts_ds.tasks.registry", "stilts_ds.data.data", "stilts_ds.families.registry",
    "stilts_ds.model_files", "stilts_ds.run_dir", "stilts_ds.report.tables", "stilts_ds.toy",
    "stilts_launcher.show.plan", "stilts_launcher.submit", "stilts_launcher.status", "stilts_launcher.supervise",
    "stilts_launcher.backends.registry", "stilts_launcher.trial", "stilts_launcher.worlds", "stilts_launcher.fetch",
    "stilts_ds.planning.sizes", "stilts_ds.planning.estimates", "stilts_ds.planning.advice",
    "stilts_ds.evaluate.run_submission",
]  # fmt: skip


def layer(name: str) -> int | None:
    parts = name.split(".")
    return LAYERS.index(parts[1]) if parts[0] == "stilts_ds" and len(parts) > 1 else None


def test_the_rules_look_at_every_package() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(SOURCES) and len(MODULES) > 60
    assert {name.split(".")[1] for name in MODULES if name.startswith("stilts_ds.")} == set(LAYERS)


# Each rule below goes through all of its modules in one test: a test for each module would be two thousand of them.


def test_a_module_imports_only_layers_before_its_own() -> None:
    for name in MODULES:
        own = layer(name)
        if own is None:
            continue
        for target, _ in imports(name):
            assert not target.startswith("stilts_launcher"), f"{name} imports the launcher"
            other = layer(target)
            assert other is None or other <= own, f"{name} imports {target}, which stands after it"


def test_heavy_packages_are_named_only_where_they_belong() -> None:
    for name in MODULES:
        for target, _ in imports(name):
            top = target.split(".")[0]
            if top in HEAVY and top != name.split(".")[0]:
                assert any(f"{name}.".startswith(f"{allowed}.") for allowed in HEAVY[top]), f"{name} imports {target}"


def test_the_kernels_stand_on_torch_and_triton_alone() -> None:
    allowed = {"torch", "triton", "stilts_kernels", *sys.stdlib_module_names}
    for name in named("stilts_kernels"):
        for target, _ in imports(name):
            assert target.split(".")[0] in allowed, f"{name} imports {target}"


def test_executing_programs_stands_on_the_standard_library() -> None:
    """So that it can be read in one sitting, copied to a machine that has nothing, and carried into the sandbox."""
    for name in named("stilts_ds.execute"):
        for target, _ in imports(name):
            alone = target.split(".")[0] in sys.stdlib_module_names
            assert alone or target.startswith(("stilts_ds.execute", "stilts_ds.errors")), f"{name} imports {target}"


def test_nothing_that_trains_or_evaluates_can_execute_programs() -> None:
    """They are executed by a verb of its own and behind a run's ranks. Reading files and scores runs nothing."""
    harmless = {
        f"stilts_ds.execute.{name}" for name in ("benchmarks", "errata", "passk", "programs", "samples", "settings")
    }
    executing = ("stilts_ds.execute", "stilts_launcher.execute", "stilts_bench.execute")
    for name in MODULES:
        targets = {target for target, _ in imports(name) if f"{target}.".startswith("stilts_ds.execute.")}
        if not name.startswith(executing):
            assert targets <= harmless, f"{name} imports {', '.join(sorted(targets - harmless))}"
    assert ("stilts_ds.execute.passk", True) in imports("stilts_ds.evaluate.recode")


def test_a_kernel_imports_only_operations_before_its_own() -> None:
    """Mining stands on top-k, both stand on what they share, nothing on the package's front door."""
    for name in named("stilts_kernels."):
        own = KERNEL_LAYERS.index(name.split(".")[1])
        for target, _ in imports(name):
            if target.split(".")[0] == "stilts_kernels":
                assert KERNEL_LAYERS.index(target.split(".")[1]) <= own, f"{name} imports {target}"


def test_nothing_but_the_command_line_loads_a_benchmark() -> None:
    """`stilts bench` finds them by name when it is asked to; no search, no training, no other command does."""
    for name in MODULES:
        if name.startswith("stilts_bench"):
            continue
        assert not [target for target, _ in imports(name) if target.split(".")[0] == "stilts_bench"], name
        assert name == "stilts_launcher.cli" or "stilts_bench" not in source_of(name), name


@pytest.mark.processes
def test_a_search_on_a_cpu_needs_no_triton() -> None:
    """Also for `topk` on a CPU: the function keeps its name although a package of that name stands below it."""
    program = (
        "import sys; import stilts_kernels.mining.files; from stilts_kernels import topk; import torch\n"
        "topk(torch.ones(2, 3), torch.ones(4, 3), 1); print('triton' in sys.modules)\n"
        "from stilts_kernels.topk import cuda; import stilts_kernels; print(stilts_kernels.topk is topk)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ranks.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "True"]


def test_no_packages_import_each_other_in_a_circle() -> None:
    edges = {
        name: {target for target, at_once in imports(name) if at_once and target in MODULES and target != name}
        for name in MODULES
    }
    left = dict(edges)
    while leaves := [name for name, targets in left.items() if not targets & set(left)]:
        for name in leaves:
            del left[name]
    assert not left, f"import circle among {sorted(left)}"


def test_files_are_short_and_shadow_no_standard_module() -> None:
    for name, path in MODULES.items():
        assert len(source_of(name).splitlines()) <= 400, path
        assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names, path
    # The story of a run is to be read in one sitting.
    assert len(source_of("stilts_ds.phases").splitlines()) <= 150


def test_test_files_are_short() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports a test file by its bare name: of two that share one, the second ends a whole run as an error."""
    names = Counter(path.stem for path in (ROOT / "tests").rglob("*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_folders_that_would_shadow_packages_are_no_packages() -> None:
    """transformers imports a PyPI package called `kernels`; a package of that name in the checkout would hide it."""
    for folder in ("kernels", "kernels/bench", "launcher", "tests", "tests/kernels"):
        assert not (ROOT / folder / "__init__.py").exists(), folder


@pytest.mark.processes
def test_light_modules_load_no_heavy_package() -> None:
    """In a fresh interpreter, one after the other: a login node plans and submits without torch."""
    heavy = sorted({*HEAVY, "torch", "triton"} - {"stilts_kernels"})
    program = (
        f"import importlib, sys\nfor name in {LIGHT}:\n    importlib.import_module(name)\n"
        f"    loaded = sorted(set({heavy}) & set(sys.modules))\n    assert not loaded, (name, loaded)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ranks.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- messages --------------------------------------------------------------------------------------------------------

PLURAL = re.compile(r" (?:[a-z-]+ )?[a-z]+s\b")


def is_count(node: ast.expr) -> bool:
    """Whether a part of an f-string shows a `len` or `sum`, as a whole number."""
    if not isinstance(node, ast.FormattedValue) or not isinstance(node.value, ast.Call):
        return False
    called = node.value.func
    form = ast.unparse(node.format_spec) if node.format_spec is not None else ""
    return isinstance(called, ast.Name) and called.id in ("len", "sum") and not re.search(r"\.\d", form)


def plain_counts(tree: ast.Module) -> Iterator[int]:
    """Lines with f-strings such as f"{len(files)} files", which say `1 files`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        for before, value, after in zip([None, *node.values], node.values, node.values[1:]):
            of_many = isinstance(before, ast.Constant) and str(before.value).endswith(" of ")  # `1 of 5 files` is right
            if is_count(value) and not of_many and isinstance(after, ast.Constant) and PLURAL.match(str(after.value)):
                yield value.lineno


def test_counts_in_messages_agree_with_their_nouns() -> None:
    """`errors.counted` gives `1 file` and `2 files`."""
    for name in MODULES:
        if not name.startswith("stilts_kernels"):  # they stand alone, without `errors`
            assert list(plain_counts(tree_of(name))) == [], name


def test_a_count_that_does_not_agree_would_be_found() -> None:
    for line in ('f"{len(files)} files"', 'f"Missing: {len(a.b)} things, see"', 'f"{sum(sizes):,} gold pairs"'):
        assert list(plain_counts(ast.parse(line))) == [1], line
    for line in ('f"{done} of {len(files)} files"', "f\"{counted(len(files), 'file')}\"", 'f"{sum(hours):.2f} hours"'):
        assert list(plain_counts(ast.parse(line))) == [], line


def test_no_choice_stands_inside_another() -> None:
    """`a if b else c if d else e` needs a second reading: name the cases one after the other."""
    nested = [
        f"{name}:{node.lineno}"
        for name in MODULES
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.IfExp)
        and any(isinstance(inner, ast.IfExp) for part in ast.iter_child_nodes(node) for inner in ast.walk(part))
    ]
    assert nested == []


# --- launchers -------------------------------------------------------------------------------------------------------

SLURMS = re.compile(r"(?<![.\w])(sbatch|squeue|sacct|scancel|scontrol|srun)\b|\bSLURMD?_|\bSRUN_")  # not x.sbatch


def test_only_slurms_own_file_names_its_commands_and_variables() -> None:
    """Also in messages and comments: another launcher must be one file."""
    for name in MODULES:
        if name == "stilts_launcher.backends.slurm":
            continue
        for number, line in enumerate(source_of(name).splitlines(), 1):
            assert not SLURMS.search(line), f"{name}:{number} speaks of Slurm: {line.strip()}"


def test_slurms_words_would_be_found() -> None:
    for line in ('call(["squeue"])', "SLURM_JOB_ID", 'environ["SLURMD_NODENAME"]', "starts it with srun."):
        assert SLURMS.search(line), line
    assert not SLURMS.search("slurm/target.sbatch")
    assert SLURMS.search(source_of("stilts_launcher.backends.slurm"))
