"""What a candidate must not exceed; checked before anything is spent on it."""

from dataclasses import dataclass

KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Caps:
    """Limits of a candidate's source and programs.

    Attributes:
      source_bytes: of the training file as UTF-8.
      constant_bytes: of the constants that `init`, all steps and `logits` embed together, lest a table of the answers
        be smuggled in.
      min_steps: as many must fit into the budget at the device's peak speed.
    """

    source_bytes: int = 256 * KIBIBYTE
    constant_bytes: int = MEBIBYTE
    min_steps: int = 10
