"""Burns one core, ON seconds of each ON + OFF, until its parent ends: `python scripts/burn.py ON OFF`."""

import os
import sys
import time


def main() -> None:
    on, off = map(float, sys.argv[1:])
    parent = os.getppid()
    while os.getppid() == parent:
        until = time.monotonic() + on
        while time.monotonic() < until:
            pass
        time.sleep(off)


if __name__ == "__main__":
    main()
