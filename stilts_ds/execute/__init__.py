"""Execution accuracy: programs that nobody has read, run in a sandbox, with verdicts that hold (docs/execute.md).

Standard library only. `execute` is the one function; `stilts execute` is the same from a file to a file.
"""

from stilts_ds.execute.pool import execute
from stilts_ds.execute.programs import Program, Verdict, read_programs, read_verdicts, write_verdicts
from stilts_ds.execute.settings import ExecuteSettings

__all__ = ["Program", "ExecuteSettings", "Verdict", "execute", "read_programs", "read_verdicts", "write_verdicts"]
