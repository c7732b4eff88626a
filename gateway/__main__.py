"""`python -m gateway` is the `agent-gateway` command."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the working directory, which may be a home: nothing is imported from it

from gateway.cli import main

main()
