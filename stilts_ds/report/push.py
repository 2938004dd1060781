"""A phase's encoder, heads and card as a repository of the Hugging Face hub: listed, then uploaded in one commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stilts_ds.errors import UserError
from stilts_ds.report.card import CARD, REPOSITORY
from stilts_ds.run_dir import PhaseDir

LINEAGE = "stilts.json"  # stays at home: it names folders of the machine; the card tells the lineage
BESIDE = ("heads.safetensors", "heads.json")


@dataclass(frozen=True)
class Upload:
    """One file and its place in the repository. A card is sent as `content`, with the repository's name in it."""

    source: Path
    target: str
    content: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.content) if self.content is not None else self.source.stat().st_size


def uploads(folder: PhaseDir, repo: str) -> list[Upload]:
    """What goes to the hub: the encoder's files at the top, so that AutoModel loads the repository, heads and card.

    Raises UserError where the folder is no trained phase, or has no card yet.
    """
    if not folder.encoder.is_dir():
        raise UserError(f"{folder.root} has no encoder/; give a trained phase's folder, such as runs/NAME/phases/ID")
    card = folder.root / CARD
    if not card.is_file():
        raise UserError(f"{folder.root} has no {CARD}; `stilts report {folder.root.parent.parent}` writes it")
    files = [Upload(path, path.relative_to(folder.encoder).as_posix()) for path in sorted(folder.encoder.rglob("*"))
             if path.is_file() and path.name != LINEAGE]
    beside = [Upload(folder.root / name, name) for name in BESIDE if (folder.root / name).is_file()]
    text = card.read_text(encoding="utf-8").replace(REPOSITORY, repo)
    return [*files, *beside, Upload(card, CARD, text.encode())]


def push(folder: PhaseDir, repo: str, private: bool = False, dry_run: bool = False) -> str:
    """Upload a phase to the hub repository `owner/name`, or with `dry_run` only check and list. Returns what to say."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--repo {repo!r} is no repository name of the hub ({error})") from error
    if repo.count("/") != 1:
        raise UserError(f"--repo {repo!r} needs an owner: write owner/name")
    files = uploads(folder, repo)
    if dry_run:
        return _listing(f"Would go to {repo}:", files)
    return _listing(f"{_upload(files, repo, private)} now holds:", files)


def _upload(files: list[Upload], repo: str, private: bool) -> str:
    """One commit with all files; returns the repository's address."""
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [CommitOperationAdd(file.target, file.content if file.content is not None else file.source)
                  for file in files]
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(repo, operations, commit_message="Encoder, heads and card from stilts-ds")
    except Exception as error:  # the HTTP client below huggingface_hub, and with it the errors, differ by version
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"the hub did not take the upload to {repo} ({reason}); check the network and the owner, "
                        "and log in with `hf auth login`") from error
    return str(address)


def _listing(head: str, files: list[Upload]) -> str:
    width = max(len(file.target) for file in files)
    lines = [f"  {file.target:<{width}}  {file.size:>13,} bytes" for file in files]
    total = sum(file.size for file in files)
    return "\n".join([head, *lines, f"  {'total':<{width}}  {total:>13,} bytes"])
