"""Pretrain the tiny XLM-R that comes with the package, from random weights, through the project's own MLM phase.

    python -m stilts_launcher.pretrain_toy OUT_DIR [key=value ...]
    python -m stilts_launcher.pretrain_toy --head MODEL_DIR

OUT_DIR receives the encoder with its language modelling head (bfloat16 weights), its tokenizer and stilts.json with the
phase, data hash and versions. Characters of programs, which the text has not, get pieces with random embeddings.

`--head` trains only a head, for a model that was published without one; its encoder stays as it is.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from stilts_ds.config import load_recipe
from stilts_ds.plan_file import Plan
from stilts_ds.recipe_paths import resolve_paths
from stilts_ds.rows.whitespace import ESCAPE, MARKS
from stilts_ds.run_dir import read_json, write_json
from stilts_ds.toy.world import ensure_toy_world
from stilts_launcher.start import run_of, run_recipe

# What programs are written in: printable ASCII, and what stands for white space.
CODE_CHARACTERS = "".join(map(chr, range(ord("!"), ord("~") + 1))) + "".join(MARKS.values()) + ESCAPE


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--head"] and len(arguments) == 2:
        return give_head(Path(arguments[1]))
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 2
    from safetensors.torch import load_file

    from stilts_ds.toy.head import save_with_head
    from stilts_ds.toy.model import add_characters, write_tiny_model

    recipe = resolve_paths(load_recipe("toy_pretrain", arguments[1:]))
    run = run_of(recipe)
    start = run.root / "random"
    ensure_toy_world(run.root / "data", recipe.data.seed)
    # Kept when the command is given again, which continues the phase that began with these weights.
    if not start.exists():
        write_tiny_model(run.root / "data", start, seed=recipe.seeds[0])
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name_or_path": str(start)})})
    status = run_recipe(recipe)
    if status == 0:
        # The recipe has one intermediate phase; this fails loudly should it ever get a second one.
        (phase,) = (phase for phase in Plan.load(run.plan).phases if phase.kind == "intermediate")
        out, folder = Path(arguments[0]), run.phase(phase.id)
        shrink(folder.encoder, out)
        add_characters(out, CODE_CHARACTERS, seed=recipe.seeds[0])
        save_with_head(out, {name.removeprefix("mlm."): value for name, value in load_file(folder.heads).items()})
    return status


def give_head(folder: Path) -> int:
    """Train a head for the model in a folder, on the toy world's text, and save it there."""
    from stilts_ds.toy.head import save_with_head, train_head

    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch) / "world"
        ensure_toy_world(world, load_recipe("toy_pretrain").data.seed)
        save_with_head(folder, train_head(folder, world))
    return 0


def shrink(encoder: Path, out: Path) -> None:
    """Copy an encoder folder with its weights in bfloat16; its lineage names no folder of this machine."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(encoder, out, dirs_exist_ok=True)
    weights = {name: value.to(torch.bfloat16) for name, value in load_file(encoder / "model.safetensors").items()}
    # `init` is a path of this machine, and what stood there was random.
    write_json(out / "stilts.json", {**read_json(encoder / "stilts.json"), "init": "random weights"})
    # transformers refuses a file whose metadata name no format.
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
