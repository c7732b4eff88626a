"""Promises of the warden that need no worker."""

import os
import subprocess
import sys

from worker.warden import children


def test_children_are_found_until_they_are_reaped() -> None:
    """A child is listed while it runs and as a zombie, and not after it was waited for."""
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        assert child.pid in children(os.getpid())
        child.kill()
    assert child.pid not in children(os.getpid())


def test_a_grandchild_is_not_a_child() -> None:
    """Only the processes right below this one are listed."""
    script = "import subprocess, sys; p = subprocess.Popen(['/bin/cat'], stdin=0); print(p.pid, flush=True); p.wait()"
    command = [sys.executable, "-I", "-S", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        grandchild = int(child.stdout.readline())
        found = children(os.getpid())
        assert child.stdin
        child.stdin.close()
    assert child.pid in found
    assert grandchild not in found
