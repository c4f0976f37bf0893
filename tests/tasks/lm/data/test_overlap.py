"""A long passage that a document shares with a file is found wherever it lies; short ones and common ones are not."""

import random
from pathlib import Path

import pytest

from autoresearch_jax.tasks.lm.data.overlap import SHARED_RUN, FilesText


def text_of(seed: int, size: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choices("etaoinshrdlu_()=.:", k=size))


PASSAGE = text_of(0, 2 * SHARED_RUN)


def compare(document: str, *files: Path) -> bool:
    return FilesText(lambda: files).shares_run(document.encode())


@pytest.mark.parametrize("before", [0, 1000, (1 << 20) - SHARED_RUN, 3 << 20])
def test_a_passage_is_found_wherever_it_lies(before: int, tmp_path: Path) -> None:
    file = tmp_path / "copy.py"
    file.write_text(text_of(1, before) + PASSAGE + text_of(2, 5000))
    assert compare(text_of(3, 3000) + PASSAGE + text_of(4, 3000), file)
    assert not compare(text_of(3, 3000) + text_of(4, 3000), file)


def test_other_white_space_hides_nothing(tmp_path: Path) -> None:
    file = tmp_path / "copy.txt"
    file.write_text("\r\n\t".join(PASSAGE[start : start + 40] for start in range(0, len(PASSAGE), 40)))
    assert compare(PASSAGE, file)


def test_short_passages_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "copy.py"
    short = [PASSAGE[: SHARED_RUN - 64], text_of(5, SHARED_RUN - 64)]
    file.write_text("".join(short))
    assert not compare(short[1] + text_of(6, 3000) + short[0], file)
    assert not compare("short", file)


def test_a_licence_does_not_count(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.py" for number in range(40)]
    for number, file in enumerate(files):
        file.write_text(PASSAGE + text_of(10 + number, 1000))
    assert not compare(PASSAGE + text_of(1, 3000), *files)
    assert compare(PASSAGE + text_of(1, 3000), *files[:9])
    assert compare(PASSAGE + text_of(10, 1000) + text_of(1, 3000), *files)


def test_only_text_is_read(tmp_path: Path) -> None:
    binary, compiled, folder, missing = (tmp_path / name for name in ("a.so", "a.pyc", "a.py", "b.py"))
    binary.write_bytes(b"\0" + PASSAGE.encode())
    compiled.write_text(PASSAGE)
    folder.mkdir()
    text = FilesText(lambda: [binary, compiled, folder, missing])
    assert "nothing" in text.in_words()
    assert not text.shares_run(PASSAGE.encode())
    (tmp_path / "c.py").write_text(PASSAGE)
    text = FilesText(lambda: [binary, tmp_path / "c.py"])
    assert text.shares_run(PASSAGE.encode())
    assert text.in_words().startswith("1 text files")
