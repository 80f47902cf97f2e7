"""A process that reads its input and never answers."""

import sys
import time

if __name__ == "__main__":
    sys.stdin.read()
    while True:
        time.sleep(60)
