"""Two real users of one group, as whom a test does something."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable

USERS, GROUP = (12001, 12002), 12100


def as_user(user: int, umask: int, work: Callable[[], object]) -> str:
    """What `work` returns or raises in a process of another real user, who is of the group."""
    codecs.lookup("ascii")  # while it can be loaded: the other user may have no Python of this one's
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with open(reader) as pipe:
            told = pipe.read()
        os.waitpid(child, 0)
        return told
    try:
        os.setgroups([GROUP])
        os.setgid(GROUP)
        os.setuid(user)
        os.umask(umask)
        said = str(work())
    except BaseException as problem:
        said = f"{type(problem).__name__}: {problem}"
    os.write(writer, said.encode())
    os._exit(0)
