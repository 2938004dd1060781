"""Calls to the Hugging Face hub: which refusals are waited for, and what the others ask of the user.

Every call that may reach the hub goes through `ask_hub`. huggingface_hub itself resumes a download that was cut, and
waits at some of its addresses; a repository's description, its creation and a commit it asks for once.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from stilts_ds.errors import UserError, counted, is_full_disk, redacted

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

WAITS = (2.0, 8.0, 30.0)  # seconds before the second, third and fourth try, where the hub names no time
LONGEST_WAIT = 600.0  # the hub counts requests in windows of five minutes
PROBE_SECONDS = 10.0
BUSY = (408, 425, 429, 500, 502, 503, 504)
OFFLINE_WORDS = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, as messages name it. `revision` None is its main branch."""

    name: str
    kind: str = "model"
    revision: str | None = None

    @property
    def address(self) -> str:
        folder = "datasets/" if self.kind == "dataset" else ""
        return f"{endpoint()}/{folder}{self.name}"


def endpoint() -> str:
    """The hub's address, by huggingface_hub's own rule."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def cache_home() -> str:
    """The Hugging Face cache that counts, by the library's own rule."""
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return os.path.expanduser(os.environ.get("HF_HOME", os.path.join(base, "huggingface")))


def offline_by_setting() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in OFFLINE_WORDS


def go_offline_without_network() -> str | None:
    """None where the hub answers; otherwise why it does not, and from then on only the cache is looked at.

    One question, once in the life of the process, in place of the clients' own retries (23 s) at each file.
    """
    if unreachable := _unreachable(endpoint()):
        _set_offline()
        return unreachable
    return "HF_HUB_OFFLINE is set (unset it to use the network)" if offline_by_setting() else None


@functools.cache
def _unreachable(address: str) -> str | None:
    """Why the hub at this address does not answer; None where it does, or where the user forbids to ask it."""
    if offline_by_setting():
        return None
    try:
        with urllib.request.urlopen(address, timeout=PROBE_SECONDS):
            return None
    except urllib.error.HTTPError:
        return None  # something answers; what it says to the real requests counts
    except (OSError, ValueError) as error:
        return f"{address} cannot be reached ({redacted(str(getattr(error, 'reason', error)))})"


def _set_offline() -> None:
    """Have the hub's clients look at their caches only, in processes that start from here as well."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Each client keeps what the environment said when it was imported, and a model's name is resolved with one of them.
    for client in ("huggingface_hub.constants", "datasets.config"):
        if (settings := sys.modules.get(client)) is not None:
            vars(settings)["HF_HUB_OFFLINE"] = True


def ask_hub(call: Callable[[], Answer], repository: Repository, doing: str) -> Answer:
    """What `call` returns. A hub that is busy or fails, a broken connection and a file that arrives short are waited
    for and tried again; the log says so.

    Raises UserError that begins with `doing` ("cannot fetch model X from the hub") and ends with the remedy. What the
    own disk refuses is raised as it is.
    """
    go_offline_without_network()
    for attempt in range(len(WAITS) + 1):
        try:
            return call()
        except (UserError, MemoryError, ImportError):
            raise
        except Exception as error:  # the HTTP client below huggingface_hub, and with it the errors, differ by version
            if _is_own_disk(error):
                raise
            seconds = seconds_to_wait(error, attempt)
            if seconds is None:
                raise UserError(f"{doing}: {hub_problem(error, repository, attempt + 1)}") from error
            log.warning("%s: %s; trying again in %.0f s", doing, _reason(error), seconds)
            time.sleep(seconds)
    raise AssertionError("the last try returns or raises")


def seconds_to_wait(error: Exception, attempt: int) -> float | None:
    """Seconds until the next try; None where another try would end alike, or was the last."""
    if offline_by_setting() or attempt >= len(WAITS):  # without network the answer comes at once
        return None
    if not (_status(error) in BUSY or _is_broken_connection(error) or _is_short(error)):
        return None
    named = _header(error, "Retry-After")
    if named.isdigit():
        # More than the longest window is no traffic rule: then the user should know, not wait.
        return float(named) if float(named) <= LONGEST_WAIT else None
    return WAITS[attempt]


def hub_problem(error: Exception, repository: Repository, tries: int = 1) -> str:
    """What the hub refused, and what to do about it."""
    return _no_access(error, repository) or _failure(error, repository, tries)


def _no_access(error: Exception, repository: Repository) -> str:
    """What the hub does not give to this login; empty where something else is wrong."""
    status, code, name = _status(error), _error_code(error), f"{repository.kind} {repository.name}"
    if "Invalid credentials" in _header(error, "X-Error-Message"):
        return "the hub does not know the token in HF_TOKEN or of `hf auth login`; log in again, or unset it"
    if code == "GatedRepo":
        return (
            f"{name} is gated; accept its terms at {repository.address}, then log in with `hf auth login` "
            "or set HF_TOKEN"
        )
    if code == "RevisionNotFound":
        revision = repository.revision or "main"
        return f"{name} has no revision {revision}; give one that {repository.address}/commits/main lists"
    if code == "RepoNotFound" or status == 401:
        return f"the hub has no {name} that you may read; check the name, or log in with `hf auth login`"
    if status == 403:
        return f"your login may not do this with {name}; check the owner, and that the token may write"
    return ""


def _failure(error: Exception, repository: Repository, tries: int) -> str:
    """What went wrong on the way, or in the hub."""
    status, count = _status(error), counted(tries, "try", "tries")
    goes_on = "the same command goes on with what is already here"
    if status == 429:
        return (
            f"the hub answers 429 (too many requests); wait some minutes or log in with `hf auth login`, and {goes_on}"
        )
    if status is not None and status >= 500:
        return f"the hub failed in {count} (HTTP {status}); try later, and {goes_on}"
    if _is_short(error):
        return f"a file arrived incomplete in {count} ({_reason(error)}); {goes_on}"
    if offline_by_setting():
        why = _unreachable(endpoint()) or "HF_HUB_OFFLINE is set"
        lacking = f"the cache in HF_HOME={cache_home()} does not have it"
        return f"{why}, and {lacking}; run `stilts fetch` where there is a network"
    if _is_broken_connection(error):
        return (
            f"no connection to {endpoint()} in {count} ({_reason(error)}); check the network and HTTPS_PROXY, or fill "
            "the cache (HF_HOME) on a machine with network"
        )
    return f"{_reason(error)}; check the name and the revision of {repository.kind} {repository.name}"


# --- what an exception says ------------------------------------------------------------------------------------------


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it was raised from: `datasets` puts its own in front of the client's."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def _response(error: Exception) -> Any:
    """The hub's answer behind an exception; None where there was none."""
    responses = (getattr(link, "response", None) for link in _chain(error))
    return next((response for response in responses if response is not None), None)


def _status(error: Exception) -> int | None:
    """The HTTP status behind an exception; None where the hub did not answer."""
    return getattr(_response(error), "status_code", None)


def _header(error: Exception, name: str) -> str:
    headers = getattr(_response(error), "headers", {})
    return str(headers.get(name) or headers.get(name.lower()) or "")


def _error_code(error: Exception) -> str:
    """The hub's own word for what it refused. `datasets` drops the answer and leaves a sentence."""
    said = str(error)
    sentences = {
        "is a gated dataset": "GatedRepo",
        "doesn't exist on the Hub or cannot be accessed": "RepoNotFound",
        "doesn't exist for dataset": "RevisionNotFound",
    }
    known = (code for sentence, code in sentences.items() if sentence in said)
    return _header(error, "X-Error-Code") or next(known, "")


def _is_broken_connection(error: Exception) -> bool:
    """Also errors of the HTTP client, whose package's name differs by version (httpx, httpx2)."""
    for link in _chain(error):
        kinds = [kind.__name__ for kind in type(link).__mro__]
        if isinstance(link, (ConnectionError, TimeoutError)) or "TransportError" in kinds:
            return True
    return False


def _is_short(error: Exception) -> bool:
    """Whether a file had another size than the hub says that it has."""
    return any(isinstance(link, OSError) and "Consistency check failed" in str(link) for link in _chain(error))


def _is_own_disk(error: Exception) -> bool:
    """Whether this machine's disk, not the hub, refused."""
    refused = (errno.EACCES, errno.EPERM, errno.EROFS)
    return is_full_disk(error) or any(getattr(link, "errno", None) in refused for link in _chain(error))


def _reason(error: Exception) -> str:
    """What the innermost exception says, on one line without its address."""
    status = _status(error)
    if status is not None:
        return f"HTTP {status}"
    last = list(_chain(error))[-1] if _is_broken_connection(error) else error
    text = redacted(str(last) or type(last).__name__).strip()
    return text.split("\n")[0][:200]
