"""Write the lower layers of a trained XLM-R, its vocabulary cut to that of a text, as a small model for CPUs.

python -m stilts_launcher.cut_xlmr data/text XLMR_FOLDER models/cut; stilts run paper_table
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stilts_ds.errors import UserError


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m stilts_launcher.cut_xlmr", description=__doc__)
    parser.add_argument("text", type=Path, help="folder of <language>.txt, one passage a line")
    parser.add_argument("model", type=Path, help="folder of the XLM-R whose weights and pieces are cut")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--pieces", type=int, default=16000, help="most frequent pieces to keep (default: 16000)")
    parser.add_argument("--layers", type=int, default=4, help="lower layers to keep (default: 4)")
    options = parser.parse_args(arguments)

    from stilts_ds.model.encoder import quiet
    from stilts_ds.toy.plain import write_cut_model

    quiet()
    try:
        write_cut_model(**vars(options))
    except UserError as error:
        parser.error(str(error))
    print(f"{options.folder}: the lower {options.layers} layers of {options.model}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
