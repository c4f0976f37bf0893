"""Packing and vocabulary by the rules of the original autoresearch equal a second implementation of these rules.

Facts from karpathy/autoresearch, prepare.py: the tokenizer learns from documents of train, of each at most 10,000
characters, until 1e9 were read; of V tokens four are special, and BOS is the first of them. Rows of T + 1 tokens are
filled from a buffer of documents, each with BOS before it: while it holds fewer than 1000, 128 more are added; the
longest that fits the room left is taken, of equals the first; when none fits, the shortest is cropped to fill the row,
and its rest is dropped.
"""

import random
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
import regex

from autoresearch_jax.tasks.lm.data.corpus import Reporter, open_corpus
from autoresearch_jax.tasks.lm.data.packing import pack_rows
from autoresearch_jax.tasks.lm.data.text_files import Skipped
from autoresearch_jax.tasks.lm.data.tokenizer import ORIGINAL, STANDARD, train_tokenizer


def rows_by_the_rules(documents: list[list[int]], row_tokens: int, buffer_size: int, refill: int) -> list[list[int]]:
    """Rows until there is no document left to refill from, as the rules above say it."""
    waiting = list(documents)
    buffer: list[list[int]] = []
    rows = []
    while True:
        row: list[int] = []
        while len(row) < row_tokens:
            while len(buffer) < buffer_size:
                if not waiting:
                    return rows
                buffer += waiting[:refill]
                waiting = waiting[refill:]
            room = row_tokens - len(row)
            fitting = [document for document in buffer if len(document) <= room]
            if fitting:
                longest = max(map(len, fitting))
                chosen = next(i for i, document in enumerate(buffer) if len(document) == longest)
            else:
                shortest = min(map(len, buffer))
                chosen = next(i for i, document in enumerate(buffer) if len(document) == shortest)
            row += buffer.pop(chosen)[:room]
        rows.append(row)


@pytest.mark.parametrize(("mean_length", "row_tokens"), [(5, 65), (60, 65), (300, 65)])
def test_packing(mean_length: int, row_tokens: int) -> None:
    draw = random.Random(mean_length)
    number = iter(range(10**9))
    lengths = [1 + int(draw.expovariate(1 / mean_length)) for _ in range(4000)]
    documents = [[0, *islice(number, length)] for length in lengths]
    expected = rows_by_the_rules(documents, row_tokens, 1000, 128)
    packed = pack_rows((np.array(document) for document in documents), row_tokens, ORIGINAL)
    assert [row.tolist() for row in islice(packed, len(expected))] == expected
    assert len(expected) > 100
    assert all(row[0] == 0 for row in expected)


def vocabulary_by_the_rules(texts: list[str], vocab_size: int) -> list[bytes]:
    """Byte-pair encoding as it is defined: merge the most frequent pair, of equals the smallest, until it is enough."""
    words = Counter(
        tuple(piece.encode()) for text in texts for piece in regex.findall(ORIGINAL.split_pattern, text[:10_000])
    )
    tokens = [bytes([byte]) for byte in range(256)]
    while len(tokens) < vocab_size - 4:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        most = max(pairs.values())
        left, right = min(pair for pair, count in pairs.items() if count == most)
        merged: Counter[tuple[int, ...]] = Counter()
        for word, count in words.items():
            new: list[int] = []
            for token in word:
                if new and new[-1] == left and token == right:
                    new[-1] = len(tokens)
                else:
                    new.append(token)
            merged[tuple(new)] += count
        words = merged
        tokens.append(tokens[left] + tokens[right])
    return tokens


@pytest.mark.slow
def test_tokenizer() -> None:
    files = open_corpus("stdlib").fetch(Reporter())
    texts = [document.text for document in islice(files.documents(Skipped()), 40)]
    assert max(map(len, texts)) > 10_000  # or the limit would not be seen
    tokenizer = train_tokenizer(iter(texts), 400, ORIGINAL)
    assert list(tokenizer.token_bytes) == vocabulary_by_the_rules(texts, 400)
    assert (tokenizer.bos_id, tokenizer.vocab_size) == (396, 400)
    assert tokenizer.num_bytes_original()[396:].tolist() == [0, 0, 0, 0]
    assert train_tokenizer(iter(texts), 400, STANDARD).token_bytes != tokenizer.token_bytes
    long = " " * 500_000 + "x"  # longer than any run of white space in a document can be
    assert tokenizer.decode(tokenizer.encode(long)) == long
    text = "  def f(x):\n\n\n        return 12345  # caf\u00e9\u4e2d\n" + " " * 300
    assert tokenizer.decode(tokenizer.encode(text)) == text
