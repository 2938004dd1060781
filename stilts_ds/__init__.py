"""stilts-ds: supplementary training on intermediate labelled-data tasks (STILTs), at cluster scale."""

import os

__version__ = "0.1.0"

# Whatever a library loads with torch.load, in any command: tensors, never pickled code.
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
