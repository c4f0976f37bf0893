"""Any text survives the round trip, and byte counts are those of the text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_jax.tasks.lm.data.tokenizer import (
    TextRules,
    Tokenizer,
    VocabularyError,
    train_tokenizer,
)

TEXTS = [f"def f{i}(self):\n    return 'naïve 東京 {i * 37}'  # don't\n\n" for i in range(200)]
ODD = [
    "",
    " ",
    "<|bos|>",
    "\x00\x01\x7f",
    "\r\n\r \n\t\u2028\u00a0\u3000",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\ufeffbyte order mark",
    "\U0010ffff\ufffd\ufffe",
    " " * 200_000 + "x",  # white space that overflows the regex engine's stack if runs are not bounded
    "\n" * 50_000,
    "a" * 50_000,
]


@pytest.fixture(scope="module", params=[256, 257, 300])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TEXTS, request.param)


def test_a_trial_has_ids_of_its_own_for_all_tokens_but_bos(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    ids = tokenizer.draw_ids(2**63 - 1)
    assert sorted(ids) == list(range(size))
    assert ids[tokenizer.bos_id] == size - 1
    assert (ids == tokenizer.draw_ids(2**63 - 1)).all()
    assert (ids == tokenizer.draw_ids(0)).sum() < 10  # by chance about two, BOS among them


def test_bos_is_the_last_id_even_where_others_are_reserved() -> None:
    tokenizer = Tokenizer((b"a", b"b", b"c"), reserved=3)
    assert tokenizer.draw_ids(1)[tokenizer.bos_id] == 6


def test_the_ids_of_a_seed_never_change() -> None:
    tokenizer = Tokenizer(tuple(bytes([byte]) for byte in range(9)))
    assert tokenizer.draw_ids(0).tolist() == [5, 8, 4, 0, 7, 2, 3, 6, 1, 9]


@pytest.mark.parametrize("text", ODD, ids=[ascii(text[:8]) for text in ODD])
def test_odd_text_survives(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.num_bytes()[tokens].sum() == len(text.encode())
    assert tokenizer.bos_id not in tokens  # not even for the text "<|bos|>"


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text_survives(text: str) -> None:
    tokenizer = Tokenizer((*(bytes([byte]) for byte in range(256)), b"th", b"the", b"  ", b"\xc3\xa9"))
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.num_bytes()[tokens].sum() == len(text.encode())


def test_ids_fill_the_vocabulary_and_bos_is_the_last(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    assert tokenizer.bos_id == size - 1
    assert tokenizer.encoding.max_token_value == size - 1
    assert len(tokenizer.num_bytes()) == len(tokenizer.num_bytes_original()) == size
    assert tokenizer.num_bytes()[-1] == tokenizer.num_bytes_original()[-1] == 0
    assert tokenizer.decode([tokenizer.bos_id]) == "<|bos|>"


def test_the_original_counts_three_bytes_for_what_is_no_character_by_itself() -> None:
    tokenizer = Tokenizer((b"a", b" the", "é".encode(), b"\xc3", b"x\xe6\x9d", b"\x80\x81"))
    assert tokenizer.num_bytes().tolist() == [1, 4, 2, 1, 3, 2, 0]
    # The rules of UTF-8 decoding: a cut-off character is one U+FFFD, each stray continuation byte is one.
    assert tokenizer.num_bytes_original().tolist() == [1, 4, 2, 3, 4, 6, 0]


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "v.json")
    assert Tokenizer.load(tmp_path / "v.json") == tokenizer == train_tokenizer(iter(TEXTS), tokenizer.vocab_size)


@pytest.mark.parametrize("size", [0, 255, 1 << 30])
def test_impossible_sizes(size: int) -> None:
    with pytest.raises(VocabularyError, match="256"):
        train_tokenizer(TEXTS, size)


def test_too_large_for_the_text() -> None:
    with pytest.raises(VocabularyError, match=r"too large for this text, which gives at most \d+:"):
        train_tokenizer(["abab abab"], 2048)


def test_documents_begin_with_bos(tokenizer: Tokenizer) -> None:
    document = tokenizer.encode_document(TEXTS[7], np.dtype(np.uint16))
    assert document.dtype == np.uint16
    assert document[0] == tokenizer.bos_id
    assert tokenizer.decode(document[1:]) == TEXTS[7]


@pytest.mark.parametrize(
    ("rules", "read"),
    [
        (TextRules(), 6),
        (TextRules(training_characters=10), 2),
        (TextRules(training_bytes=10), 1),
        (TextRules(training_bytes=None), 6),
        (TextRules(training_characters=10, training_document_characters=4), 3),
    ],
)
def test_no_more_is_read_than_the_rules_say(rules: TextRules, read: int) -> None:
    texts = iter(["\u4e2d\u6587\u4e2d\u6587\u4e2d\u6587"] * 6)  # 6 characters of 3 bytes each
    assert train_tokenizer(texts, 257, rules).vocab_size == 257
    assert len(list(texts)) == 6 - read
