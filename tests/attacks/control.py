"""A program without walls: stages the victims and runs attempts on them, in this process and in an exec'd child.

Runs in the control only, as the user and in the namespaces that the test has chosen; prints the outcomes as JSON.
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent / "attempts")]

if TYPE_CHECKING:
    from tests.attacks.attempts import attack_runner
    from tests.attacks.stage import staged, still_answers
else:
    import attack_runner
    from stage import staged, still_answers

LIMITS = {"memory_mb": 64, "processes": 48, "open_files": 128, "file_mb": 8, "scratch_mb": 24}


def main() -> None:
    """Print the outcomes "here" and by "exec", whether the victims are "alive", and what was "left" in scratch."""
    cheap = [name for name in attack_runner.NAMES if name not in attack_runner.EXPENSIVE]
    with tempfile.TemporaryDirectory(prefix="attack-", dir="/tmp") as folder:  # short, for sockets
        os.set_inheritable(os.open(folder, os.O_RDONLY), True)
        with staged(Path(folder)) as made:
            target = replace(made, limits=LIMITS)
            outcomes = {
                "here": attack_runner.run(list(attack_runner.NAMES), target),
                "exec": attack_runner.run_in_exec(cheap, target),
                "alive": still_answers(target),
                "left": os.listdir(target.scratch),
            }
    print(json.dumps(outcomes))  # noqa: T201 its caller reads it


if __name__ == "__main__":
    main()
