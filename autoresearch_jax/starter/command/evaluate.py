"""The evaluator: asks for a tour through each map, checks it, and scores its length. It never imports the asset."""

import json
import math
import random
import sys

MAPS, CITIES = 30, 50
SEEDS = {"val": 1, "holdout": 2}  # of the maps, which are the same in each trial


def ask(question):
    print(json.dumps({"ask": question}), flush=True)
    return json.loads(sys.stdin.readline())["answer"]


order = json.loads(sys.stdin.readline())  # {"split": ..., "seed": ..., "files": [...], ...}
draw = random.Random(SEEDS[order["split"]])
lengths = []
for _ in range(MAPS):
    cities = [(draw.random(), draw.random()) for _ in range(CITIES)]
    tour = ask(cities)
    if not isinstance(tour, list) or sorted(map(str, tour)) != sorted(map(str, range(CITIES))):
        print(json.dumps({"invalid": "a tour does not visit each city once"}))
        sys.exit()
    lengths.append(sum(math.dist(cities[tour[i - 1]], cities[tour[i]]) for i in range(CITIES)))
print(json.dumps({"length": sum(lengths) / MAPS, "items": lengths}))
