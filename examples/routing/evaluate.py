"""Accuracy: asks for the labels of the split's texts, some at a time, and compares them with the file's."""

import csv
import json
import sys

TEXTS_AT_A_TIME = 50


def main() -> None:
    [path] = json.loads(input())["files"]
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    items = []
    for start in range(0, len(rows), TEXTS_AT_A_TIME):
        asked = rows[start : start + TEXTS_AT_A_TIME]
        print(json.dumps({"ask": [row["text"] for row in asked]}), flush=True)
        labels = json.loads(input())["answer"]
        if not isinstance(labels, list) or len(labels) != len(asked):
            print(json.dumps({"invalid": f"no list of {len(asked)} labels: {str(labels)[:100]}"}))
            sys.exit()
        items += [int(label == row["label"]) for label, row in zip(labels, asked, strict=True)]
    print(json.dumps({"accuracy": sum(items) / len(items), "items": items}))


if __name__ == "__main__":
    main()
