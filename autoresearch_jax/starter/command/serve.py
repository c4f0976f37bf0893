"""The asset as a service: a map of cities a line in, a tour a line out."""

import json
import sys

from tour import find_tour

print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(find_tour(json.loads(line))), flush=True)
