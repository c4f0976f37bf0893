"""Indexes the corpus, then answers each JSON line, a list of queries, with a list of names for each, the best first."""

import json
import sys

import retriever


def main() -> None:
    with open("data/corpus.jsonl", encoding="utf-8") as file:
        functions = [json.loads(line) for line in file]
    index = retriever.Retriever([(function["name"], function["source"]) for function in functions])
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(index.find(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
