"""Targets: what a user writes (recipes, overrides, cluster profiles, DeepSpeed files) and what launchers set."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from fuzz_mutate import Dice, damage_json, damage_text, damage_value, value, word
from fuzz_target import Once, Target
from stilts_launcher.backends.base import Job
from stilts_launcher.backends.registry import load_profile
from stilts_launcher.backends.slurm import sbatch_command, srun_command
from stilts_launcher.discover import discover

from stilts_ds.config import NAME, EnginePart, Recipe, load_recipe, parse_recipe, recipe_yaml
from stilts_ds.ds_files import ALLOWED, ALLOWED_ZERO, base_config
from stilts_ds.errors import UserError
from stilts_ds.planner import make_plan
from stilts_ds.recipe_paths import resolve_paths
from stilts_ds.yaml_files import parse_yaml

RECIPE: dict[str, Any] = {
    "name": "study", "output_dir": "runs", "seeds": [1, 2], "model": {"name_or_path": "toy", "dropout": 0.1},
    "data": {"source": "local", "intermediate": "data/i", "xtreme": "data/x", "train_split": {"xcopa": "dev"},
             "text_hub": {"repo": "w/w", "config": "1.{language}", "revision": "0" * 40, "languages": ["de"]}},
    "intermediate": {"none": [], "nli": ["mnli"], "both": ["mnli", "ccg", "mlm"], "mt": ["mnli.de"]},
    "targets": ["xnli", "xquad", "mlqa", "tatoeba"], "sampling": {"weights": {"mnli": 2, "ccg": 1}, "mlm_share": 0.1},
    "intermediate_training": {"max_steps": 5}, "target_training": {"learning_rate": 3.0e-6},
    "task_training": {"mnli": {"train_batch_size": 16}}, "engine": {"zero_stage": 2, "dtype": "bf16"},
    "launch": {"nproc": 2}, "evaluation": {"languages": {"xnli": ["de"]}, "splits": {"xnli": "dev"}, "max_bitext": 5},
}  # fmt: skip
PROFILE: dict[str, Any] = {
    "partition": "gpu", "account": "me", "nodes": 2, "gpus_per_node": 4, "cpus_per_task": 8, "time": "12:00:00",
    "mem": "120G", "extra": ["--nice=5"], "setup": ["module load cuda"], "python": "/opt/bin/python",
    "jobs": {"target": {"nodes": 1, "time": "1-00:00:00"}, "report": {"partition": "cpu"}}, "array_limit": 3,
    "container": {"runtime": "apptainer", "image": "a.sif", "mounts": ["/data:/data"]}, "max_restarts": 2,
}  # fmt: skip
DEEPSPEED = {
    "zero_optimization": {"stage": 2, "overlap_comm": True, "stage3_param_persistence_threshold": 0},
    "communication_data_type": "fp32",
}
KEYS = (
    "name",
    "seeds",
    "targets",
    "engine.zero_stage",
    "data.source",
    "intermediate",
    "sampling.weights",
    "model",
    "target_training.max_steps",
    "evaluation.languages",
    "engine.collective_timeout",
    "x.y.z",
    "",
    ".",
    "seeds.0",
)
YAML_PIECES = ("a: &a [1]\n", "*a", "<<: *a\n", "? ", "!!python/object/apply:os.system [id]", "!!binary x",
               "!!set {a}", "- ", "{", "}", "[", "]", "|\n", ">", "#", "%YAML 1.1\n---\n", "---\n", "\t", "2001-99-99",
               "!!int ''", "&a [*a]", "!!float z", "0b2", "'", '"\\ud800"', "1:2:3", "=", "@", "`",
               "name: x\nname: y\n")  # fmt: skip


def use(recipe: Recipe) -> None:
    """What follows when a recipe is accepted: folders, the plan, every phase's settings, and reading it back."""
    settled = resolve_paths(recipe)
    assert settled.output_dir.is_absolute() and re.fullmatch(NAME, recipe.name)
    back = parse_recipe(parse_yaml(recipe_yaml(settled), "written"), "written")
    assert back == settled
    plan = make_plan(settled, "model", lambda task: f"data of {task}")
    json.dumps(plan.to_json(), allow_nan=False)
    for phase in plan.phases:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", phase.id) and len(phase.id) < 200
        for name in phase.train:
            phase.setting(name)


def make_recipe_values(folder: Path) -> Once:
    use(parse_recipe(RECIPE, "recipe"))

    def once(dice: Dice) -> None:
        values = damage_value(dice, RECIPE)
        use(parse_recipe(values, "recipe"))

    return once


def make_recipe_text(folder: Path) -> Once:
    path = folder / "study.yaml"
    text = yaml.safe_dump(RECIPE, sort_keys=False).encode()
    path.write_bytes(text)
    use(load_recipe(str(path)))

    def once(dice: Dice) -> None:
        path.write_bytes(yaml_text(dice, text, RECIPE))
        use(load_recipe(str(path)))

    return once


def yaml_text(dice: Dice, text: bytes, values: Any) -> bytes:
    what = dice.random()
    if what < 0.4:
        return damage_text(dice, text)
    if what < 0.7:
        lines = text.split(b"\n")
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(lines))
            lines[at] = lines[at] + dice.choice(YAML_PIECES).encode("utf-8", "surrogatepass")
        return b"\n".join(lines)
    if what < 0.75:
        return billion(dice)
    damaged = damage_value(dice, values)
    return yaml.safe_dump(damaged, allow_unicode=dice.random() < 0.5).encode("utf-8", "surrogatepass")


def billion(dice: Dice) -> bytes:
    """Aliases of aliases, or plain nesting."""
    if dice.random() < 0.5:
        return b"targets: " + dice.choice((b"[", b"{a: ", b"- ")) * dice.choice((60, 3000))
    depth, width = dice.choice((3, 9, 30)), dice.choice((2, 10))
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join([*lines, "name: study", f"targets: *a{depth - 1}"]).encode()


def make_overrides(folder: Path) -> Once:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(RECIPE))

    def once(dice: Dice) -> None:
        given = [override(dice) for _ in range(dice.randint(1, 3))]
        try:
            use(load_recipe(str(path), given))
        except UserError as refusal:
            keys = [one.partition("=")[0].split(".")[0] for one in given]
            if not any(key and key[:10] in str(refusal) for key in keys) and str(path) not in str(refusal):
                assert "is no override" in str(refusal), refusal
            raise

    return once


def override(dice: Dice) -> str:
    key = dice.choice(KEYS) if dice.random() < 0.9 else ".".join(["a"] * dice.choice((2, 49, 5000)))
    what = dice.randrange(4)
    if what == 0:
        return f"{key}={word(dice)}"
    if what == 1:
        return f"{key}={dice.choice(YAML_PIECES)}"
    if what == 2:
        return f"{key}{word(dice)}"
    return f"{key}={json.dumps(value(dice))}"


def make_cluster(folder: Path) -> Once:
    path = folder / "cluster.yaml"
    text = yaml.safe_dump(PROFILE, sort_keys=False).encode()

    def once(dice: Dice) -> None:
        path.write_bytes(yaml_text(dice, text, PROFILE))
        profile = load_profile(path)
        for kind, phases in (("intermediate", ("a", "b")), ("target", ("c",)), ("report", ())):
            job = Job(kind, f"study-{kind}", Path("/runs/study"), phases, ("1_0",))  # type: ignore[arg-type]
            command = sbatch_command(job, profile, Path("/s.sbatch"))
            # The script is the first word that is no option: sbatch stops to look for options there.
            assert command[0] == "sbatch" and command.index("/s.sbatch") == 1 + sum(c.startswith("--") for c in command)
            assert all(c.isprintable() and c for c in command)
            shlex.join(command).encode()
            srun = srun_command([profile.python or "python", "RUN", "PHASE"], profile.container)
            assert srun[0] == "srun" and all(part.isprintable() and part for part in srun)

    return once


def make_ds_config(folder: Path) -> Once:
    path = folder / "ds.json"

    def once(dice: Dice) -> None:
        path.write_bytes(damage_json(dice, DEEPSPEED))
        config = base_config(EnginePart(ds_config=path, zero_stage=2))
        assert set(config) <= set(ALLOWED) and set(config["zero_optimization"]) <= set(ALLOWED_ZERO)
        json.dumps(config, allow_nan=False).encode()

    return once


ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {},
    {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
    {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "SLURM_PROCID": "0",
     "SLURM_NTASKS": "2"},
    {"SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1",
     "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "n[0-1]", "SLURM_STEP_NUM_NODES": "2", "STILTS_MASTER_ADDR": "n0"},
    {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
)  # fmt: skip
NAMES = tuple(sorted({name for one in ENVIRONMENTS for name in one}))


def make_environment(folder: Path) -> Once:
    def once(dice: Dice) -> None:
        variables = dict(dice.choice(ENVIRONMENTS))
        for _ in range(dice.randint(1, 3)):
            name = dice.choice(NAMES)
            if dice.random() < 0.3:
                variables.pop(name, None)
            else:
                variables[name] = dice.choice((word(dice), "0", "1", "2", "3", "-1", "65536", " 1", "1_0", "१"))
        place = discover(variables, lambda text: text or "rank-0 29500")
        if place is not None:
            assert 0 <= place.rank < place.size and 0 <= place.local_rank < place.size and 0 < place.port < 65536
            assert place.address and place.address.isprintable() and " " not in place.address

    return once


PLACES = ("intermediate", "targets", "sampling", "task_training", "data.", "evaluation.")
TARGETS = (
    Target("recipe values", 100, make_recipe_values, ("recipe: ", *PLACES)),
    Target("recipe YAML", 30, make_recipe_text, PLACES),
    Target("overrides", 40, make_overrides, ("=", "override", *PLACES)),
    Target("cluster profiles", 50, make_cluster),
    Target("DeepSpeed JSON", 60, make_ds_config),
    Target("launcher variables", 100, make_environment, (*NAMES, "srun")),
)
