"""Shaded text shows the characters of a text, whatever tokens they are made of."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pydata_sphinx_theme
import pytest
import tiny
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tttnn.models import load_model
from tttnn.report.shaded import compare, token_texts, visible

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
    before, after = [0.0] * len(pieces), [1.0] * len(pieces)
    page = BeautifulSoup(compare(pieces, before, after, "Text")._repr_html_(), "html.parser")
    assert len(page.pre.find_all("span")) == sum(bool(piece) for piece in pieces)


@each_kind
def test_a_character_of_several_tokens_is_shown_once_with_all_of_their_bits(kind):
    pieces = token_texts(TOKENIZERS[kind], "😀")
    assert len([piece for piece in pieces if piece]) == 1 < len(pieces)
    made = compare(pieces, [BITS] * len(pieces), [0.0] * len(pieces), "Text")
    assert made.pieces == ("😀",) and made.before[0] == pytest.approx(len(pieces))


def test_accents_stay_with_their_letter_also_where_the_tokenizer_composes_them():
    for kind, tokenizer in TOKENIZERS.items():
        assert "e\u0301" in "|".join(token_texts(tokenizer, "e\u0301")).split("|"), kind


def test_text_that_was_cut_within_a_character_shows_it_whole():
    pieces = token_texts(TOKENIZERS["byte-level"], "x漢")
    costs = [1.0] * (len(pieces) - 1)
    assert compare(pieces[:-1], costs, costs, "Text").pieces == ("x", "漢")


@each_kind
@settings(max_examples=100, deadline=None, database=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back_whole(kind, text):
    pieces = token_texts(TOKENIZERS[kind], text)
    assert "".join(pieces) == (text if pieces else "")


@each_kind
def test_markup_of_a_text_is_no_markup_of_the_page(kind):
    text = MARKS["markup"]
    pieces = token_texts(TOKENIZERS[kind], text)
    page = compare(pieces, [0.0] * len(pieces), [1.0] * len(pieces), "<i>")
    assert "<b" not in page._repr_html_() and "<i>" not in page._repr_html_()


def test_a_tokenizer_without_offsets_decodes_token_by_token():
    class Slow:
        is_fast = False

        def __call__(self, text, add_special_tokens, split_special_tokens):
            assert split_special_tokens and not add_special_tokens
            return {"input_ids": [ord(letter) for letter in text]}

        def decode(self, tokens):
            return chr(tokens[0])

    assert token_texts(Slow(), "ab") == ["a", "b"]


def test_nothing_is_no_text_to_shade():
    with pytest.raises(ValueError, match="no tokens"):
        compare([], [], [], "Text")


def test_a_text_that_quotes_a_special_token_has_as_many_pieces_as_it_is_scored_in(tmp_path):
    """The model's own name for the end of a text, or SmolLM2's for a file, is text like the rest of it."""
    lm = load_model(str(tiny.tiny_gpt2(tmp_path / "gpt2")))
    text = f"say {lm.tokenizer.eos_token} twice {lm.tokenizer.eos_token}"
    pieces = token_texts(lm.tokenizer, text)
    assert len(pieces) == len(lm.encode(text)) > 8 and "".join(pieces) == text


BITS = math.log(2)
PIECES = ["msg", "", "id", " <b>", "\n", " x"]
BEFORE = [bits * BITS for bits in (5.0, 1.0, 2.0, 9.0, 3.0, 1.0)]
AFTER = [bits * BITS for bits in (1.0, 1.0, 4.5, 9.2, 1.5, 13.0)]


def compared():
    return BeautifulSoup(compare(PIECES, BEFORE, AFTER, "The <example>")._repr_html_(), "html.parser")


def test_a_comparison_is_one_text_whose_tokens_say_whether_they_became_cheaper_or_dearer():
    page = compared()
    assert page.pre.get_text() == "".join(PIECES) and page.figcaption.get_text() == "The <example>"
    kinds = {span.get_text(): span["class"] for span in page.pre.find_all("span")}
    assert kinds == {"msg": ["cheaper"], "id": ["dearer"], "\n": ["cheaper"], " x": ["dearer"]}, (
        "0.2 bits are no change"
    )
    shares = {span.get_text(): span["style"] for span in page.pre.find_all("span")}
    assert shares["msg"] == "--share:0.67" and shares[" x"] == "--share:1.00", "of six bits, and no more than all"


def test_large_changes_are_reached_without_a_mouse_and_all_numbers_without_colours():
    page = compared()
    reached = {span.get_text(): span["data-bits"] for span in page.pre.find_all(tabindex="0")}
    assert reached == {"msg": "6.0 → 2.0 bits", "id": "2.0 → 4.5 bits", " x": "1.0 → 13.0 bits"}
    assert not page.find(class_="tttnn-legend").find_all(tabindex=True), "the legend's swatches hold no numbers"
    rows = [[cell.get_text() for cell in row.find_all("td")] for row in page.details.find_all("tr")]
    assert rows[1:] == [["msg", "6.0", "2.0", "−4.0"], ["id", "2.0", "4.5", "+2.5"], ["␣<b>", "9.0", "9.2", "+0.2"],
                        ["↵", "3.0", "1.5", "−1.5"], ["␣x", "1.0", "13.0", "+12.0"]]  # fmt: skip


def test_a_comparison_adds_up_in_words_and_in_its_frame():
    made = compare(PIECES, BEFORE, AFTER, "Example")
    assert repr(made) == "Example: 21 bits before, 30 after (+9)"
    assert made.frame["change"].sum() == pytest.approx(9.2)
    with pytest.raises(ValueError, match="6 tokens but 5 costs"):
        compare(PIECES, BEFORE, AFTER[:5], "Example")


@pytest.mark.parametrize(("piece", "shown"), [(" a b ", "␣a b␣"), ("  ", "␣␣"), ("\t\n", "⇥↵"), ("x", "x")])
def test_white_space_at_the_ends_of_a_token_is_seen_in_a_table(piece, shown):
    assert visible(piece) == shown


def luminance(colour: list[float]) -> float:
    linear = [(value / 12.92) if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_letters_keep_their_contrast_on_the_strongest_shade(mode):
    """At least 4.5 to 1, as WCAG asks for, in the theme's colours of text and of code."""
    theme = Path(pydata_sphinx_theme.__file__).parent.rglob("pydata-sphinx-theme.css")
    rules = re.findall(rf"html\[data-theme={mode}\]\{{([^}}]*)\}}", next(iter(theme)).read_text(encoding="utf-8"))
    values = dict(re.findall(r"--pst-color-(text-base|surface):(#\w+)", "".join(rules)))
    text, page = ([int(digits, 16) / 255 for digits in re.findall("..", values[name][1:])] for name in
                  ("text-base", "surface"))  # fmt: skip
    css = (Path(__file__).resolve().parents[1] / "book" / "_static" / "book.css").read_text(encoding="utf-8")
    shades = re.findall(r"background: rgb\((\d+) (\d+) (\d+) / calc\(var\(--\w+\) \* (\d+)%\)\)", css)
    assert len(shades) == 2
    for *colour, percent in shades:
        share = int(percent) / 100
        mixed = [share * int(value) / 255 + (1 - share) * below for value, below in zip(colour, page, strict=True)]
        light, dark = sorted([luminance(text), luminance(mixed)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{colour} at {percent}% in {mode} mode"
