"""Who am I? Rank discovery for torchrun, Open MPI, the registered launchers and a process of its own.

All five of torchrun's variables are set in the end, so that nothing downstream guesses again. Order: torchrun, Open
MPI, launchers, alone. Contradictions are errors.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

from stilts_ds.errors import UserError
from stilts_launcher.backends.registry import LAUNCHERS
from stilts_launcher.rank_place import RankPlace, free_port, read_number


def discover(environment: Mapping[str, str], exchange: Callable[[str], str] | None = None) -> RankPlace | None:
    """The place that the starter's variables describe; None for a process that was started alone.

    `exchange(text)` returns rank 0's text on every rank (used under Open MPI, which names no address). Raises
    UserError for variables that contradict each other or a start that cannot be meant.
    """
    place = _described(environment, exchange)
    if place is not None:
        _check(place)
    return place


def _check(place: RankPlace) -> None:
    """Refuse numbers that no starter gives, before ranks wait for each other in vain."""
    remedy = f"start all ranks with one {place.starter}, or unset its variables"
    if not 0 <= place.rank < place.size or not 0 <= place.local_rank < place.size:
        raise UserError(
            f"{place.starter} says rank {place.rank}, local rank {place.local_rank} of {place.size} "
            f"(RANK, LOCAL_RANK, WORLD_SIZE or theirs), which cannot be; {remedy}"
        )
    if not 0 < place.port < 65536:
        raise UserError(f"MASTER_PORT={place.port} is no port; {remedy}")
    if not place.address.isprintable() or not place.address or " " in place.address:
        raise UserError(f"MASTER_ADDR={place.address!r} is no address; {remedy} (or set STILTS_MASTER_ADDR)")


def _described(environment: Mapping[str, str], exchange: Callable[[str], str] | None) -> RankPlace | None:
    torchrun = _torchrun(environment)
    mpi = _open_mpi(environment)
    if torchrun and mpi and (torchrun.rank, torchrun.size) != mpi[:1] + mpi[2:]:
        raise UserError(
            f"RANK={torchrun.rank}/WORLD_SIZE={torchrun.size} contradict Open MPI's rank {mpi[0]} of {mpi[2]}; "
            "unset RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or do not use mpirun"
        )
    if torchrun:
        return torchrun
    if mpi:
        address, port = (exchange or _mpi_exchange)(f"{_hostname()} {free_port()}").split()
        return RankPlace(*mpi, address=address, port=int(port), starter="mpirun")
    places = (launcher.place(environment) for launcher in LAUNCHERS.values())
    return next((place for place in places if place is not None), None)


def _torchrun(environment: Mapping[str, str]) -> RankPlace | None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    found = [name for name in names if name in environment]
    if not {"RANK", "WORLD_SIZE"} & set(found):
        return None
    if len(found) < len(names):
        missing = sorted(set(names) - set(found))
        raise UserError(f"{', '.join(sorted(found))} are set, but not {', '.join(missing)}; set all five or none")
    rank, local, size, port = (read_number(environment, name, "torchrun") for name in (*names[:3], "MASTER_PORT"))
    if not 0 <= rank < size:
        raise UserError(f"RANK={rank} is not below WORLD_SIZE={size}; start all ranks with torchrun, or unset both")
    return RankPlace(rank, local, size, environment["MASTER_ADDR"], port, "torchrun")


def _open_mpi(environment: Mapping[str, str]) -> tuple[int, int, int] | None:
    if "OMPI_COMM_WORLD_RANK" not in environment:
        return None
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE")
    rank, local, size = (read_number(environment, name, "mpirun") for name in names)
    return rank, local, size


def _hostname() -> str:
    name = socket.gethostname()
    try:
        socket.gethostbyname(name)
    except OSError:
        return "127.0.0.1"
    return name


def _mpi_exchange(text: str) -> str:
    from mpi4py import MPI

    found = str(MPI.COMM_WORLD.bcast(text, root=0))
    # MPI has done its work. Were it left open, a rank that fails later would wait in its exit handler for the others.
    MPI.Finalize()
    return found
