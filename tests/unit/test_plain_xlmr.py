"""Small XLM-Rs with the vocabulary of a text: the tokenizer keeps its frequent pieces and every character of it; a cut
model computes what the whole one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from stilts_ds.errors import UserError
from stilts_ds.toy.plain import write_cut_model, write_plain_model

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁ab", "ab", "a", "b", "c", "▁abc", "z", "▁zz"]


@pytest.fixture
def xlmr(tmp_path: Path) -> Path:
    """An XLM-R's tokenizer with a few pieces; the rarer a piece stands, the less likely it is."""
    vocabulary = [(piece, -float(number)) for number, piece in enumerate(PIECES)]
    tokenizer = Tokenizer(models.Unigram([*vocabulary, ("<mask>", 0.0)], 3, False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>",
        sep_token="</s>", unk_token="<unk>", mask_token="<mask>",
    ).save_pretrained(tmp_path / "xlmr")  # fmt: skip
    return tmp_path / "xlmr"


def write_text(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "en.txt").write_text(text)
    return folder


def test_frequent_pieces_and_all_characters_stay_and_mask_is_last(xlmr: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text", "ab ab ab abc\n")
    write_plain_model(text, xlmr, tmp_path / "plain", pieces=1, layers=1, hidden=64, positions=32, seed=1)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "plain"))
    vocabulary = tokenizer.get_vocab()
    assert [vocabulary[name] for name in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    assert tokenizer.mask_token_id == len(tokenizer) - 1
    assert tokenizer.tokenize("abc") == ["▁ab", "c"]  # its own piece occurred once
    assert not {"▁abc", "▁zz", "z", "ab"} & set(vocabulary)
    model = AutoModel.from_pretrained(str(tmp_path / "plain"), add_pooling_layer=False)
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), 64)


def test_the_seed_alone_decides_the_weights(xlmr: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text", "ab\n")
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_plain_model(text, xlmr, tmp_path / name, pieces=9, layers=1, hidden=64, positions=32, seed=seed)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_width_that_heads_do_not_divide_and_a_folder_without_text_are_refused(xlmr: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text", "ab\n")
    with pytest.raises(UserError, match="100 is no multiple of 64"):
        write_plain_model(text, xlmr, tmp_path / "out", pieces=9, layers=1, hidden=100, positions=32, seed=1)
    with pytest.raises(UserError, match="no <language>.txt"):
        write_plain_model(xlmr, xlmr, tmp_path / "out", pieces=9, layers=1, hidden=64, positions=32, seed=1)
    with pytest.raises(UserError, match="layers: 0 is less than 1"):
        write_plain_model(text, xlmr, tmp_path / "out", pieces=9, layers=0, hidden=64, positions=32, seed=1)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def trained(xlmr: Path, tmp_path: Path) -> Path:
    """An XLM-R of two layers with all of the pieces."""
    text = write_text(tmp_path / "all", " ".join(PIECES[4:]).replace("▁", " ") + " abc zz ab\n")
    write_plain_model(text, xlmr, tmp_path / "trained", pieces=99, layers=2, hidden=64, positions=32, seed=1)
    return tmp_path / "trained"


def test_a_cut_model_has_the_hidden_states_of_the_lower_layers(trained: Path, tmp_path: Path) -> None:
    write_cut_model(write_text(tmp_path / "text", "ab abc\n"), trained, tmp_path / "cut", pieces=99, layers=1)
    states, sizes = [], []
    for folder in (trained, tmp_path / "cut"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        model = AutoModel.from_pretrained(str(folder), add_pooling_layer=False).eval()
        with torch.no_grad():
            row = tokenizer("abc ab <mask>", return_tensors="pt")
            states.append(model(**row, output_hidden_states=True).hidden_states[1])
        sizes.append((len(tokenizer), *model.get_input_embeddings().weight.shape))
    assert torch.equal(*states)
    whole, cut = sizes
    assert cut[0] == cut[1] < whole[0]


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_the_model_has_not_are_refused(trained: Path, tmp_path: Path, layers: int) -> None:
    with pytest.raises(UserError, match="give a number from 1 to 2"):
        write_cut_model(write_text(tmp_path / "text", "ab\n"), trained, tmp_path / "cut", pieces=9, layers=layers)
    assert not (tmp_path / "cut").exists()
