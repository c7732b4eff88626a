"""Runs the tests under coverage, workers included: `make coverage`.

A worker's environment is clean, so coverage cannot be asked for by a variable. For the time of the run a start-up file
in this virtual environment begins to measure in every interpreter, and leaves no trace in its environment.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent
START_UP = Path(sysconfig.get_path("purelib")) / "a0_agent_gateway_coverage.pth"
VARIABLES = {"COVERAGE_PROCESS_START": str(ROOT / "pyproject.toml"), "COVERAGE_FILE": str(ROOT / ".coverage")}
LINE = (
    f"import os, coverage; os.environ.update({VARIABLES!r}); coverage.process_startup(); "
    f"[os.environ.pop(name) for name in {tuple(VARIABLES)!r}]\n"
)


def main() -> int:
    """Measure, combine, report."""
    _run("-m", "coverage", "erase")
    START_UP.write_text(LINE)
    try:
        status = _run("-m", "pytest", *sys.argv[1:])
    finally:
        START_UP.unlink()
    _run("-m", "coverage", "combine", "-q")
    _run("-m", "coverage", "report")
    return status


def _run(*arguments: str) -> int:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
