"""Who am I? Rank discovery for torchrun, Open MPI, the registered launchers, other MPIs and a process of its own.

All five of torchrun's variables are set in the end, so that nothing downstream guesses again. Order: torchrun, Open
MPI, launchers, other MPIs, alone. Contradictions are errors.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from stilts_ds.errors import UserError
from stilts_launcher.backends.registry import LAUNCHERS
from stilts_launcher.rank_place import RankPlace, free_port, read_number


def discover(environment: Mapping[str, str], exchange: Callable[[str], str] | None = None) -> RankPlace | None:
    """The place that the starter's variables describe; None for a process that was started alone.

    `exchange(text)` returns rank 0's text on every rank (used under Open MPI, which names no address). Raises
    UserError for variables that contradict each other or a start that cannot be meant.
    """
    rank_place = _described(environment, exchange)
    if rank_place is not None:
        _check(rank_place)
    return rank_place


def _check(rank_place: RankPlace) -> None:
    """Refuse numbers that no starter gives, before ranks wait for each other in vain."""
    remedy = f"start all ranks with one {rank_place.starter}, or unset its variables"
    if not 0 <= rank_place.rank < rank_place.size or not 0 <= rank_place.local_rank < rank_place.size:
        raise UserError(
            f"{rank_place.starter} says rank {rank_place.rank}, local rank {rank_place.local_rank} of "
            f"{rank_place.size} (RANK, LOCAL_RANK, WORLD_SIZE or theirs), which cannot be; {remedy}"
        )
    if not 0 < rank_place.port < 65536:
        raise UserError(f"MASTER_PORT={rank_place.port} is no port; {remedy}")
    if not rank_place.address.isprintable() or not rank_place.address or " " in rank_place.address:
        raise UserError(f"MASTER_ADDR={rank_place.address!r} is no address; {remedy} (or set STILTS_MASTER_ADDR)")


def _described(environment: Mapping[str, str], exchange: Callable[[str], str] | None) -> RankPlace | None:
    torchrun = _torchrun(environment)
    mpi = _open_mpi(environment)
    # Alike, they are no contradiction: scripts often set torchrun's variables from Open MPI's.
    if torchrun and mpi and (torchrun.rank, torchrun.size) != (mpi.rank, mpi.size):
        raise UserError(
            f"RANK={torchrun.rank}/WORLD_SIZE={torchrun.size} contradict Open MPI's rank {mpi.rank} of {mpi.size}; "
            "unset RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or do not use mpirun"
        )
    if torchrun:
        return torchrun
    if mpi:
        return _met(mpi, exchange)
    # Lazily: once a launcher has named the rank, no other one's variables are read and complained about.
    by_launcher = (launcher.place(environment) for launcher in LAUNCHERS.values())
    rank_place = next((described for described in by_launcher if described is not None), None)
    if rank_place is None and (pmi := _pmi(environment)):  # launchers set some of these, too, for MPI programs
        return _met(pmi, exchange)
    return rank_place


@dataclass(frozen=True)
class _Numbers:
    """A rank's numbers where its starter names no address."""

    rank: int
    local_rank: int
    size: int
    local_size: int
    starter: str


def _met(numbers: _Numbers, exchange: Callable[[str], str] | None) -> RankPlace:
    """The place of a rank that learns from rank 0, over MPI, where that listens."""
    exchanged = exchange or (lambda text: _mpi_exchange(text, numbers))
    # Only rank 0's text is sent, so the others look for neither an address nor a port.
    meeting_point = f"{_own_address(numbers.local_size == numbers.size)} {free_port()}" if numbers.rank == 0 else ""
    address, port = exchanged(meeting_point).split()
    return RankPlace(
        numbers.rank,
        numbers.local_rank,
        numbers.size,
        address=address,
        port=int(port),
        starter=numbers.starter,
        on_node=numbers.local_size,
    )


def _torchrun(environment: Mapping[str, str]) -> RankPlace | None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    given = [name for name in names if name in environment]
    # MASTER_ADDR and MASTER_PORT alone are often set for a whole site, and start nothing.
    if not {"RANK", "WORLD_SIZE"} & set(given):
        return None
    if len(given) < len(names):
        missing = sorted(set(names) - set(given))
        raise UserError(f"{', '.join(sorted(given))} are set, but not {', '.join(missing)}; set all five or none")
    rank, local, size, port = (read_number(environment, name, "torchrun") for name in (*names[:3], "MASTER_PORT"))
    if not 0 <= rank < size:
        raise UserError(f"RANK={rank} is not below WORLD_SIZE={size}; start all ranks with torchrun, or unset both")
    return RankPlace(rank, local, size, environment["MASTER_ADDR"], port, "torchrun")


def _open_mpi(environment: Mapping[str, str]) -> _Numbers | None:
    if "OMPI_COMM_WORLD_RANK" not in environment:
        return None
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE")
    rank, local, size = (read_number(environment, name, "mpirun") for name in names)
    # Unknown: perhaps not all ranks are on one machine, so that no loopback address will do.
    name = "OMPI_COMM_WORLD_LOCAL_SIZE"
    local_size = read_number(environment, name, "mpirun") if name in environment else 1
    return _Numbers(rank, local, size, local_size, "mpirun")


# Intel MPI, MPICH, MVAPICH and Cray PALS: how each names a rank, and its place among those of its machine.
PMI_RANKS = ("PMI_RANK", "PALS_RANKID")
PMI_SIZES = ("PMI_SIZE", "PALS_SIZE")
PMI_LOCAL_RANKS = ("MPI_LOCALRANKID", "PALS_LOCAL_RANKID", "PMI_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
PMI_LOCAL_SIZES = ("MPI_LOCALNRANKS", "PALS_LOCAL_SIZE", "PMI_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")


def _pmi(environment: Mapping[str, str]) -> _Numbers | None:
    """The numbers of a rank that an MPI other than Open MPI started. Raises UserError where it names too few: such a
    process is not alone, and must not train by itself."""
    if not any(name in environment for name in PMI_RANKS):
        return None
    numbers = []
    for names in (PMI_RANKS, PMI_LOCAL_RANKS, PMI_SIZES):
        present = [name for name in names if name in environment]
        if not present:
            given = ", ".join(name for name in PMI_RANKS if name in environment)
            raise UserError(
                f"{given} names a rank of an MPI start, but none of {', '.join(names)} is set; start ranks with "
                "torchrun, or set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT yourself"
            )
        numbers.append(read_number(environment, present[0], "mpiexec"))
    rank, local, size = numbers
    sizes = [name for name in PMI_LOCAL_SIZES if name in environment]
    local_size = read_number(environment, sizes[0], "mpiexec") if sizes else 1
    return _Numbers(rank, local, size, local_size, "mpiexec")


def _own_address(all_here: bool) -> str:
    """Where other ranks reach this machine. A loopback address only where all ranks are on it."""
    if all_here:
        return "127.0.0.1"
    name = socket.gethostname()
    with suppress(OSError):
        addresses = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(name, None)}
        if addresses and not any(ip_address(address).is_loopback for address in addresses):
            return name
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))  # sends nothing; the kernel says from which address it would
            address = str(probe.getsockname()[0])
            if not ip_address(address).is_loopback:
                return address
    raise UserError(
        f"this machine's name {name} means a loopback address, and it has no route to others, so ranks on other "
        "machines cannot find rank 0; enter its address into its /etc/hosts, or start ranks with torchrun"
    )


def _mpi_exchange(text: str, numbers: _Numbers) -> str:
    from mpi4py import MPI

    size = MPI.COMM_WORLD.Get_size()
    if size != numbers.size:
        raise UserError(
            f"{numbers.starter} started {numbers.size} ranks, but mpi4py sees {size}: it was built for another MPI; "
            "install mpi4py for this one, or start ranks with torchrun"
        )
    address = str(MPI.COMM_WORLD.bcast(text, root=0))
    # MPI has done its work. Were it left open, a rank that fails later would wait in its exit handler for the others.
    MPI.Finalize()
    return address
