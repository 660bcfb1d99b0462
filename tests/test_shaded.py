"""Shaded text shows the characters of a text, whatever tokens they are made of."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tttnn.report.shaded import shade, token_texts

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
MARKS = {
    "emoji": "a 😀 b",
    "family": "👨‍👩‍👧 and 🇨🇦",
    "Chinese": "漢字 and かな",
    "combining": "e\u0301le\u0300ve, Z\u0351\u036b\u0343",
    "composed": "naïve π",
    "Devanagari": "नमस्ते",
    "Korean": "한국어 \u1112\u1161\u11ab",
    "markup": '<b onclick="x">&amp;</b>',
    "white space": "  a \r\n\t b  \n",
    "replacement": "lost: \ufffd",
}


def byte_level(normalizer: normalizers.Normalizer | None = None, trim: bool = False) -> Tokenizer:
    """GPT-2's kind, or with a normalizer Qwen's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=trim)
    if normalizer:
        made.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([*tiny.LINES, *MARKS.values()], trainer)
    return made


def byte_fallback() -> Tokenizer:
    """Llama's kind: spaces are a letter, unknown characters their bytes, one space stands before the text."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", *BYTES], show_progress=False)
    made.train_from_iterator(tiny.LINES, trainer)
    return made


KINDS = {
    "byte-level": byte_level(),
    "trimmed": byte_level(trim=True),
    "composing": byte_level(normalizers.NFC()),
    "byte fallback": byte_fallback(),
}
TOKENIZERS = {name: PreTrainedTokenizerFast(tokenizer_object=made) for name, made in KINDS.items()}

each_kind = pytest.mark.parametrize("kind", TOKENIZERS)


@each_kind
@pytest.mark.parametrize("mark", MARKS)
def test_tokens_share_out_the_text_and_cut_no_character(kind, mark):
    tokenizer, text = TOKENIZERS[kind], MARKS[mark]
    pieces = token_texts(tokenizer, text)
    assert len(pieces) == len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces).replace(MARKS["replacement"], "")
    page = shade(pieces, [1.0] * len(pieces), "Before")._repr_html_()
    assert page.count("<span") == sum(bool(piece) for piece in pieces)


@each_kind
def test_a_character_of_several_tokens_is_shown_once_with_all_of_their_bits(kind):
    pieces = token_texts(TOKENIZERS[kind], "😀")
    assert len([piece for piece in pieces if piece]) == 1 < len(pieces)
    shaded = shade(pieces, [0.693147] * len(pieces), "Before")
    assert shaded.pieces == ("😀",) and shaded.bits[0] == pytest.approx(len(pieces), abs=1e-4)
    assert f"1.00 bits per token over {len(pieces)} tokens" in repr(shaded)


def test_accents_stay_with_their_letter_also_where_the_tokenizer_composes_them():
    for kind, tokenizer in TOKENIZERS.items():
        assert "e\u0301" in "|".join(token_texts(tokenizer, "e\u0301")).split("|"), kind


def test_text_that_was_cut_within_a_character_shows_it_whole():
    pieces = token_texts(TOKENIZERS["byte-level"], "x漢")
    assert shade(pieces[:-1], [1.0] * (len(pieces) - 1), "Before").pieces == ("x", "漢")


@each_kind
@settings(max_examples=100, deadline=None, database=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back_whole(kind, text):
    pieces = token_texts(TOKENIZERS[kind], text)
    assert "".join(pieces) == (text if pieces else "")


@each_kind
def test_markup_of_a_text_is_no_markup_of_the_page(kind):
    text = MARKS["markup"]
    page = shade(token_texts(TOKENIZERS[kind], text), [1.0] * len(token_texts(TOKENIZERS[kind], text)), "<i>")
    assert "<b" not in page._repr_html_() and "<i>" not in page._repr_html_()


def test_a_tokenizer_without_offsets_decodes_token_by_token():
    class Slow:
        is_fast = False

        def __call__(self, text, add_special_tokens):
            return {"input_ids": [ord(letter) for letter in text]}

        def decode(self, tokens):
            return chr(tokens[0])

    assert token_texts(Slow(), "ab") == ["a", "b"]


def test_nothing_is_no_text_to_shade():
    with pytest.raises(ValueError, match="no tokens"):
        shade([], [], "Before")
