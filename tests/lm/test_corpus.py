"""Every kind of file is read; what cannot be is counted, or named in one line."""

import json
import os
import sysconfig
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from autoresearch_jax.errors import UsageError
from autoresearch_jax.lm.corpus import CorpusError, open_corpus


def read(spec: str) -> tuple[list[str], dict[str, int]]:
    skipped: Counter[str] = Counter()
    return [document.text for document in open_corpus(spec).documents(skipped)], dict(skipped)


def test_stdlib_is_the_library_without_its_tests() -> None:
    texts, _ = read("stdlib")
    assert sum(len(text.encode()) for text in texts) > 5_000_000
    root = Path(sysconfig.get_path("stdlib"))
    assert (root / "argparse.py").read_bytes().decode() in texts
    assert (root / "json/decoder.py").read_bytes().decode() in texts
    assert (root / "pydoc_data/topics.py").read_bytes().decode() not in texts
    assert not any("test" in path.relative_to(root).parts for path in open_corpus("stdlib").find())  # type: ignore[attr-defined]


def test_txt_is_one_document_a_file_byte_for_byte_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"second\r\nline\n")
    (tmp_path / "a.txt").write_bytes("\ufeffé".encode())
    (tmp_path / "c.txt").write_bytes(b" \n\t")
    (tmp_path / "d.txt").write_bytes(b"caf\xe9")
    (tmp_path / "sub.txt").mkdir()
    assert read(f"files:{tmp_path}/*.txt") == (["\ufeffé", "second\r\nline\n"], {"empty": 1, "undecodable": 1})


def test_jsonl(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": "one\u2028line", "id": 1}, ensure_ascii=False).encode(),
        b"",
        b'{"text": "caf\xe9"}',
        b'{"text": "half a pair \\ud800"}',
        b'{"text": ""}',
        b'{"text": "last"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    assert read(f"files:{tmp_path}/*.jsonl") == (["one\u2028line", "last"], {"undecodable": 2, "empty": 1})


def test_parquet(tmp_path: Path) -> None:
    texts = [f"document {i}" for i in range(1000)]
    table = pa.table({"text": [*texts, None, ""], "score": range(1002)})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    assert read(f"files:{tmp_path}/a.parquet") == (texts, {"empty": 2})


def test_parquet_with_a_text_that_is_no_utf8(tmp_path: Path) -> None:
    bad = pa.array([b"good", b"caf\xe9"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    assert read(f"files:{tmp_path}/a.parquet") == (["good"], {"undecodable": 1})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n{"body": "y"}\n', r"a\.jsonl, line 3: not an object with a `text`"),
        ("a.jsonl", b'["text"]\n', r"a\.jsonl, line 1: not an object"),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl, line 1: not an object with a `text` that is a string"),
        ("a.parquet", b"PAR1 but no more", r"a\.parquet: cannot be read as Parquet"),
        ("a.parquet", b"", r"a\.parquet: cannot be read as Parquet"),
        ("a.md", b"x", r"a\.md: only \.txt, \.jsonl and \.parquet"),
        ("a.py", b"x", r"a\.py: only \.txt, \.jsonl and \.parquet"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        read(f"files:{tmp_path}/*")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("columns", [{"body": ["x"]}, {"text": [1, 2]}, {"text": [["x"]]}])
def test_parquet_without_text(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet: (has no column|the column) `text`"):
        read(f"files:{tmp_path}/*.parquet")


def test_dangling_link_and_no_match(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no file matches"):
        open_corpus(f"files:{tmp_path}/*.txt").state()
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"cannot read .*gone\.txt: No such file"):
        open_corpus(f"files:{tmp_path}/*.txt").state()
    with pytest.raises(CorpusError, match=r"cannot read .*gone\.txt: No such file"):
        read(f"files:{tmp_path}/*.txt")


@pytest.mark.parametrize("spec", ["", "wikipedia", "files:", "Stdlib"])
def test_unknown_corpus(spec: str) -> None:
    with pytest.raises(UsageError, match="no such corpus"):
        open_corpus(spec)


def test_state_follows_the_files(tmp_path: Path) -> None:
    corpus = open_corpus(f"files:{tmp_path}/**/*.txt")
    file = tmp_path / "a.txt"
    file.write_text("one")
    states = [corpus.state(), corpus.state()]
    os.utime(file, ns=(0, 0))
    states.append(corpus.state())
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/b.txt").write_text("two")
    states.append(corpus.state())
    assert states[0] == states[1]
    assert len(set(states)) == 3


def test_name_is_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative, absolute = open_corpus("files:*.txt"), open_corpus(f"files:{tmp_path}/*.txt")
    assert relative.name == absolute.name
    assert relative.spec == absolute.spec == f"files:{tmp_path}/*.txt"
    assert relative.name != open_corpus("files:*.jsonl").name
