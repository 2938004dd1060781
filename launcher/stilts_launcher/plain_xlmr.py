"""Write an XLM-R with random weights and the vocabulary of a text, to be pretrained by the project's own MLM phase.

python -m stilts_launcher.plain_xlmr data/text XLMR_FOLDER models/random; stilts run plain_pretrain
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stilts_ds.errors import UserError


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m stilts_launcher.plain_xlmr", description=__doc__)
    parser.add_argument("text", type=Path, help="folder of <language>.txt, one passage a line")
    parser.add_argument("tokenizer", type=Path, help="folder of an XLM-R, whose pieces are cut to those of the text")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--pieces", type=int, default=16000, help="most frequent pieces to keep (default: 16000)")
    parser.add_argument("--layers", type=int, default=4, help="layers (default: 4)")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size, a multiple of 64 (default: 256)")
    parser.add_argument("--positions", type=int, default=256, help="longest row in tokens (default: 256)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the weights (default: 1)")
    options = parser.parse_args(arguments)

    from stilts_ds.model.encoder import quiet
    from stilts_ds.toy.plain import write_plain_model

    quiet()
    try:
        write_plain_model(**vars(options))
    except UserError as error:
        parser.error(str(error))
    print(f"{options.folder}: {options.layers} layers of {options.hidden}, random weights")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
