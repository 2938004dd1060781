"""Sentence vectors, nearest neighbours and bitext mining as tools of their own: `stilts embed`, `search` and `mine`.

    from stilts_ds.mining import embed, mine, search

Each reads files and writes files, on one process or on all ranks of a communicator (`comm`), and goes on where an
earlier start with the same inputs was stopped.
"""

from stilts_ds.mining.embed_texts import embed
from stilts_ds.mining.mine_pairs import MiningResult, MiningSettings, mine
from stilts_ds.mining.models import Encoder, VectorSettings
from stilts_ds.mining.search_bank import search
from stilts_ds.mining.texts import Texts

__all__ = ["Encoder", "MiningResult", "MiningSettings", "Texts", "VectorSettings", "embed", "mine", "search"]
