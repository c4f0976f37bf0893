"""Byte-level BPE, trained by rustbpe and used through tiktoken, and the rules of a corpus."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoresearch_jax.errors import UserError
from autoresearch_jax.files import write_json

if TYPE_CHECKING:
    import tiktoken

MIN_VOCAB_SIZE = 256
MAX_VOCAB_SIZE = 1 << 20  # a larger one is a typing error
BOS = "<|bos|>"
_LEARNT_AT_ONCE = 512  # documents handed to the trainer together, at most 0.3 GB

# GPT-4's pattern (contractions, words with one leading character, numbers, punctuation, newlines, spaces) with two
# changes: numbers in twos, since a small vocabulary has no room for a thousand triples; runs of white space end at
# 100, since the regex engine's stack overflows on millions.
SPLIT_PATTERN = "|".join(
    (
        r"'(?i:[sdmt]|ll|ve|re)",
        r"[^\r\n\p{L}\p{N}]?+\p{L}+",
        r"\p{N}{1,2}",
        r" ?[^\s\p{L}\p{N}]++[\r\n]*",
        r"\s{0,100}[\r\n]",
        r"\s{1,100}(?!\S)",
        r"\s{1,100}",
    )
)
_ENDLESS_SPACE = SPLIT_PATTERN.replace(r"\s{0,100}", r"\s*").replace(r"\s{1,100}", r"\s+")


@dataclass(frozen=True)
class TextRules:
    """All that decides how the documents of a split become rows.

    A vocabulary is learnt from the first documents of train, until they have `training_characters` or `training_bytes`
    (None for no limit). More text changes the merges little and takes half a kilobyte a different word, of which
    Chinese has one for each clause: 1.4 GB at worst.
    """

    split_pattern: str = SPLIT_PATTERN  # cuts the text before tokens are merged
    training_characters: int = 1_000_000_000
    training_bytes: int | None = 1 << 25  # of UTF-8
    training_document_characters: int | None = None  # read of each document; None for all
    reserved_tokens: int = 0  # ids after BOS that no text has
    buffer_documents: int = 1000  # that packing chooses from, as in the original
    refill_documents: int = 1  # added at once when the buffer has fewer
    keep_remainder: bool = True  # what is cropped off a document begins another row; else it is dropped


STANDARD = TextRules()
# Those of karpathy/autoresearch, prepare.py. Dropping the remainder would lose most of the text where documents are
# much longer than a row.
ORIGINAL = TextRules(
    split_pattern=_ENDLESS_SPACE,
    training_bytes=None,
    training_document_characters=10_000,
    reserved_tokens=3,
    refill_documents=128,
    keep_remainder=False,
)


class VocabularyError(UserError):
    """A vocabulary size that cannot be made from the text at hand."""


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary: the bytes of each token by rank, then BOS, then `reserved` ids that no text has."""

    token_bytes: tuple[bytes, ...]
    split_pattern: str = SPLIT_PATTERN
    reserved: int = 0

    @property
    def vocab_size(self) -> int:
        """V, BOS and what is reserved included."""
        return len(self.token_bytes) + 1 + self.reserved

    @property
    def bos_id(self) -> int:
        """The token that starts every document."""
        return len(self.token_bytes)

    @cached_property
    def encoding(self) -> "tiktoken.Encoding":
        """The vocabulary as tiktoken uses it."""
        import tiktoken

        return tiktoken.Encoding(
            f"autoresearch-{self.vocab_size}",
            pat_str=self.split_pattern,
            mergeable_ranks={token: rank for rank, token in enumerate(self.token_bytes)},
            special_tokens={BOS: self.bos_id}
            | {f"<|reserved_{number}|>": self.bos_id + number for number in range(1, self.reserved + 1)},
        )

    def encode(self, text: str) -> np.ndarray:
        """Tokens of a text, uint32[n], without BOS; the letters "<|bos|>" in it are letters."""
        return self.encoding.encode_to_numpy(text, disallowed_special=())

    def encode_document(self, text: str, dtype: np.dtype) -> np.ndarray:
        """Tokens of a text with BOS before them, dtype[1 + n]."""
        tokens = self.encode(text)
        document = np.empty(len(tokens) + 1, dtype)
        document[0] = self.bos_id
        document[1:] = tokens
        return document

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens; bytes that are no UTF-8 become U+FFFD, BOS becomes "<|bos|>"."""
        return self.encoding.decode([int(token) for token in tokens])

    def num_bytes(self) -> np.ndarray:
        """Raw bytes each token stands for, int32[V]; 0 for BOS and what is reserved."""
        return self._lengths(map(len, self.token_bytes))

    def num_bytes_original(self) -> np.ndarray:
        """The same as the original autoresearch counts them: bytes that are no UTF-8 become U+FFFD, of three bytes."""
        return self._lengths(len(token.decode("utf-8", errors="replace").encode("utf-8")) for token in self.token_bytes)

    def _lengths(self, of_tokens: Iterable[int]) -> np.ndarray:
        return np.array([*of_tokens, *[0] * (1 + self.reserved)], np.int32)

    def draw_ids(self, seed: int) -> np.ndarray:
        """The ids by which a trial's programs know the tokens, int32[V], a permutation that follows from its seed.

        So a table of text or trained weights in a candidate's source means nothing in a trial. BOS becomes V - 1, which
        a candidate may know.
        """
        keys = np.frombuffer(hashlib.shake_256(f"token ids {seed}".encode()).digest(8 * (self.vocab_size - 1)), "<u8")
        ids_V = np.empty(self.vocab_size, np.int32)
        ids_V[self.bos_id] = self.vocab_size - 1
        ids_V[np.arange(self.vocab_size) != self.bos_id] = np.argsort(keys, kind="stable")
        return ids_V

    def save(self, path: Path) -> None:
        """Writes the vocabulary as JSON."""
        tokens = [base64.b64encode(token).decode("ascii") for token in self.token_bytes]
        value = {"split_pattern": self.split_pattern, "bos": BOS, "bos_id": self.bos_id, "tokens_base64": tokens}
        write_json(path, value | ({"reserved": self.reserved} if self.reserved else {}))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Reads what `save` wrote."""
        value = json.loads(path.read_text(encoding="utf-8"))
        token_bytes = tuple(base64.b64decode(token) for token in value["tokens_base64"])
        return cls(token_bytes, value["split_pattern"], value.get("reserved", 0))


def train_tokenizer(texts: Iterable[str], vocab_size: int, rules: TextRules = STANDARD) -> Tokenizer:
    """Learns a vocabulary of V tokens, BOS and reserved ones included. With 256 a token is a byte, and 0xFF is BOS.

    Raises:
      VocabularyError: V is out of range, or the text has too few different words for it.
    """
    check_vocab_size(vocab_size)
    if vocab_size == MIN_VOCAB_SIZE:
        return Tokenizer(tuple(bytes([byte]) for byte in range(vocab_size - 1)), rules.split_pattern)
    import rustbpe

    reserved = rules.reserved_tokens if vocab_size > MIN_VOCAB_SIZE + rules.reserved_tokens else 0
    wanted = vocab_size - 1 - reserved
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(_training_texts(texts, rules), wanted, _LEARNT_AT_ONCE, rules.split_pattern)
    ranks = sorted((rank, bytes(token)) for token, rank in trainer.get_mergeable_ranks())
    if len(ranks) < wanted:
        most = len(ranks) + 1 + reserved
        raise VocabularyError(
            f"a vocabulary of {vocab_size} is too large for this text, which gives at most {most}: "
            "ask for a smaller one with --vocab_sizes, or for more text"
        )
    return Tokenizer(tuple(token for _, token in ranks), rules.split_pattern, reserved)


def check_vocab_size(vocab_size: int) -> None:
    """Raises VocabularyError unless the size is one that a byte-level vocabulary can have."""
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise VocabularyError(
            f"vocabulary size {vocab_size}: it must be from {MIN_VOCAB_SIZE} (raw bytes) to {MAX_VOCAB_SIZE}"
        )


def _training_texts(texts: Iterable[str], rules: TextRules) -> Iterator[str]:
    characters = size = 0
    for text in texts:
        part = text[: rules.training_document_characters]
        yield part
        characters += len(part)
        size += len(part.encode("utf-8"))
        if characters >= rules.training_characters or (rules.training_bytes and size >= rules.training_bytes):
            return
