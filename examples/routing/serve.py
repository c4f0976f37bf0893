"""Trains the classifier, then answers each JSON line, a list of texts, with the list of their labels."""

import csv
import json
import os
import sys

import classifier


def main() -> None:
    with open("data/train.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    model = classifier.train([row["text"] for row in rows], [row["label"] for row in rows], int(os.environ["SEED"]))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps([str(label) for label in model.predict(json.loads(line))]), flush=True)


if __name__ == "__main__":
    main()
