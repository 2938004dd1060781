"""Imported by the process that ranks are forked from, before the first of them (helpers/forked.py)."""

import warm

warm.load()
