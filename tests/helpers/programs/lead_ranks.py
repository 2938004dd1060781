"""`lead_ranks.py COUNT GRACE_SECONDS ARGUMENTS...`: what `stilts run` does with its ranks, from a process of its own.

Started in a folder whose stilts_launcher/rank.py stands in for the real one, so that a rank takes no time to start:
the ranks find it first in PYTHONPATH.
"""

from __future__ import annotations

import os
import sys

from stilts_launcher import local

if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ["PYTHONPATH"]])
    local.GRACE_SECONDS = float(sys.argv[2])
    sys.exit(local.start_ranks(sys.argv[3:], int(sys.argv[1]), None))
