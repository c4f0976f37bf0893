"""How text becomes rows: our rules, and the original's for scores that are to be compared with its own."""

from dataclasses import asdict, dataclass

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
_ENDLESS_SPACE = SPLIT_PATTERN.replace(r"\s{0,100}", r"\s*").replace(r"\s{1,100}", r"\s+")


@dataclass(frozen=True)
class Rules:
    """All that decides how the documents of a split become rows.

    Attributes:
      split_pattern: regular expression that cuts the text before tokens are merged.
      training_characters: a vocabulary is learnt from the first documents of train that together have so many.
      training_bytes: or so many bytes of UTF-8, if they have these first; None for no such limit.
      training_document_characters: of each document only so many count for that; None for all.
      reserved_tokens: ids after BOS that no text ever has.
      buffer_documents: documents that packing chooses from.
      refill_documents: how many are added to them at once when they are fewer.
      keep_remainder: whether what is cropped off a document to fill a row begins another row, or is dropped.
    """

    split_pattern: str = SPLIT_PATTERN
    training_characters: int = 1_000_000_000
    # More changes the merges little; and while they are learnt each different word takes half a kilobyte, of which a
    # text without spaces between its words, such as Chinese, has one for each clause: 1.4 GB at worst.
    training_bytes: int | None = 1 << 25
    training_document_characters: int | None = None
    reserved_tokens: int = 0
    buffer_documents: int = 1000  # as in the original
    refill_documents: int = 1
    keep_remainder: bool = True

    def settings(self) -> dict[str, int | str | bool | None]:
        """The rules by name, as a manifest holds them."""
        return asdict(self)


STANDARD = Rules()
# Those of karpathy/autoresearch, prepare.py. It crops what does not fit and drops the rest: right where documents are
# about as long as a row, but where they are ten times as long nine tenths of the text would go.
ORIGINAL = Rules(
    split_pattern=_ENDLESS_SPACE,
    training_bytes=None,
    training_document_characters=10_000,
    reserved_tokens=3,
    refill_documents=128,
    keep_remainder=False,
)
