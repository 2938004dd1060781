"""stilts-ds: supplementary training on intermediate labelled-data tasks (STILTs), at cluster scale."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# Whatever a library loads with torch.load, in any command: tensors, never pickled code.
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)

# The Python surface (docs/python.md), brought in when it is asked for: commands do without pandas, and the launcher
# stands above this package.
_SURFACE = {
    "load": "stilts_ds.study",
    "compare": "stilts_ds.study",
    "score": "stilts_ds.study",
    "plan": "stilts_launcher.python",
    "run": "stilts_launcher.python",
}
__all__ = [*_SURFACE, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _SURFACE:
        raise AttributeError(f"stilts_ds has no {name!r}; it has {', '.join(_SURFACE)}")
    return getattr(import_module(_SURFACE[name]), name)
