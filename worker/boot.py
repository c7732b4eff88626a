"""The first code in a worker's interpreter: a warden that stays behind, then the agent; runs in the worker.

    python -I -m worker.boot FD FOLDER

FD is a listening Unix socket on which the gateway connects, FOLDER holds the one agent.
"""

import os
import sys
from pathlib import Path

from worker.warden import guard


def main() -> None:
    """Split off the warden, then serve the agent until the gateway says stop or is gone."""
    fd, folder = int(sys.argv[1]), Path(sys.argv[2])
    guard(keep=fd)
    from worker.serve import serve  # noqa: PLC0415 - after the fork: the warden stays small

    os.chdir(folder)
    serve(fd, folder)


if __name__ == "__main__":
    main()
