"""A program that stages the victims as whoever runs it, says how to reach them, and waits for the end of its input."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))

if TYPE_CHECKING:
    from tests.attacks.stage import staged
else:
    from stage import staged

if __name__ == "__main__":
    with staged(Path(sys.argv[1])) as target:
        print(target.to_json(), flush=True)  # noqa: T201 its caller reads it
        sys.stdin.read()
