"""The embedded default: a miniature world with four artificial languages, all nine intermediate and nine target tasks,
and programs to write.

    from stilts_ds.toy.world import write_world
    write_world(Path("data/toy"), seed=1)      # about ten seconds, no network

Everything is rendered from meanings (`meanings.py`), so labels are true by construction in every language.
"""

from stilts_ds.toy.languages import LANGUAGES, PIVOT

__all__ = ["LANGUAGES", "PIVOT"]
