"""A phase's encoder, heads and card as a repository of the Hugging Face hub: listed, then uploaded in one commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stilts_ds.errors import UserError
from stilts_ds.hub_client import Repository, ask_hub
from stilts_ds.report.card import CARD, REPOSITORY
from stilts_ds.run_dir import HEADS_JSON, PhaseDir, model_damage, read_sealed

LINEAGE = "stilts.json"  # stays at home: it names folders of the machine; the card tells the lineage


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

    Raises UserError where the folder is no trained phase or has no card yet, and where what lies there is not, file by
    file, what training wrote: a link, a file that training did not write, changed bytes.
    """
    if not folder.encoder.is_dir():
        raise UserError(f"{folder.root} has no encoder/; give a trained phase's folder, such as runs/NAME/phases/ID")
    card = folder.root / CARD
    if not card.is_file():
        raise UserError(f"{folder.root} has no {CARD}; `stilts report {folder.root.parent.parent}` writes it")
    encoder_files = sorted(
        path for path in folder.encoder.rglob("*") if path.name != LINEAGE and (path.is_symlink() or not path.is_dir())
    )
    head_files = [folder.heads, folder.heads_json]
    for path in (folder.encoder, *encoder_files, *head_files, card):
        if path.is_symlink():
            # Where it leads is what must not be published; a name that a stranger gave the link says nothing.
            raise UserError(
                f"{path.parent} holds a link to {path.readlink()}, which would be published; put a copy in its place, "
                f"or delete it (`find {path.parent} -maxdepth 1 -type l` names it)"
            )
    # heads.json itself is what the others are checked against, and is sealed.
    _check_record(folder, [*encoder_files, folder.heads])
    files = [Upload(path, path.relative_to(folder.encoder).as_posix()) for path in encoder_files]
    files += [Upload(path, path.name) for path in head_files]
    # Only in what is sent: the card beside the encoder keeps the placeholder for the next repository.
    text = card.read_text(encoding="utf-8").replace(REPOSITORY, repo)
    return [*files, Upload(card, CARD, text.encode())]


def _check_record(folder: PhaseDir, files: list[Path]) -> None:
    """Raise UserError where the files are not those that heads.json names, with their hashes."""
    if problem := model_damage(folder.root):
        raise UserError(
            f"{problem}; nothing is uploaded: delete {folder.status_json}, and the same `stilts run` "
            "trains this phase again"
        )
    written = read_sealed(folder.heads_json).get("files", {})
    for path in files:
        if path.relative_to(folder.root).as_posix() not in written:
            raise UserError(
                f"{path} is not among the files that training wrote ({HEADS_JSON}); take it out of the "
                "folder, and upload it by other means if it belongs there"
            )


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

    doing, repository = f"the hub did not take the upload to {repo}", Repository(repo)
    api = HfApi()
    address = ask_hub(lambda: api.create_repo(repo, private=private, exist_ok=True), repository, doing)

    def commit() -> None:
        # Made anew for each try: an operation remembers what was done with it. Files that arrived are not sent again.
        operations = [CommitOperationAdd(file.target, file.content or file.source) for file in files]
        api.create_commit(repo, operations, commit_message="Encoder, heads and card from stilts-ds")

    ask_hub(commit, repository, doing)
    return str(address)


def _listing(head: str, files: list[Upload]) -> str:
    width = max(len(file.target) for file in files)
    lines = [f"  {file.target:<{width}}  {file.size:>13,} bytes" for file in files]
    total = sum(file.size for file in files)
    return "\n".join([head, *lines, f"  {'total':<{width}}  {total:>13,} bytes"])
