"""Every kind of file is read; what cannot be is counted, or named in one line."""

import errno
import gzip
import json
import os
import sysconfig
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from autoresearch_jax.errors import UsageError
from autoresearch_jax.sandbox.mounts import HIDDEN_MODULES
from autoresearch_jax.tasks.lm.data.corpus import Reporter, open_corpus, with_num_shards
from autoresearch_jax.tasks.lm.data.dataset import dataset_folder
from autoresearch_jax.tasks.lm.data.text_files import LONGEST_DOCUMENT, CorpusError, Skipped


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def read(spec: str) -> tuple[list[str], dict[str, int]]:
    skipped = Skipped()
    files = open_corpus(spec).fetch(Reporter())
    return [document.text for document in files.documents(skipped)], dict(skipped.counts)


def examples(spec: str) -> dict[str, list[str]]:
    skipped = Skipped()
    for _ in open_corpus(spec).fetch(Reporter()).documents(skipped):
        pass
    return skipped.examples


def test_stdlib_is_the_library_without_its_tests() -> None:
    texts, _ = read("stdlib")
    assert sum(len(text.encode()) for text in texts) > 5_000_000
    root = Path(sysconfig.get_path("stdlib"))
    assert (root / "argparse.py").read_bytes().decode() in texts
    assert (root / "json/decoder.py").read_bytes().decode() in texts
    assert (root / "pydoc_data/topics.py").read_bytes().decode() not in texts
    files = open_corpus("stdlib").fetch(Reporter()).files
    assert not any("test" in file.path.relative_to(root).parts for file in files)


def test_val_and_holdout_of_stdlib_are_modules_that_the_sandbox_hides() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    files = open_corpus("stdlib").fetch(Reporter()).files
    total = sum(file.path.stat().st_size for file in files)
    for split in ("val", "holdout"):
        found = [file.path for file in files if file.split == split]
        assert all(path.relative_to(root).parts[0].removesuffix(".py") in HIDDEN_MODULES for path in found)
        assert 0.035 * total < sum(path.stat().st_size for path in found) < 0.06 * total
        assert len(found) > 20
    assert {file.split for file in files} == {"val", "holdout", "train"}


def test_txt_is_one_document_a_file_byte_for_byte_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"second\r\nline\n")
    (tmp_path / "a.txt").write_bytes("\ufeffé".encode())
    (tmp_path / "c.txt").write_bytes(b" \n\t")
    (tmp_path / "d.txt").write_bytes(b"caf\xe9")
    (tmp_path / "sub.txt").mkdir()
    assert read(f"files:{tmp_path}/*.txt") == (["\ufeffé", "second\r\nline\n"], {"empty": 1, "undecodable": 1})


def test_jsonl(tmp_path: Path) -> None:
    lines = [
        b"\xef\xbb\xbf" + json.dumps({"text": "one\u2028line", "id": 1}, ensure_ascii=False).encode(),
        b"",
        b'{"text": "caf\xe9"}',
        b'{"text": "half a pair \\ud800"}',
        b'{"text": ""}',
        b'{"text": "last"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    assert read(f"files:{tmp_path}/*.jsonl") == (["one\u2028line", "last"], {"undecodable": 2, "empty": 1})


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for name, content in (
        (b"caf\xe9.txt", b"text"),
        (b"caf\xe9.jsonl.gz", gzip.compress(b'{"text": "line"}\n{"text": ""}\n', mtime=0)),
        (b"caf\xe9.md", b"notes"),
    ):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    parquet.write_table(pa.table({"text": ["row"]}), tmp_path / "x.parquet")
    os.rename(tmp_path / "x.parquet", os.path.join(folder, b"caf\xe9.parquet"))
    assert read(f"files:{tmp_path}/*") == (["line", "row", "text"], {"unknown_format": 1, "empty": 1})
    found = examples(f"files:{tmp_path}/*")
    assert found["unknown_format"] == [f"{tmp_path}/caf\\xe9.md"]
    json.dumps(found, ensure_ascii=False).encode("utf-8")
    with pytest.raises(UsageError, match="not UTF-8: use a "):
        open_corpus(f"files:{tmp_path}/caf\udce9.txt")


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
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl, line 1: not an object with a `text` that is a string"),
        ("a.parquet", b"PAR1 but no more", r"a\.parquet: cannot be read as Parquet"),
        ("a.md", b"x", r"a\.md: only \.txt, \.jsonl .* and \.parquet can be read"),
        ("a.parquet.gz", b"x", r"a\.parquet\.gz: only \.txt"),
        ("a.txt.gz", b"plain", r"cannot read .*a\.txt\.gz: "),
        ("a.jsonl.zst", zstd(b'{"text": "x"}\n' * 1000)[:-9], r"cannot read .*a\.jsonl\.zst: "),
        ("a.txt.gz", gzip.compress(bytes(range(256)) * 100, mtime=0)[:-300], r"cannot read .*a\.txt\.gz: "),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n[[[', mtime=0), r"a\.jsonl\.gz, line 2: not JSON"),
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


def test_compressed_files_are_read_as_plain_ones(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"line {i} \u00e9\U0001f600"}, ensure_ascii=False) for i in range(5000)]
    content = "\n".join(lines).encode()
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "c.jsonl.zst").write_bytes(zstd(content))
    halves = content[:20_000], content[20_000:]
    (tmp_path / "d.jsonl.gz").write_bytes(b"".join(map(gzip.compress, halves)))  # as `cat` leaves them
    (tmp_path / "e.jsonl.zst").write_bytes(b"".join(map(zstd, halves)))
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(b"one\r\ntext", mtime=0))
    (tmp_path / "g.txt.zst").write_bytes(zstd(b""))
    texts, skipped = read(f"files:{tmp_path}/*")
    expected = [json.loads(line)["text"] for line in lines]
    assert texts == [*expected * 5, "one\r\ntext"]
    assert skipped == {"empty": 1}


def test_a_long_text_becomes_several_documents(tmp_path: Path) -> None:
    with_lines = "".join(f"{i} bottles of beer\n" for i in range(70_000))
    without = "\U0001f600e\u0301\u4e2d" * 120_000  # 4, 1, 2 and 3 bytes a character
    assert len(without.encode()) > 2 * LONGEST_DOCUMENT
    (tmp_path / "a.txt").write_text(with_lines, newline="")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": without}) + "\n")
    (tmp_path / "c.txt").write_text(without, newline="")
    parquet.write_table(pa.table({"text": [with_lines, "short"]}), tmp_path / "d.parquet")
    texts, skipped = read(f"files:{tmp_path}/*")
    assert skipped == {}
    assert max(len(text.encode()) for text in texts) <= LONGEST_DOCUMENT
    assert "".join(texts) == with_lines + without + without + with_lines + "short"
    assert all(text.endswith("beer\n") for text in texts if "beer" in text)
    assert len(texts) == len(set(texts)) + 6  # c is cut as b is, d as a: 3 pieces each


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "good"}\n{"text": null}\n{"text": "caf\xe9"}\n')
    parquet.write_table(pa.table({"text": ["good", None, " "]}), tmp_path / "c.parquet")
    (tmp_path / "notes.md").write_text("notes")
    (tmp_path / "z.txt").write_bytes(b"good\n" * 200_000 + b"caf\xe9\n")
    found = examples(f"files:{tmp_path}/*")
    assert found["unknown_format"] == [f"{tmp_path}/notes.md"]
    assert found["empty"] == [
        f"{tmp_path}/b.jsonl, line 2",
        f"{tmp_path}/c.parquet, row 2",
        f"{tmp_path}/c.parquet, row 3",
    ]
    piece = found["undecodable"].pop()
    assert found["undecodable"] == [f"{tmp_path}/a.txt", f"{tmp_path}/b.jsonl, line 3"]
    assert piece.startswith(f"{tmp_path}/z.txt, from byte ")
    many = tmp_path / "many.jsonl"
    many.write_text('{"text": ""}\n' * 1000)
    assert len(examples(f"files:{many}")["empty"]) == 20
    assert read(f"files:{many}")[1] == {"empty": 1000}


def test_dangling_link_and_no_match(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no file matches: it is a folder, so use .*/\*, or .*/\*\*"):
        open_corpus(f"files:{tmp_path}").state()
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"cannot read .*gone\.txt: No such file"):
        open_corpus(f"files:{tmp_path}/*.txt").state()
    with pytest.raises(CorpusError, match=r"cannot read .*gone\.txt: No such file"):
        read(f"files:{tmp_path}/*.txt")


@pytest.mark.parametrize("spec", ["", "wikipedia", "files:", "Stdlib", "climbmixes"])
def test_unknown_corpus(spec: str) -> None:
    with pytest.raises(UsageError, match="no such corpus"):
        open_corpus(spec)


@pytest.mark.parametrize("spec", ["climbmix:", "climbmix:many", "climbmix:0", "climbmix:6542", "climbmix:-1"])
def test_numbers_of_shards_that_cannot_be(spec: str) -> None:
    with pytest.raises(UsageError, match=f"--corpus={spec}: the number of shards must be from 1 to 6541"):
        open_corpus(spec)


def test_shards() -> None:
    assert open_corpus("climbmix").spec == "climbmix:10"
    assert open_corpus("climbmix:3").name == "climbmix-3"
    assert with_num_shards("stdlib", None) == "stdlib"
    assert with_num_shards("climbmix:7", 2) == "climbmix:2", "as who has a flag file with 7 wants it"
    with pytest.raises(UsageError, match="only --corpus=climbmix has shards"):
        with_num_shards("tinystories", 2)


def test_a_disk_that_fills_up_while_files_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write(repository: str, *, dry_run: bool = False, **options: object) -> list[object]:
        if not dry_run:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "blob"))
        return []

    monkeypatch.setattr("huggingface_hub.snapshot_download", write)
    with pytest.raises(
        CorpusError, match=r"cannot write .*blob: No space left on device: make room, .* --cache_dir or HF_HOME"
    ):
        open_corpus("climbmix").fetch(Reporter())


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
    assert dataset_folder(tmp_path, relative.spec) == tmp_path / relative.name
    assert dataset_folder(tmp_path, relative.spec, "mine") == tmp_path / "mine"
