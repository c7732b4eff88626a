"""Attempts on files: to read what was not given, to write outside scratch, to change what is only to be read."""

import contextlib
import os
import sysconfig
from errno import EACCES, ENOENT, ENOTDIR, EPERM, EROFS, ESRCH, EXDEV
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attacks.attempts.attack_base import NotRefused, Target, attempt
else:
    from attack_base import NotRefused, Target, attempt

UNREADABLE = (EACCES, EPERM, ENOENT, ENOTDIR)
UNWRITABLE = (EACCES, EPERM, EROFS, ENOENT, ENOTDIR)
UNMOVABLE = (*UNWRITABLE, EXDEV)


def _secret_in(path: str, target: Target) -> str:
    """Read a file that holds the secret, and say so."""
    text = Path(path).read_text(errors="replace")
    if target.secret not in text:
        raise NotRefused(f"{path} was read, without the secret in it")
    return f"read {target.secret!r} from {path}"


def _written(folder: str) -> str:
    """Make a file in a folder, and take it away again."""
    path = Path(folder) / f"attack-{os.urandom(8).hex()}"
    with open(path, "x") as file:
        file.write("written")
    with contextlib.suppress(OSError):
        path.unlink()
    return f"wrote {path}"


@attempt(*UNREADABLE)
def read_secret(target: Target) -> str:
    return _secret_in(target.secret_file, target)


@attempt(*UNREADABLE)
def list_state(target: Target) -> str:
    folder = os.path.dirname(target.secret_file)
    return f"{folder} has {os.listdir(folder)}"


@attempt(*UNREADABLE)
def stat_secret(target: Target) -> str:
    return f"{target.secret_file} has {os.stat(target.secret_file).st_size} bytes"


@attempt(*UNREADABLE)
def read_other_agent(target: Target) -> str:
    path = Path(target.other_agent) / "agent.py"
    return f"read {path.read_text()!r}"


@attempt(*UNREADABLE)
def list_other_agent(target: Target) -> str:
    return f"{target.other_agent} has {os.listdir(target.other_agent)}"


@attempt(*UNREADABLE)
def read_passwd(_: Target) -> str:
    return f"/etc/passwd begins {Path('/etc/passwd').read_text()[:20]!r}"


@attempt(*UNREADABLE)
def read_shadow(_: Target) -> str:
    return f"/etc/shadow has {len(Path('/etc/shadow').read_text())} bytes"


@attempt(*UNREADABLE)
def list_homes(_: Target) -> str:
    return f"/home has {os.listdir('/home')}, and /etc {len(os.listdir('/etc'))} names"


@attempt(*UNREADABLE, ESRCH)
def read_through_own_root(target: Target) -> str:
    return _secret_in(f"/proc/self/root{target.secret_file}", target)


@attempt(*UNREADABLE, ESRCH)
def read_through_root_of_1(target: Target) -> str:
    return _secret_in(f"/proc/1/root{target.secret_file}", target)


@attempt(*UNREADABLE, ESRCH)
def read_through_root_of_outside(target: Target) -> str:
    return _secret_in(f"/proc/{target.outside_pid}/root{target.secret_file}", target)


@attempt(*UNREADABLE)
def read_through_parents(target: Target) -> str:
    return _secret_in(f"{target.scratch}{'/..' * 20}{target.secret_file}", target)


@attempt(*UNREADABLE)
def read_through_symlink(target: Target) -> str:
    link = Path(target.scratch) / "attack-link"
    link.unlink(missing_ok=True)
    link.symlink_to(target.secret_file)
    try:
        return _secret_in(str(link), target)
    finally:
        link.unlink()


@attempt(*UNMOVABLE)
def hard_link_secret(target: Target) -> str:
    link = Path(target.scratch) / "attack-hard-link"
    os.link(target.secret_file, link)
    try:
        return _secret_in(str(link), target)
    finally:
        link.unlink()


@attempt(*UNMOVABLE)
def rename_out(target: Target) -> str:
    inside, outside = Path(target.scratch) / "attack-moves", Path(target.other_agent) / "attack-moved"
    inside.write_text("moved")
    try:
        inside.rename(outside)
        outside.unlink()
    finally:
        inside.unlink(missing_ok=True)
    return f"moved a file to {outside}"


@attempt(*UNWRITABLE)
def write_state(target: Target) -> str:
    return _written(os.path.dirname(target.secret_file))


@attempt(*UNWRITABLE)
def write_other_agent(target: Target) -> str:
    return _written(target.other_agent)


@attempt(*UNWRITABLE)
def write_own_folder(target: Target) -> str:
    return _written(target.own_folder)


@attempt(*UNWRITABLE)
def open_own_agent_to_write(target: Target) -> str:
    os.close(os.open(f"{target.own_folder}/agent.py", os.O_WRONLY))
    return "own agent.py is open for writing"


@attempt(*UNWRITABLE)
def make_folder_in_own_folder(target: Target) -> str:
    path = f"{target.own_folder}/__pycache__x"
    os.mkdir(path)
    os.rmdir(path)
    return f"made {path}"


def _chmod(path: str) -> str:
    before = os.stat(path).st_mode & 0o7777
    os.chmod(path, before ^ 0o100)
    after = os.stat(path).st_mode & 0o7777
    os.chmod(path, before)
    if after == before:  # the call said that it did it, and did nothing
        raise OSError(EPERM, "the call did nothing", path)
    return f"set the mode of {path}"


def _utime(path: str) -> str:
    before = os.stat(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    after = os.stat(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    if after.st_mtime_ns == before.st_mtime_ns:
        raise OSError(EPERM, "the call did nothing", path)
    return f"set the times of {path}"


@attempt(*UNWRITABLE)
def chmod_own_agent(target: Target) -> str:
    return _chmod(f"{target.own_folder}/agent.py")


@attempt(*UNWRITABLE)
def utime_own_agent(target: Target) -> str:
    return _utime(f"{target.own_folder}/agent.py")


@attempt(*UNWRITABLE)
def setxattr_own_agent(target: Target) -> str:
    path = f"{target.own_folder}/agent.py"
    os.setxattr(path, "user.attack", b"1")
    if "user.attack" not in os.listxattr(path):
        raise OSError(EPERM, "the call did nothing", path)
    os.removexattr(path, "user.attack")
    return f"set an attribute of {path}"


@attempt(*UNWRITABLE)
def chmod_secret(target: Target) -> str:
    return _chmod(target.secret_file)


@attempt(*UNWRITABLE)
def utime_secret(target: Target) -> str:
    return _utime(target.secret_file)


@attempt(*UNWRITABLE)
def write_root(_: Target) -> str:
    return _written("/")


@attempt(*UNWRITABLE)
def write_tmp(target: Target) -> str:
    own = os.path.realpath(target.scratch)
    others = [each for each in ("/tmp", "/var/tmp") if os.path.realpath(each) != own]  # noqa: S108 attacked on purpose
    for folder in others[:-1]:
        with contextlib.suppress(OSError):
            return _written(folder)
    return _written(others[-1])


@attempt(*UNWRITABLE)
def write_libraries(_: Target) -> str:
    with contextlib.suppress(OSError):
        return _written(os.path.dirname(os.__file__))
    return _written(sysconfig.get_path("purelib"))


@attempt(*UNWRITABLE)
def write_proc_sys(_: Target) -> str:
    """The pattern's first character decides what the kernel runs when a process dumps; the same is written again."""
    path = Path("/proc/sys/kernel/core_pattern")
    path.write_text(path.read_text())
    return f"wrote {path}"


@attempt(*UNWRITABLE)
def write_oom_score(target: Target) -> str:
    path = Path(f"/proc/{target.outside_pid}/oom_score_adj")
    path.write_text(path.read_text())
    return f"wrote {path}"
