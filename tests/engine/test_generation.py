"""Programs that a model writes: a token more costs one token, and nothing beside a sample changes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small
import tiny_decoders
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from stilts_ds.batches.collate import PackedItems
from stilts_ds.config import ModelPart, TrainingPart, parse_recipe
from stilts_ds.engine.preempt import Stopped
from stilts_ds.errors import UserError
from stilts_ds.evaluate.generate import Generator, choose, uniform_numbers
from stilts_ds.evaluate.predict import Predictor
from stilts_ds.export import export_model
from stilts_ds.families.asked import Passes, Work
from stilts_ds.families.build import build_model
from stilts_ds.families.decoding import Decoding
from stilts_ds.families.registry import FAMILIES
from stilts_ds.model import attention
from stilts_ds.model import decoding as decoding_module
from stilts_ds.model.encoder import load_encoder, pack, read_output_layer
from stilts_ds.model.heads import HeadSpec, set_language_head
from stilts_ds.model.multitask import MultiTask
from stilts_ds.rows.batch import Targets, pack_rows
from stilts_ds.rows.rows import Rows

SPECS = [HeadSpec("code", "generate")]
LENGTHS = (9, 4, 13, 9, 30, 17, 21, 5)
END = 2
DECODERS = tuple(kind for kind in tiny_decoders.KINDS if kind not in tiny_decoders.PADDED)


def prompt_rows(prefix: bool, vocabulary: int = small.VOCABULARY) -> Rows:
    """Prompts of unequal lengths, two of them of one length."""
    rng = np.random.default_rng(0)
    lengths = np.array(LENGTHS)
    return Rows(
        input_ids=rng.integers(4, vocabulary - 1, lengths.sum()).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        second=lengths.astype(np.int32),
        example=np.arange(len(lengths)),
        items=np.arange(len(lengths) + 1),
        prefix=lengths.astype(np.int32) if prefix else None,
    )


def decoding(**changed: Any) -> Decoding:
    given: dict[str, Any] = {
        "names": [f"task\n{number}" for number in range(len(LENGTHS))],
        "samples": 5,
        "temperature": 1.0,
        "top_p": 0.95,
        "end": END,
        "most_tokens": 16,
        "row_limit": 100,
        "is_complete": lambda ids: False,
    }
    return Decoding(**{**given, **changed})


def build(kind: str) -> tuple[MultiTask, Any]:
    """A model with weights as large as trained ones, and its tokenizer's special tokens."""
    tokenizer = small.tokenizer_stub()
    if kind == "xlm-r":
        model = small.model(specs=SPECS, hidden=32, heads=4, layers=3)
        for weight in (parameter for parameter in model.parameters() if parameter.dim() == 2):
            weight.data *= 6
        return model.eval(), tokenizer
    torch.manual_seed(1)
    network = transformers.AutoModel.from_config(tiny_decoders.config(kind, small.VOCABULARY)).eval()
    pack(network, kind)
    tokenizer.sees = "left"
    return build_model(network, SPECS, 1).eval(), tokenizer


@pytest.fixture(scope="module", params=("xlm-r", *DECODERS))
def built(request: pytest.FixtureRequest) -> Iterator[tuple[MultiTask, Any]]:
    yield build(request.param)


class Recording(Generator):
    """A generator that keeps the logits that each choice was made from, by the number that made it."""

    seen: dict[bytes, np.ndarray] = {}

    def _choose(self, logits: np.ndarray, uniform: np.ndarray) -> Any:
        self.seen.update((number.tobytes(), of_sample) for number, of_sample in zip(uniform, logits, strict=True))
        return super()._choose(logits, uniform)


SETTING = TrainingPart()
WORLD: Any = {
    "first": True,
    "device": torch.device("cpu"),
    "gather": lambda value: [value],
    "maximum": lambda numbers, prompt: [*numbers[:2], 1],
}


def write(built: tuple[MultiTask, Any], items: Sequence[int], given: Decoding, kind: type = Generator) -> Any:
    model, tokenizer = built
    generator = kind(model, tokenizer, torch.device("cpu"), "code", given)
    return generator.write(prompt_rows(tokenizer.sees == "both"), items)


def test_a_sample_is_the_same_to_the_bit_whatever_is_beside_it(built: tuple[MultiTask, Any]) -> None:
    everything = list(range(len(LENGTHS)))
    Recording.seen = {}
    together = write(built, everything, decoding(), Recording)
    logits = Recording.seen
    assert len({tuple(ids) for of_prompt in together for ids in of_prompt}) > 30  # samples differ
    assert len({len(ids) for of_prompt in together for ids in of_prompt}) > 1 or built[1].sees == "left"
    for items in ([3], [6, 1], [7, 4, 0, 2], everything[::-1]):
        Recording.seen = {}
        assert write(built, items, decoding(), Recording) == [together[item] for item in items]
        for key, values in Recording.seen.items():
            assert np.array_equal(values, logits[key])
    # The number of samples changes none of them, either.
    assert [samples[:2] for samples in together] == write(built, everything, decoding(samples=2))


def test_what_is_kept_of_earlier_tokens_is_what_they_would_be_computed_to_again(
    built: tuple[MultiTask, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding_module, "BLOCK", 3)  # so that blocks are begun several times
    model, tokenizer = built
    rows = prompt_rows(tokenizer.sees == "both")
    greedy = write(built, list(range(len(LENGTHS))), decoding(samples=1, temperature=0.0))
    for item in range(len(LENGTHS)):
        prompt = rows.input_ids[rows.starts[item] : rows.starts[item + 1]]
        again: list[int] = []
        while len(again) < 16:
            logits = recomputed(model, tokenizer, prompt, again)
            token = int(logits.argmax())
            if token == END:
                break
            again.append(token)
        assert greedy[item] == [again]


@pytest.mark.parametrize("layer", [None, 2])
def test_packed_rows_behind_a_prefix_have_the_hidden_states_of_transformers_own_attention(layer: int | None) -> None:
    """Each row alone through eager attention, with the mask of a prefix language model written out."""
    packed, alone = build("xlm-r")[0], small.model(specs=SPECS, hidden=32, heads=4, layers=3, packed=False).eval()
    alone.load_state_dict(packed.state_dict())
    alone.encoder.set_attn_implementation("eager")
    rows = prompt_rows(True)
    rows.prefix = np.array(LENGTHS, np.int32) // 2
    with torch.no_grad():
        states = packed.backbone.hidden_states(
            pack_rows([(rows, item) for item in range(8)], small.tokenizer_stub()), layer
        )
        for start, end, prefix in zip(rows.starts[:-1], rows.starts[1:], rows.prefix):
            row, column = torch.arange(int(end - start))[:, None], torch.arange(int(end - start))
            mask = torch.where((column <= row) | (column < int(prefix)), 0.0, -1e30)[None, None]
            ids = torch.from_numpy(rows.input_ids[start:end].astype(np.int64))[None]
            plain = alone.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            expected = plain.last_hidden_state if layer is None else plain.hidden_states[layer]
            torch.testing.assert_close(states[start:end], expected[0], rtol=1e-4, atol=1e-4)


def recomputed(model: MultiTask, tokenizer: Any, prompt: np.ndarray, written: list[int]) -> np.ndarray:
    ids = np.concatenate([prompt, np.array(written, np.int32)])
    prefix = np.array([len(prompt)], np.int32)
    row = Rows(ids, np.array([0, len(ids)]), prefix, np.array([0]), np.array([0, 1]))
    row.prefix = prefix if tokenizer.sees == "both" else None
    head = model.head("code")
    options = {"embedding": model.word_embedding} if head.ties_embeddings else {}
    with torch.no_grad():
        last = model.backbone.hidden_states(pack_rows([(row, 0)], tokenizer))[-1:]
        logits = head(last, **options)[0].numpy()
    logits[[token for token in tokenizer.special if token != END]] = -np.inf
    return np.asarray(logits)


@pytest.mark.parametrize("kind", DECODERS)
def test_greedy_text_is_that_of_transformers_own_generation(kind: str, tmp_path: Path) -> None:
    """Of the exported folder: one prompt after the other through `generate`, without any settings but the length."""
    source, folder = tmp_path / "source", tmp_path / "exported"
    tiny_decoders.save_model(kind, source, small.VOCABULARY)
    tokenizer: Any = small.tokenizer_stub()
    tokenizer.sees, tokenizer.save = "left", lambda folder: None
    tokenizer.vocabulary -= 5  # the last rows of the model's vocabulary are no tokens
    model = build_model(load_encoder(source, ModelPart()), SPECS, 1).eval()
    set_language_head(model.head("code"), read_output_layer(source) or {}, "source")
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    export_model(folder, model.encoder, tokenizer, SPECS, parameters, {"step": 1})
    assert model.encoder.config._attn_implementation == attention.NAME  # it may go on training
    exported = transformers.AutoModelForCausalLM.from_pretrained(folder / "encoder").eval()
    rows, expected = prompt_rows(False), []
    for start, end in zip(rows.starts[:-1], rows.starts[1:]):
        ids = torch.from_numpy(rows.input_ids[start:end].astype(np.int64))[None]
        made = exported.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16)
        expected.append([token for token in made[0, ids.shape[1] :].tolist() if token != END])
    written = write((model, tokenizer), list(range(len(LENGTHS))), decoding(samples=1, temperature=0.0))
    assert written == [[ids] for ids in expected]
    assert len({tuple(ids) for ids in expected}) > 1


def test_damaged_weights_write_nothing() -> None:
    model, tokenizer = build("gpt2")
    torch.nn.init.constant_(model.encoder.h[1].attn.c_proj.weight, float("nan"))
    with pytest.raises(UserError, match="outputs are not finite; its weights are damaged"):
        write((model, tokenizer), [0, 1], decoding())


@pytest.mark.parametrize("limit", ["most_tokens", "row_limit", "is_complete"])
def test_each_sample_ends_for_its_own_reason(built: tuple[MultiTask, Any], limit: str) -> None:
    long = write(built, [0, 1, 4], decoding())
    changed: dict[str, Any] = {"most_tokens": 3, "row_limit": 12, "is_complete": lambda ids: ids[-1] % 5 == 0}
    short = write(built, [0, 1, 4], decoding(**{limit: changed[limit]}))
    for item, ours, theirs in zip((0, 1, 4), short, long):
        most = {"most_tokens": 3, "row_limit": max(0, 12 - LENGTHS[item])}.get(limit, 16)
        for ids, longer in zip(ours, theirs):
            end = next((place + 1 for place, token in enumerate(longer) if token % 5 == 0), 16)
            assert ids == longer[: end if limit == "is_complete" else most]


@pytest.mark.parametrize("size, rounds", [(1, 12), (3, 4)])
def test_ranks_write_what_one_writes_and_go_from_one_language_to_the_next(size: int, rounds: int) -> None:
    """Each rank for its own prompts: those of two languages, of which the first has its solutions foreseen, too."""
    model, tokenizer = build("xlm-r")
    rows = prompt_rows(True)
    languages = [decoding(), decoding(names=[f"other {number}" for number in range(8)], samples=2)]
    whole = [write((model, tokenizer), list(range(8)), of_language) for of_language in languages]
    assert whole[0][0][:2] != whole[1][0]
    passes = [Passes(rows, "programs", of_language) for of_language in languages]
    works = [Work([passes[0], Passes(rows, "outputs")], list), Work([passes[1]], list)]
    alone = Predictor(model, tokenizer, 1, SimpleNamespace(rank=0, size=1, **WORLD))
    foreseen = alone.outputs(FAMILIES["generate"], "code", rows, SETTING)
    messages: list[list[Any]] = [[] for _ in range(size)]
    arrived: list[Any] = []
    asked = 0
    for rank in reversed(range(size)):

        def gather(value: Any, rank: int = rank) -> list[Any]:
            messages[rank].append(value)
            return [of_rank[-1] for of_rank in messages] if rank == 0 else []

        def maximum(numbers: list[int], prompt: bool) -> list[int]:
            nonlocal asked
            asked += 1
            return [*numbers[:2], 1]

        world: Any = SimpleNamespace(**{**WORLD, "gather": gather, "maximum": maximum}, rank=rank, size=size)
        world.first = rank == 0
        predictor = Predictor(model, tokenizer, 2, world)
        arrived = list(predictor.work_done(works, FAMILIES["generate"], "code", SETTING))
    assert [number for number, _ in arrived] == [0, 1] and asked == rounds * size
    assert [made[0] for _, made in arrived] == whole
    assert [ids.tolist() for ids in arrived[0][1][1]] == [ids.tolist() for ids in foreseen]
    assert all(len(of_rank) == 1 for of_rank in messages)  # one gathering, at the end


def test_a_stop_while_programs_are_written_keeps_the_languages_that_are_whole() -> None:
    """What is measured of the solutions comes first, of all languages: nothing else is missing then."""
    model, tokenizer = build("xlm-r")
    rows = prompt_rows(True)
    works = [Work([Passes(rows, "programs", decoding(samples=1)), Passes(rows, "outputs")], list) for _ in range(2)]
    asked = iter(range(100))
    # Batches of two: 8 of the outputs and 4 of the first language's programs are through.
    maximum = lambda numbers, prompt: [int(next(asked) > 12), 0, 1]  # noqa: E731
    world: Any = SimpleNamespace(**{**WORLD, "maximum": maximum}, rank=0, size=1)
    arrived = []
    with pytest.raises(Stopped):
        arrived.extend(Predictor(model, tokenizer, 2, world).work_done(works, FAMILIES["generate"], "code", SETTING))
    assert [number for number, _ in arrived] == [0]


# --- known solutions -------------------------------------------------------------------------------------------------


def test_losses_of_known_solutions_are_those_of_all_logits(built: tuple[MultiTask, Any]) -> None:
    """By item and in order, whatever stands in a batch together."""
    model, tokenizer = built
    prompts = prompt_rows(tokenizer.sees == "both")
    solved = dataclasses.replace(prompts, second=prompts.second - 3)
    if prompts.prefix is not None:
        solved = dataclasses.replace(solved, prefix=prompts.prefix - 3)
    world: Any = SimpleNamespace(rank=0, size=1, **WORLD)
    family = FAMILIES["generate"]
    work = Work([Passes(solved, "losses")], list)
    [(_, [losses])] = Predictor(model, tokenizer, 3, world).work_done([work], family, "code", SETTING)
    for item, of_item in enumerate(losses):
        one = PackedItems([(solved, item)], tokenizer)
        targets = family.verbs(tokenizer.sees).targets(solved, item, one.starts(0), one.ids, None)  # type: ignore[arg-type]
        none = torch.zeros(0, dtype=torch.long)
        one.batch.heads["code"] = Targets(torch.from_numpy(targets.tokens), none, none.float(), none)
        with torch.no_grad():
            logits = model(one.batch, "next")["code"].double()
        wanted = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets.gold).long(), reduction="none")
        assert of_item.shape == (3,) and np.allclose(of_item, wanted.numpy(), atol=1e-4)


# --- choosing --------------------------------------------------------------------------------------------------------


def chosen(logits: list[float], temperature: float, top_p: float) -> dict[int, float]:
    """How often each token is chosen over evenly spread numbers."""
    rows = np.tile(np.array(logits, np.float32), (1000, 1))
    tokens = choose(rows, temperature, top_p, (np.arange(1000) + 0.5) / 1000)
    return {int(token): float((tokens == token).mean()) for token in np.unique(tokens)}


def test_tokens_are_chosen_as_often_as_they_are_probable() -> None:
    logits = np.log([0.1, 0.6, 0.3]).tolist()
    near: Callable[..., Any] = lambda values: pytest.approx(values, abs=0.002)  # noqa: E731
    assert chosen(logits, 1.0, 1.0) == near({0: 0.1, 1: 0.6, 2: 0.3})
    assert chosen(logits, 0.5, 1.0) == near({0: 0.01 / 0.46, 1: 0.36 / 0.46, 2: 0.09 / 0.46})
    # The fewest of the likeliest that have that probability together.
    assert chosen(logits, 1.0, 0.6) == near({1: 1.0})
    assert chosen(logits, 1.0, 0.61) == near({1: 2 / 3, 2: 1 / 3})
    assert chosen([0.0, 0.0, -np.inf], 1.0, 0.9) == near({0: 0.5, 1: 0.5})
    assert choose(np.array([[1.0, 3.0, 3.0]], np.float32), 0.0, 1.0, np.array([0.99])) == [1]  # the first of equals


@given(st.integers(2, 300), st.floats(0.01, 1), st.floats(0, 0.999), st.integers(0, 2**32 - 1))
def test_the_fewest_likeliest_are_those_of_the_whole_order(size: int, top_p: float, uniform: float, seed: int) -> None:
    """Only probabilities are sorted, and not the tokens by them, which changes nothing."""
    logits = np.random.default_rng(seed).integers(-4, 5, (1, size)).astype(np.float32)  # with equals
    probabilities = np.exp(logits[0].astype(np.float64) - logits.max())
    probabilities /= probabilities.sum()
    order = sorted(range(size), key=lambda token: (-probabilities[token], token))
    before = np.concatenate([[0], np.cumsum(probabilities[order])[:-1]])
    order = [token for token, mass in zip(order, before) if mass < top_p - 1e-9] or order[:1]
    bounds = np.cumsum(probabilities[order])
    expected = int(np.searchsorted(bounds / bounds[-1], uniform, side="right"))
    near_a_bound = np.abs(bounds / bounds[-1] - uniform).min() < 1e-6
    near_top_p = np.abs(before - top_p).min() < 1e-6
    if not near_a_bound and not near_top_p:
        assert choose(logits, 1.0, top_p, np.array([uniform])) == [order[min(expected, len(order) - 1)]]


def test_what_a_sample_draws_depends_on_task_item_and_number() -> None:
    first = uniform_numbers("mbpp\n1", 0, 4)
    assert np.array_equal(first, uniform_numbers("mbpp\n1", 0, 8)[:4])
    for name, sample in (("mbpp\n2", 0), ("mbpp\n1", 1), ("humaneval\n1", 0), ("mbpp\n11", 0)):
        assert not np.array_equal(first, uniform_numbers(name, sample, 4))


@pytest.mark.parametrize(
    "given, problem",
    [
        ({"samples": 5}, "all the same; set a temperature"),
        (
            {"stop": ["\nif", "\nif x"]},
            r"'\\nif' is a part of '\\nif x', which therefore never ends.*leave it out",
        ),
        ({"stop": [""]}, "an empty text"),
        ({"stop": ["\r\nclass"]}, r"leave out \\r"),
        ({"top_p": 0}, "top_p"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        parse_recipe({"name": "x", "targets": ["xnli"], "evaluation": {"generate": given}}, "the recipe")
