"""Each rank's log, and what it must not say."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

from stilts_ds.display import CLOCK, LINE, console_handler
from stilts_ds.engine.stacks import write_stacks_to
from stilts_ds.errors import is_full_disk, printable, redacted


class Redacting(logging.Formatter):
    """Lines and tracebacks without the user's tokens, which a library may put into an error, and without what steers a
    terminal: a message may quote a stranger's file, and rank 0 speaks there."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(redacted(super().format(record)))


class LogFile(logging.FileHandler):
    """A rank's log. On a full disk its lines are lost without a traceback for each: the run is about to end and to say
    why on the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is the base class's)
        if not is_full_disk(sys.exc_info()[1]):
            super().handleError(record)


def set_up_logging(folder: Path) -> None:
    """A file for each rank in `folder` (a phase run alone has its own folder) that keeps everything; rank 0 also shows
    on the console what people want to see (stilts_ds.display)."""
    rank = os.environ.get("RANK", "0")
    folder.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [LogFile(folder / f"rank-{rank}.log", encoding="utf-8")]
    write_stacks_to(folder / f"rank-{rank}.log")
    if rank == "0":
        handlers.append(console_handler())
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    for handler in handlers:
        handler.setFormatter(Redacting(LINE, datefmt=CLOCK))
    # torch renames collectives that DeepSpeed still calls by their old names, once a call.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # transformers is silenced by `quiet`: at this level it would list a checkpoint's language modelling head, which no
    # encoder takes, at every load.
    for noisy in ("DeepSpeed", "torch", "datasets", "httpx", "httpx2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("stilts_ds.data.reader").setLevel(logging.WARNING)  # what was read is told once, by prepare
    for name in ("stilts_ds", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
