"""Targets: files of numbers: checkpoints, token rows, exported phases, model folders, tokenizers, retrieval shards."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import small
import torch
from fuzz_mutate import Dice, damage_bytes, damage_json, damage_value, value
from fuzz_target import Once, Target
from safetensors.torch import load, load_file, save_file
from stilts_kernels.mining.files import topk_files
from stilts_kernels.topk import configs
from torch import nn

from stilts_ds.config import ModelPart, Recipe, parse_recipe
from stilts_ds.data.cache import cached_rows
from stilts_ds.engine import checkpoint
from stilts_ds.engine.saver import write_shard
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.export import export_model, load_trained
from stilts_ds.model.encoder import load_encoder, quiet, read_language_head
from stilts_ds.model_files import TOY, fingerprint, longest_row, shape_of, tokenizer_hash
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import PhaseDir, read_json, write_sealed
from stilts_ds.weight_files import check_weights, parameter_count

SETTING = ModelPart(attn_implementation="eager")
DTYPES = (torch.float64, torch.float16, torch.int32, torch.bool, torch.bfloat16)

LONE = World(0, 0, 1, torch.device("cpu"), None, None)  # the only rank


def damaged_file(dice: Dice, path: Path, original: bytes) -> None:
    """Bytes, JSON values, or tensors of another name, shape or type; or the file is gone, empty or another one."""
    what = dice.random()
    if what < 0.06:
        path.unlink(missing_ok=True)
    elif what < 0.12:
        path.write_bytes(b"")
    elif path.suffix == ".json" and what < 0.7:
        path.write_bytes(damage_json(dice, json.loads(original)))
    elif path.suffix == ".safetensors" and what < 0.4:
        save_file(damaged_tensors(dice, load(original)), path)
    elif path.suffix == ".safetensors" and what < 0.6:
        path.write_bytes(damaged_header(dice, original))
    else:
        path.write_bytes(damage_bytes(dice, original))


def damaged_tensors(dice: Dice, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = dice.choice(sorted(tensors))
    tensor = tensors.pop(name)
    what = dice.randrange(5)
    if what == 0:
        tensors[f"{name}x"] = tensor
    elif what == 1:
        tensors[name] = tensor.to(dice.choice(DTYPES))
    elif what == 2:
        tensors[name] = tensor.flatten()[: dice.randrange(tensor.numel() + 1)].clone()
    elif what == 3:
        tensors[name] = tensor.unsqueeze(0).clone()
    return tensors


def damaged_header(dice: Dice, original: bytes) -> bytes:
    """A safetensors file whose header says other things, with the right length before it."""
    length = int.from_bytes(original[:8], "little")
    header = json.dumps(damage_value(dice, json.loads(original[8 : 8 + length]))).encode()
    return len(header).to_bytes(8, "little") + header + original[8 + length :]


class Folder:
    """A folder of valid files, one of which is damaged at a time."""

    def __init__(self, root: Path, wanted: Callable[[Path], bool] = lambda path: True) -> None:
        self.files = {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and wanted(p)}

    def damage(self, dice: Dice) -> Path:
        path = dice.choice(list(self.files))
        damaged_file(dice, path, self.files[path])
        return path

    def mend(self) -> None:
        for path, content in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def tiny(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.LayerNorm(4), "c": nn.Linear(4, 2)})


def write_tag(folder: Path, step: int) -> None:
    """A checkpoint of two ranks, as the engine writes it."""
    tag = folder / f"step-{step:06d}"
    tag.mkdir(parents=True)
    names = [name for name, _ in tiny(step).named_parameters()]
    for rank in range(2):
        own = {name: value for i, (name, value) in enumerate(tiny(step).named_parameters()) if i % 2 == rank}
        write_shard(tag, rank, {f"{kind}/{name}": value.detach().clone() for name, value in own.items()
                                           for kind in (checkpoint.WEIGHT, *checkpoint.MOMENTS)})  # fmt: skip
    files: dict[str, Any] = {}
    for note in tag.glob("shard-*.json"):  # rank 0 gathers them into the manifest
        files |= read_json(note)
        note.unlink()
    state = {"step": step, "best_step": 0, "best_score": float("-inf"), "kept": {}, "names": names}
    write_sealed(tag / checkpoint.MANIFEST, {"step": step, "state": state, "world_size": 2, "files": files})


def make_checkpoints(folder: Path) -> Once:
    logging.getLogger("stilts_ds.engine.checkpoint").setLevel(logging.ERROR)
    root = folder / "checkpoints"
    for step in (7, 12):
        write_tag(root, step)
    kept = Folder(root)

    def once(dice: Dice) -> None:
        for _ in range(dice.choice((1, 1, 2, 4))):
            kept.damage(dice)
        if dice.random() < 0.1:
            (root / dice.choice(("step-000099", "step-x", "step-000012/shard-00009.safetensors"))).touch()
        try:
            found, _ = checkpoint.find(root, LONE)
            check_checkpoint(found, root)
        finally:
            shutil.rmtree(root, ignore_errors=True)
            kept.mend()

    return once


def check_checkpoint(found: checkpoint.Checkpoint | None, root: Path) -> None:
    """What is used is what was written; starting anew is right only where nothing was ever committed."""
    if found is None:
        assert not list(root.glob("*/manifest.json")), "a silent fresh start"
        return
    step = int(found.folder.name[5:])
    assert found.manifest["state"]["step"] == step
    model = tiny(0)
    found.weights_into(model)
    for (name, ours), (_, written) in zip(model.named_parameters(), tiny(step).named_parameters()):
        assert torch.equal(ours, written), name


# --- token rows ------------------------------------------------------------------------------------------------------


def make_rows(folder: Path) -> Once:
    rows = Rows(
        np.arange(12, dtype=np.int32),
        np.array([0, 5, 12]),
        np.array([5, 7], np.int32),
        np.array([0, 1], np.int32),
        np.array([0, 1, 2]),
        label=np.array([1, 0], np.int32),
        tally=Counter(cut=2),
    )
    key = {"task": "mnli", "files": "abc"}
    cached_rows(folder / "cache", key, lambda _: rows)
    kept = Folder(folder / "cache")

    def once(dice: Dice) -> None:
        for _ in range(dice.choice((1, 1, 3))):
            kept.damage(dice)
        try:
            found = cached_rows(folder / "cache", key, lambda _: rows, verify=True)
            assert found.tally == rows.tally
            for name in Rows.ARRAYS:
                ours, built = getattr(found, name), getattr(rows, name)
                assert (ours is None) == (built is None) and (ours is None or np.array_equal(ours, built)), name
        finally:
            shutil.rmtree(folder / "cache")
            kept.mend()

    return once


# --- models ----------------------------------------------------------------------------------------------------------


class SavesNothing:
    """Stands for a tokenizer whose files do not matter here."""

    def save(self, folder: Path) -> None:
        (folder / "tokenizer_config.json").write_text("{}")


def recipe() -> Recipe:
    return parse_recipe({"name": "x", "targets": ["xnli"], "model": {"attn_implementation": "eager"}}, "recipe")


def make_export(folder: Path) -> Once:
    quiet()
    phase, model = PhaseDir(folder / "phase"), small.model(hidden=8, layers=1)
    phase.root.mkdir()
    export_model(
        phase.root,
        model.encoder,
        SavesNothing(),
        list(model.specs.values()),  # type: ignore[arg-type]
        {name: value.detach() for name, value in model.named_parameters()},
        {"step": 3},
    )
    kept = Folder(phase.root, lambda path: path.name not in ("stilts.json",))
    expected = load_trained(phase, recipe(), torch.device("cpu"))

    def once(dice: Dice) -> None:
        kept.damage(dice)
        try:
            found = load_trained(phase, recipe(), torch.device("cpu"))
            assert found.specs == expected.specs
            for (name, ours), (_, written) in zip(found.named_parameters(), expected.named_parameters()):
                assert torch.equal(ours, written), name
        finally:
            kept.mend()

    return once


def make_model(folder: Path) -> Once:
    quiet()
    root = folder / "model"
    encoder: Any = small.model(hidden=8, layers=1).encoder
    encoder.save_pretrained(root)
    weights = load_file(root / "model.safetensors")
    head = {"dense.weight": torch.ones(8, 8), **{n: torch.ones(8) for n in ("dense.bias", "layer_norm.weight",
            "layer_norm.bias")}, "bias": torch.ones(small.VOCABULARY)}  # fmt: skip
    save_file(
        {**weights, **{f"lm_head.{name}": tensor for name, tensor in head.items()}},
        root / "model.safetensors",
        {"format": "pt"},
    )
    kept = Folder(root)

    def once(dice: Dice) -> None:
        kept.damage(dice)
        try:
            for look in (fingerprint, tokenizer_hash):
                look(str(root), None)
            shape_of(root), longest_row(str(root)), parameter_count(str(root))
            model: Any = load_encoder(root, SETTING)
            check_weights(root)
            read_language_head(root)
            assert all(p.dtype == torch.float32 and p.numel() < 1e6 for p in model.parameters())
        finally:
            kept.mend()

    return once


def make_tokenizer(folder: Path) -> Once:
    quiet()
    root = folder / "tokenizer"
    root.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOY / name, root / name)
    described = json.loads((root / "tokenizer.json").read_text())
    # A short vocabulary: the faults then fall on what is structure, and loading is quick.
    words = dict(sorted(described["model"]["vocab"].items(), key=lambda item: item[1])[:60])
    described["model"] |= {"vocab": words, "merges": []}
    (root / "tokenizer.json").write_text(json.dumps(described))
    kept = Folder(root)

    def once(dice: Dice) -> None:
        kept.damage(dice)
        try:
            encoder = Tokenizer.load(root)
            found = encoder.slices(["some text — ü", "plain words", ""])
            assert found.length[2] == 0 and bool((found.flat >= 0).all())
            assert len(encoder.fingerprint) == 64 and encoder.template.pair_cost >= 0
        finally:
            kept.mend()

    return once


# --- retrieval -------------------------------------------------------------------------------------------------------


def make_shards(folder: Path) -> Once:
    rng = np.random.default_rng(3)
    queries, bank = torch.tensor(rng.normal(size=(5, 8)), dtype=torch.float32), rng.normal(size=(30, 8))
    paths = [folder / "bank" / f"bank-{i}.npy" for i in range(2)]
    paths[0].parent.mkdir()
    for path, part in zip(paths, (bank[:20], bank[20:])):
        np.save(path, part.astype(np.float32))
    whole = topk_files(queries, paths, 3, folder / "parts")
    kept = Folder(folder)
    originals = {path: kept.files[path] for path in paths}

    def once(dice: Dice) -> None:
        kept.damage(dice)
        try:
            found = topk_files(queries, paths, 3, folder / "parts")
            assert found.values.shape == (5, 3) and bool(torch.isfinite(found.values).all())
            if all(path.exists() and path.read_bytes() == content for path, content in originals.items()):
                assert torch.equal(found.values, whole.values) and torch.equal(found.indices, whole.indices)
        except ValueError as refusal:  # this package's own way to refuse; it knows nothing of recipes and commands
            raise UserError(f"{refusal}; check the file") from None
        finally:
            kept.mend()

    return once


def make_tuned(folder: Path) -> Once:
    logging.getLogger(configs.__name__).setLevel(logging.ERROR)
    path = folder / "tuned.json"
    key = configs.record_key("H100", torch.float32, 64, 8, False)
    content = {key: {"config": configs.candidates(90, 8, False)[0], "milliseconds": 1.5}}

    def once(dice: Dice) -> None:
        path.write_bytes(damage_json(dice, content if dice.random() < 0.9 else {key: value(dice)}))
        try:
            configs.resolve.cache_clear()
            config, _ = configs.resolve(path, 90, key, 8, False)
            assert config in configs.candidates(90, 8, False)
        except ValueError as refusal:
            raise UserError(f"{refusal}; tune again or delete it") from None

    return once


TARGETS = (
    Target("checkpoints", 50, make_checkpoints),
    Target("token rows", 50, make_rows),
    Target("exported phases", 10, make_export),
    Target("model folders", 10, make_model),
    Target("tokenizers", 15, make_tokenizer),
    Target("retrieval shards", 40, make_shards),
    Target("tuned kernels", 40, make_tuned),
)
