"""Benchmark of writing programs: tokens per second of n samples a problem, beside transformers' own `generate`.

    stilts bench generation [--samples N] [--problems N] [--tokens N] [--length N] [--repeat N] [--out FILE.jsonl]

A decoder of the toy model's size with random weights goes on from the toy world's HumanEval-XL prompts. transformers
takes one problem at a time, all of its samples together (`num_return_sequences`), as evaluation harnesses do; ours
takes all problems together. Both first have to write the same: greedily, and sampled (in float64) with the same number
drawn for the same token, for which transformers gets a logits processor that draws as ours does. The timed samples are
drawn by each its own way. Programs differ in length: one token in `--length` ends them, so that this is their mean
length, up to `--tokens`; with `--length 0` all have that many. Only tokens of programs count, and not what follows
their ends. Times are CPU seconds of one run on one machine, the best of some repetitions each: only their ratio says
something.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stilts_ds.config import ModelPart
from stilts_ds.errors import UserError
from stilts_ds.evaluate.generate import Generator, choose, uniform_numbers
from stilts_ds.families.build import build_model
from stilts_ds.families.decoding import Decoding
from stilts_ds.model.encoder import load_encoder
from stilts_ds.model.heads import HeadSpec
from stilts_ds.model_files import TOY
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.whitespace import CodeTokenizer
from stilts_ds.run_dir import provenance
from stilts_ds.toy import programs
from stilts_ds.toy.languages import PIVOT
from stilts_ds.toy.sources import Source

Result = dict[str, Any]
TEMPERATURE, TOP_P = 0.8, 0.95
HEAD = "code"
END = 2  # of the toy model's tokenizer
SEED = 1


def save_decoder(folder: Path, rows: int) -> Any:
    """Write a Qwen2 of the toy model's size into a folder, and return it as transformers has it."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=rows,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=512,
        max_position_embeddings=256,
        initializer_range=0.2,  # as large as trained weights: with smaller ones all tokens are as likely
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


def prompt_rows(tokenizer: Tokenizer, count: int) -> Rows:
    """The toy world's prompts, as rows of a decoder."""
    code = CodeTokenizer(tokenizer)
    stories = Source(SEED).draw("bench", count, programs.story)
    ids = code.prompt_slices([programs.prompt(story, PIVOT) for story in stories])
    starts = np.concatenate([[0], np.cumsum(ids.length)])
    numbers = np.arange(count)
    return Rows(ids.flat, starts, ids.length.astype(np.int32), numbers, np.arange(count + 1))


class Pair:
    """The same decoder as transformers has it and as this project does, and the prompts of both."""

    def __init__(self, folder: Path, problems: int, samples: int, tokens: int, length: int) -> None:
        self.tokenizer = Tokenizer.load(TOY)
        self.tokenizer.sees = "left"
        self.theirs = save_decoder(folder, self.tokenizer.vocabulary)
        self.ours = build_model(load_encoder(folder, ModelPart()), [HeadSpec(HEAD, "generate")], 1).eval()
        self.rows = prompt_rows(self.tokenizer, problems)
        self.samples, self.tokens = samples, tokens
        # Evenly spread over the vocabulary, so that a model that knows nothing draws one of them that often.
        self.ends = set(range(END + length, self.tokenizer.vocabulary, length)) if length else set()
        self.names = [f"bench\n{number}" for number in range(problems)]

    def write(self, temperature: float, samples: int) -> list[list[list[int]]]:
        """Ours: [problems][samples] ids."""
        decoding = Decoding(
            names=self.names,
            samples=samples,
            temperature=temperature,
            top_p=TOP_P if temperature else 1.0,
            end=END,
            most_tokens=self.tokens,
            row_limit=256,
            is_complete=(lambda ids: ids[-1] in self.ends) if self.ends else None,
        )
        generator = Generator(self.ours, self.tokenizer, torch.device("cpu"), HEAD, decoding)
        return generator.write(self.rows, range(len(self.names)))

    def generate(self, samples: int, draws: bool = False, **more: Any) -> list[list[list[int]]]:
        """Theirs, one problem at a time: [problems][samples] ids. `draws`: with the numbers that ours draws."""
        from transformers import LogitsProcessorList

        suppressed = sorted(self.tokenizer.special - {END})
        written = []
        for number, (start, end) in enumerate(zip(self.rows.starts[:-1], self.rows.starts[1:])):
            ids = torch.from_numpy(np.asarray(self.rows.input_ids[start:end], np.int64))[None]
            if draws:
                more["logits_processor"] = LogitsProcessorList([_Drawn(self.names[number], samples, self.tokens)])
            made = self.theirs.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.tokens, suppress_tokens=suppressed,
                eos_token_id=[END, *self.ends], pad_token_id=1, num_return_sequences=samples, **more,
            )  # fmt: skip
            written.append([self._program(row.tolist()) for row in made[:, ids.shape[1] :]])
        return written

    def _program(self, ids: list[int]) -> list[int]:
        """What was written up to its end, without the fillings behind it."""
        for position, token in enumerate(ids):
            if token == END:
                return ids[:position]
            if token in self.ends:
                return ids[: position + 1]
        return ids


class _Drawn:
    """A logits processor that leaves transformers one token: the one that ours draws from the same logits."""

    def __init__(self, name: str, samples: int, tokens: int) -> None:
        self.uniform = np.stack([uniform_numbers(name, sample, tokens) for sample in range(samples)])
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = choose(scores.numpy(), TEMPERATURE, TOP_P, self.uniform[:, self.step])
        self.step += 1
        only = torch.full_like(scores, -torch.inf)
        only[torch.arange(len(tokens)), torch.from_numpy(tokens)] = 0
        return only


def check_equal(pair: Pair, samples: int) -> None:
    """Raise UserError where the two write different tokens, greedily or with the same draws."""
    greedy = pair.generate(1, do_sample=False), pair.write(0.0, 1)
    # In float64: float32 logits of the two differ by about 1e-5, as they do with any other order of summing, and of ten
    # thousand draws one or two fall between tokens that are as close.
    models = (pair.theirs, pair.ours)
    for model in models:
        model.double()
    drawn = pair.generate(samples, draws=True, do_sample=True, top_k=0), pair.write(TEMPERATURE, samples)
    for model in models:
        model.float()
    for kind, (reference, ours) in (("greedy", greedy), ("drawn", drawn)):
        if ours != reference:
            different = sum(tokens != expected for tokens, expected in zip(ours, reference))
            raise UserError(f"{kind} tokens of {different} of {len(ours)} problems are not those of transformers")


def measure(pair: Pair, repeat: int) -> list[Result]:
    """Tokens per second of both ways, the better of them first checked to write the same."""
    check_equal(pair, min(pair.samples, 4))
    ways = {
        "transformers, one problem at a time": lambda: pair.generate(
            pair.samples, do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, top_k=0
        ),
        "ours": lambda: pair.write(TEMPERATURE, pair.samples),
    }
    rate_of_way = {}
    for name, write in ways.items():
        rates = []
        for _ in range(repeat):
            began = time.process_time()
            written = write()
            seconds = time.process_time() - began
            rates.append(sum(len(ids) for of_problem in written for ids in of_problem) / seconds)
        rate_of_way[name] = max(rates)
    of_transformers, *_ = rate_of_way.values()
    return [
        {"way": way, "tokens_per_second": rate, "ratio": rate / of_transformers} for way, rate in rate_of_way.items()
    ]


def main(arguments: Sequence[str]) -> int:
    import tempfile

    parser = argparse.ArgumentParser(prog="stilts bench generation", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--samples", type=int, default=20, metavar="N", help="of each problem (default: 20)")
    parser.add_argument("--problems", type=int, default=40, metavar="N", help="prompts (default: 40)")
    parser.add_argument("--tokens", type=int, default=40, metavar="N", help="most tokens of a sample (default: 40)")
    parser.add_argument("--length", type=int, default=20, metavar="N", help="mean tokens of a sample (default: 20)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each, the best counts (default: 3)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append the results as JSON lines")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder), given.problems, given.samples, given.tokens, given.length)
        results = measure(pair, given.repeat)
    for result in results:
        print(f"{result['way']:40} {result['tokens_per_second']:>10,.0f} tokens/s  x{result['ratio']:.2f}")
    if given.out:
        setting = {"samples": given.samples, "problems": given.problems, "tokens": given.tokens, "length": given.length}
        stamp = {"time": datetime.now(timezone.utc).isoformat(), **setting, "provenance": provenance().to_json()}
        with given.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**result, **stamp}) + "\n" for result in results)
    return 0
