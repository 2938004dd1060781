"""`stilts ARGUMENTS` in a folder, with what it imports loaded already; its ranks are forked from it (helpers/warm.py).

warm_stilts.py FOLDER ARGUMENTS...
"""

import os
import sys

import warm

folder, *arguments = sys.argv[1:]
os.setsid()
os.chdir(folder)
sys.exit(warm.run_here(arguments))
