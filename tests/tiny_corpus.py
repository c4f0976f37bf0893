"""Text that a model can learn from in a few steps, and that is made in a moment."""

import json
import random
from pathlib import Path

DOCUMENTS = 300
_SUBJECTS = (
    "the cat",
    "a small model",
    "the night watch",
    "an optimizer",
    "every gradient",
    "Käthe",
    "one loop",
)
_VERBS = ("sees", "measures", "forgets", "repeats", "explains", "follows", "keeps")
_OBJECTS = (
    "the river",
    "42 numbers",
    "its own tail",
    "the loss",
    "a page of notes",
    "yesterday",
    "nothing new",
)


def write_corpus(path: Path) -> None:
    """Writes short documents, as --corpus=files:PATH takes them; `path` ends in .jsonl."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(DOCUMENTS):
            sentences = (
                f"{draw.choice(_SUBJECTS)} {draw.choice(_VERBS)} {draw.choice(_OBJECTS)}."
                for _ in range(draw.randint(3, 20))
            )
            file.write(json.dumps({"text": f"{number}: {' '.join(sentences)}\n"}) + "\n")
