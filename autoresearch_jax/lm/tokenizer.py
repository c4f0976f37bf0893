"""Byte-level BPE: trained by rustbpe, used through tiktoken, stored as JSON."""

import base64
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoresearch_jax.errors import UserError
from autoresearch_jax.lm.files import write_json

if TYPE_CHECKING:
    import tiktoken

MIN_VOCAB_SIZE = 256
MAX_VOCAB_SIZE = 1 << 20  # far beyond what any corpus here could use; keeps a typing error from running for hours
BOS = "<|bos|>"
TRAINING_CHARACTERS = 1 << 28  # text the merges are learnt from; more changes them little and takes minutes

# GPT-4's way to cut text before merging (contractions, words with one leading character, numbers,
# punctuation, newlines, spaces) with two changes: numbers go in twos, since a small vocabulary cannot afford
# a thousand triples; runs of white space end at 100, since the regex engine's stack overflows on millions.
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


class VocabularyError(UserError):
    """A vocabulary size that cannot be made from the text at hand."""


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary: the bytes of each token by rank; id `vocab_size - 1` is BOS.

    Attributes:
      token_bytes: bytes of token 0 to `vocab_size - 2`, in order of rank.
      split_pattern: regular expression that cuts the text before merging.
    """

    token_bytes: tuple[bytes, ...]
    split_pattern: str = SPLIT_PATTERN

    @property
    def vocab_size(self) -> int:
        """V, BOS included."""
        return len(self.token_bytes) + 1

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
            special_tokens={BOS: self.bos_id},
        )

    def encode(self, text: str) -> np.ndarray:
        """Tokens of a text, uint32[n], without BOS; the letters "<|bos|>" in it are letters."""
        return self.encoding.encode_to_numpy(text, disallowed_special=())

    def encode_documents(self, texts: Iterable[str], executor: Executor, dtype: np.dtype) -> Iterator[np.ndarray]:
        """Tokens of each text with BOS before them, dtype[1 + n], in order; texts are taken all at once."""

        def with_bos(text: str) -> np.ndarray:
            tokens = self.encode(text)
            document = np.empty(len(tokens) + 1, dtype)
            document[0] = self.bos_id
            document[1:] = tokens
            return document

        return executor.map(with_bos, texts)

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens; bytes that are no UTF-8 become U+FFFD, BOS becomes "<|bos|>"."""
        return self.encoding.decode([int(token) for token in tokens])

    def num_bytes(self) -> np.ndarray:
        """Raw bytes each token stands for, int32[V]; 0 for BOS."""
        return np.array([*map(len, self.token_bytes), 0], np.int32)

    def num_bytes_original(self) -> np.ndarray:
        """Bytes of each token as the original autoresearch counts them, int32[V]; 0 for BOS.

        It decodes each token by itself first, and what is no UTF-8 becomes U+FFFD, which has three bytes.
        """
        lengths = [len(token.decode("utf-8", errors="replace").encode("utf-8")) for token in self.token_bytes]
        return np.array([*lengths, 0], np.int32)

    def save(self, path: Path) -> None:
        """Writes the vocabulary as JSON."""
        tokens = [base64.b64encode(token).decode("ascii") for token in self.token_bytes]
        value = {
            "split_pattern": self.split_pattern,
            "bos": BOS,
            "bos_id": self.bos_id,
            "tokens_base64": tokens,
        }
        write_json(path, value)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Reads what `save` wrote."""
        value = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(base64.b64decode(token) for token in value["tokens_base64"]), value["split_pattern"])


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learns a vocabulary.

    With 256 there is nothing to learn: a token is a byte, and byte 0xFF, which UTF-8 never has, is BOS.

    Args:
      texts: the training text; what goes beyond `TRAINING_CHARACTERS` is not read.
      vocab_size: V, BOS included.

    Raises:
      VocabularyError: V is out of range, or the text has too few different words for it.
    """
    check_vocab_size(vocab_size)
    if vocab_size == MIN_VOCAB_SIZE:
        return Tokenizer(tuple(bytes([byte]) for byte in range(vocab_size - 1)))
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(_up_to(texts, TRAINING_CHARACTERS), vocab_size - 1, pattern=SPLIT_PATTERN)
    ranks = sorted((rank, bytes(token)) for token, rank in trainer.get_mergeable_ranks())
    if len(ranks) < vocab_size - 1:
        raise VocabularyError(
            f"a vocabulary of {vocab_size} is too large for this text, which gives at most {len(ranks) + 1}: "
            "ask for a smaller one with --vocab_sizes, or for more text"
        )
    return Tokenizer(tuple(token for _, token in ranks))


def check_vocab_size(vocab_size: int) -> None:
    """Raises VocabularyError unless the size is one that a byte-level vocabulary can have."""
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise VocabularyError(
            f"vocabulary size {vocab_size}: it must be from {MIN_VOCAB_SIZE} (raw bytes) to {MAX_VOCAB_SIZE}"
        )


def _up_to(texts: Iterable[str], limit: int) -> Iterator[str]:
    for text in texts:
        if limit <= 0:
            return
        yield text[:limit]
        limit -= len(text)
