"""Finds functions by a sentence that says what they do: BM25 over words, and static embeddings."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import wordllama
from scipy.sparse import csr_matrix

K1 = 1.2  # how fast more of the same word stops counting
B = 0.75  # how much a long text pays for its length
NAME_COUNT = 1  # times that the words of a function's name count
WHOLE_NAMES = True  # parse_header and parseHeader are words too, beside parse and header
STEM = False  # leave off the endings of words
MIN_LETTERS = 1  # shorter words are left out
CHUNK_WORDS = 0  # words of a part of a long function, which is found by its best part; 0: not parted
EMBEDDING_SHARE = 0.0
EMBEDDING_WORDS = 100  # of each part, from its beginning
FUSION = "ranks"  # ranks: 1 / (RANK_OFFSET + rank) is summed; scores: scores over the best one's
RANK_OFFSET = 60.0
RANKED = 200  # ranks of each that count
TOP_K = 10

PACKAGE = Path(wordllama.__file__).parent  # its wheel holds a model
WORD = re.compile(r"[a-z]+|[0-9]+")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
ENDING = re.compile(r"(?<=\w{3})(?:ations?|ings?|ed|es|s|e)$")


class Retriever:
    """An index of functions."""

    def __init__(self, functions: Sequence[tuple[str, str]]) -> None:
        """Indexes functions by (name, source without docstring)."""
        self._names = [name for name, _ in functions]
        parts = [list(_parts(words(name) * NAME_COUNT, words(source))) for name, source in functions]
        texts = [part for parts_of_one in parts for part in parts_of_one]
        self._starts = np.cumsum([0, *map(len, parts[:-1])])
        self._columns: dict[str, int] = {}  # of each word
        for text in texts:
            for word in text:
                self._columns.setdefault(word, len(self._columns))
        self._weights = _bm25(self._counts(texts))
        if EMBEDDING_SHARE:
            self._model = wordllama.WordLlama.load(cache_dir=PACKAGE, disable_download=True)
            self._vectors = self._embed([" ".join(text[:EMBEDDING_WORDS]) for text in texts])

    def find(self, queries: Sequence[str]) -> list[list[str]]:
        """Names of the best functions for each query, the best first."""
        scores = self._best((self._counts(map(words, queries)).sign() @ self._weights.T).toarray())
        if EMBEDDING_SHARE:
            near = self._best(self._embed(queries) @ self._vectors.T)
            scores = (1 - EMBEDDING_SHARE) * _comparable(scores) + EMBEDDING_SHARE * _comparable(near)
        return [[self._names[i] for i in row] for row in _first(scores, TOP_K)]

    def _counts(self, texts: Iterable[list[str]]) -> csr_matrix:
        """How often each word is in each text; words that no function has are left out."""
        columns, starts = [], [0]
        for text in texts:
            columns += [self._columns[word] for word in text if word in self._columns]
            starts.append(len(columns))
        shape = (len(starts) - 1, len(self._columns))
        counts = csr_matrix((np.ones(len(columns), np.float32), columns, starts), shape=shape)
        counts.sum_duplicates()
        return counts

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.embed(list(texts), norm=True)

    def _best(self, scores: np.ndarray) -> np.ndarray:
        """The score of each function's best part."""
        return np.maximum.reduceat(scores, self._starts, axis=1)


def words(text: str) -> list[str]:
    """The words of a text, or of a function's source."""
    return [word for name in NAME.findall(text) for word in _words_of_name(name)]


@cache
def _words_of_name(name: str) -> tuple[str, ...]:
    pieces = WORD.findall(HUMP.sub(" ", name).lower())
    found = [*pieces, name.lower()] if WHOLE_NAMES and len(pieces) > 1 else pieces
    if STEM:
        found = [ENDING.sub("", word) for word in found]
    return tuple(word for word in found if len(word) >= MIN_LETTERS)


def _parts(name: list[str], source: list[str]) -> Iterator[list[str]]:
    """The texts by which a function is found; each begins with its name."""
    step = CHUNK_WORDS or max(1, len(source))
    for start in range(0, max(1, len(source)), step):
        yield name + source[start : start + step]


def _bm25(counts: csr_matrix) -> csr_matrix:
    """BM25's weight of each word in each text: Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009."""
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    having = np.bincount(counts.indices, minlength=counts.shape[1])
    rarity = np.log1p((counts.shape[0] - having + 0.5) / (having + 0.5))
    saturation = K1 * (1 - B + B * lengths / lengths.mean())
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    weights = (K1 + 1) * counts.data / (counts.data + saturation[rows]) * rarity[counts.indices]
    return csr_matrix((weights.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)


def _comparable(scores: np.ndarray) -> np.ndarray:
    """Scores that can be added to another method's."""
    if FUSION == "scores":
        return scores / np.maximum(scores.max(axis=1, keepdims=True), 1e-9)
    first, summands = _first(scores, RANKED), np.zeros(scores.shape)
    np.put_along_axis(summands, first, 1 / (RANK_OFFSET + 1 + np.arange(first.shape[1]))[None], axis=1)
    return summands


def _first(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of the highest scores of each row, the highest first."""
    count = min(count, scores.shape[1])
    found = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)
