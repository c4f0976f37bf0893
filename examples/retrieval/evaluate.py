"""MRR@10: the mean over the queries of 1 / rank of the right function, 0 where it is not among the first ten."""

import json
import sys

QUERIES_AT_A_TIME = 50
DEPTH = 10


def main() -> None:
    [path] = json.loads(input())["files"]
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    items = []
    for start in range(0, len(rows), QUERIES_AT_A_TIME):
        asked = rows[start : start + QUERIES_AT_A_TIME]
        print(json.dumps({"ask": [row["query"] for row in asked]}), flush=True)
        answer = json.loads(input())["answer"]
        if not isinstance(answer, list) or [type(found) for found in answer] != [list] * len(asked):
            print(json.dumps({"invalid": f"no list of {len(asked)} lists of names: {str(answer)[:100]}"}))
            sys.exit()
        items += [reciprocal_rank(found[:DEPTH], row["name"]) for found, row in zip(answer, asked, strict=True)]
    found = sum(item > 0 for item in items)
    print(json.dumps({"mrr_at_10": sum(items) / len(items), "items": items, "recall_at_10": found / len(items)}))


def reciprocal_rank(found: list[object], name: str) -> float:
    return 1 / (1 + found.index(name)) if name in found else 0.0


if __name__ == "__main__":
    main()
