"""A model of the Hugging Face hub on this machine: at which commit, and with all files that training needs."""

from __future__ import annotations

import contextlib
import logging
import re
from pathlib import Path

from stilts_ds.config import Recipe
from stilts_ds.errors import UserError
from stilts_ds.hub_client import Repository, ask_hub, cache_home, go_offline_without_network
from stilts_ds.model_files import TOKENIZER_FILES, model_folder, model_path
from stilts_ds.run_dir import hash_file, write_json
from stilts_ds.sources.hub import COMMIT, HUB_SECONDS, kept_commits
from stilts_ds.weight_files import check_weights

log = logging.getLogger(__name__)
SHA256 = re.compile(r"[0-9a-f]{64}")


def is_hub_model(recipe: Recipe) -> bool:
    return not Path(model_path(recipe.model.name_or_path)).exists()


def pin_model(recipe: Recipe, kept: Path, ask: bool) -> Recipe:
    """The recipe with its hub model at a commit, so that a branch that moves does not change a study half way.

    A revision that is no commit is resolved once and kept in the file `kept`, like those of data sets: by what stands
    there, by the hub if it may be asked, or by the copy in the cache. Where nobody knows, the recipe comes back as it
    is: the model is not here either. Raises UserError with what the hub refused.
    """
    name, revision = recipe.model.name_or_path, recipe.model.revision
    if not is_hub_model(recipe) or COMMIT.fullmatch(revision or ""):
        return recipe
    moving = f"models/{name}@{revision or 'main'}"
    commits = kept_commits(kept)
    commit = commits.get(moving)
    if commit is None:
        # The hub first: the cache may hold an older commit of the branch, from another study.
        commit = (_newest_commit(name, revision) if ask else None) or _cached_commit(name, revision)
    if commit is None:
        return recipe
    if ask and moving not in commits:
        log.info("model %s: commit %s, kept in %s", name, commit, kept)
        with contextlib.suppress(OSError):  # a cache that is only read
            write_json(kept, {**commits, moving: commit})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"revision": commit})})


def _newest_commit(name: str, revision: str | None) -> str | None:
    """The commit behind a branch now; None without network."""
    if go_offline_without_network():
        return None
    # Here, and not above: its import reads HF_HUB_OFFLINE, which may be set only when the network is found absent.
    from huggingface_hub import HfApi

    def newest() -> str | None:
        return HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS).sha

    return ask_hub(newest, Repository(name, "model", revision), f"cannot fetch model {name} from the hub")


def _cached_commit(name: str, revision: str | None) -> str | None:
    folder = model_folder(name, revision)
    return folder.name if folder is not None and COMMIT.fullmatch(folder.name) else None


def ensure_model(recipe: Recipe) -> Path:
    """The folder with the recipe's model; downloaded where it is a hub model that is not whole in the cache."""
    return ensure_model_files(recipe.model.name_or_path, recipe.model.revision)


def ensure_model_files(name: str, revision: str | None) -> Path:
    """The folder of a local model, or of a hub model whose files are in the cache, and are fetched where they are not.
    Raises UserError where that cannot be."""
    folder = model_folder(name, revision)
    if folder is not None and (Path(model_path(name)).exists() or _is_whole(folder)):
        return folder
    if unreachable := go_offline_without_network():
        raise UserError(
            f"model {name} is not in the Hugging Face cache (HF_HOME={cache_home()}), and {unreachable}; run "
            "`stilts fetch` where there is a network"
        )
    return download_model(name, revision)


def _is_whole(folder: Path) -> bool:
    try:
        check_weights(folder)
    except UserError:
        return False
    # A download that was cut may have brought the weights and no tokenizer.
    return any(True for pattern in TOKENIZER_FILES for _ in folder.glob(pattern))


def download_model(name: str, revision: str | None) -> Path:
    """Configuration, tokenizer and weights of a hub model, into the cache; its folder there.

    Raises UserError with what the hub refused, and where a file is not what the hub says it is.
    """
    from huggingface_hub import HfApi, snapshot_download

    def download() -> Path:
        # Asked first, because which weight files to take depends on which there are.
        files = HfApi().list_repo_files(name, revision=revision)
        return Path(snapshot_download(name, revision=revision, allow_patterns=model_files_of(files)))

    doing = f"cannot fetch model {name} from the hub"
    folder = ask_hub(download, Repository(name, "model", revision), doing)
    check_hashes(folder)
    return folder


def model_files_of(files: list[str]) -> list[str]:
    """Patterns of what training needs of a model repository: one format of the weights, safetensors where offered."""
    safe = any(file.endswith(".safetensors") and "/" not in file for file in files)
    weights = (
        ["model*.safetensors", "model.safetensors.index.json"]
        if safe
        else ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
    )
    wanted = ("config.json", *TOKENIZER_FILES, *weights)
    # Folders of a repository hold other formats (onnx/, coreml/) and older versions.
    at_top = [file for file in files if "/" not in file]
    return [file for file in at_top if any(Path(file).match(pattern) for pattern in wanted)]


def check_hashes(folder: Path) -> None:
    """Raise UserError for a large file of a snapshot whose bytes are not those of its name.

    The cache keeps them under their SHA-256, which huggingface_hub does not compare: it looks at sizes only.
    """
    for file in sorted(folder.iterdir()):
        stored = file.resolve()
        if SHA256.fullmatch(stored.name) and hash_file(stored) != stored.name:
            raise UserError(
                f"{stored} ({file.name}) does not have the SHA-256 of its name: the download was damaged; delete it, "
                "and the same command fetches it again"
            )
