"""Makes data/ from Python's own standard library: its functions, and the first sentence of each docstring.

    python3 examples/retrieval/prepare.py [--limit=N]

data/corpus.jsonl  one function a line: name, and source without docstring
data/val.jsonl     one query a line: a first sentence, and the name of the function that it is from
data/holdout.jsonl the same for other functions, by hash of the name
"""

import argparse
import ast
import hashlib
import importlib.util
import json
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

DATA = Path(__file__).parent / "data"
VAL_SHARE = 0.6
MIN_WORDS = 4  # of a sentence: shorter ones such as "See above." name nothing
LEFT_OUT = {"__pycache__", "dist-packages", "idle_test", "lib-dynload", "site-packages", "test", "tests"}
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


def modules(library: Path) -> Iterator[tuple[str, Path]]:
    """Names and files of the library's modules, but for those that have a twin in C.

    The sandbox shows the library without docstrings. Functions in C carry theirs.
    """
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if LEFT_OUT.intersection(parts) or parts[0].startswith("config-"):
            continue
        if importlib.util.find_spec(f"_{parts[0]}") is None:
            yield ".".join(part for part in parts if part != "__init__"), path


def functions(module: str, source: str) -> Iterator[tuple[str, str, str]]:
    """Name, source without docstring, and docstring of each function that has one and does something beside."""
    lines = source.splitlines()

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(child)
                if docstring and len(child.body) > 1:
                    first, last = child.body[0].lineno, child.body[0].end_lineno
                    kept = [*lines[child.lineno - 1 : first - 1], *lines[last : child.end_lineno]]
                    yield f"{prefix}.{child.name}", "\n".join(kept), docstring
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, f"{prefix}.{child.name}")
            else:
                yield from visit(child, prefix)

    yield from visit(ast.parse(source), module)


def first_sentence(docstring: str) -> str:
    """The first sentence of the first paragraph, on one line."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    end = SENTENCE_END.search(paragraph)
    return paragraph[: end.start()] if end else paragraph


def is_val(name: str) -> bool:
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < VAL_SHARE * 2**32


def write(name: str, rows: Sequence[dict[str, str]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (DATA / name).write_text(text, encoding="utf-8")
    print(f"{name}: {len(rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="functions at most, for a small try")
    limit = parser.parse_args().limit
    found = {}
    for module, path in modules(Path(sysconfig.get_path("stdlib"))):
        try:
            source = path.read_text(encoding="utf-8")
            for name, text, docstring in functions(module, source):
                found.setdefault(name, (text, first_sentence(docstring)))
        except (SyntaxError, UnicodeDecodeError):
            continue  # some are there to be wrong
    names = sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest())[:limit]
    said = Counter(sentence for _, sentence in found.values())
    asked = [name for name in names if said[found[name][1]] == 1 and len(found[name][1].split()) >= MIN_WORDS]
    DATA.mkdir(exist_ok=True)
    write("corpus.jsonl", [{"name": name, "source": found[name][0]} for name in sorted(names)])
    queries = [{"query": found[name][1], "name": name} for name in sorted(asked)]
    write("val.jsonl", [row for row in queries if is_val(row["name"])])
    write("holdout.jsonl", [row for row in queries if not is_val(row["name"])])


if __name__ == "__main__":
    main()
