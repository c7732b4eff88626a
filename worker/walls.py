"""The walls around a process: what a plan says, done in the order that the kernel needs; standard library only.

The gateway makes the plans (`gateway/runtime/plans.py`), the processes here put them up: a zygote around itself, and
each worker around itself within that.
"""

import contextlib
import os
import resource
import socket
import stat
from collections.abc import Collection, Iterator

from worker import kernel
from worker.plan import COMPLAINT, FAILED, Bind, Memory, Plan, Root

KINDS = {
    "user": kernel.NEW_USER,
    "mnt": kernel.NEW_MOUNT,
    "pid": kernel.NEW_PID,
    "net": kernel.NEW_NET,
    "ipc": kernel.NEW_IPC,
    "uts": kernel.NEW_UTS,
    "cgroup": kernel.NEW_CGROUP,
}
RIGHTS = {
    "read": kernel.READ,
    "write": kernel.WRITE,
    "device": kernel.FS_READ_FILE | kernel.FS_WRITE_FILE,
}


class WallError(Exception):
    """A wall could not be put up; the message begins with its name."""


@contextlib.contextmanager
def _wall(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise WallError(f"{name}: {error}") from error


def settle(plan: Plan) -> None:
    """Become the user whom the plan names, and see what that user needs; to be called by root, before all else.

    Raises:
        WallError: if that cannot be.
    """
    if plan.uid in (-1, os.geteuid()):
        return
    if plan.lent:
        with _wall("namespaces"):
            kernel.unshare(kernel.NEW_MOUNT)
            _build(plan.lent)
    with _wall("user"):
        kernel.become(plan.uid)


def enter(plan: Plan, keep: Collection[int], output: int = -1) -> int:
    """Fork a process that stands behind walls, with no descriptors but these and the standard three.

    Returns its pid, and 0 in the process itself; with a namespace for pids, that is the first in it. One whose walls
    cannot be put up says why in its output, and ends.

    Raises:
        WallError: if there cannot even be such a process.
    """
    uid, gid = os.getuid(), os.getgid()
    with _wall("namespaces"):
        pid = kernel.fork_into(sum(KINDS[each] for each in plan.namespaces))
    if pid:
        return pid
    try:
        if output >= 0:
            os.dup2(output, 1)
            os.dup2(output, 2)
        kernel.close_all_but(keep)
        _put_up(plan, uid, gid)
    except BaseException as error:  # nothing may go on without its walls
        os.write(2, f"{COMPLAINT}{error}\n".encode())
        os._exit(FAILED)
    return 0


def _put_up(plan: Plan, uid: int, gid: int) -> None:
    if "user" in plan.namespaces:
        with _wall("namespaces"):
            _map_ids(uid, gid)
            if not plan.nested:
                _write("/proc/sys/user/max_user_namespaces", "0")
    if plan.root:
        with _wall("own root"):
            _build(plan.root)
    if "uts" in plan.namespaces:
        with _wall("namespaces"):
            socket.sethostname("agent")
    os.setsid()
    _confine(plan)


def _map_ids(uid: int, gid: int) -> None:
    """Be the same user inside as outside; nobody else is known inside."""
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _confine(plan: Plan) -> None:
    """Put up what needs no namespaces; the filter last, for it forbids what the others need."""
    with _wall("limits"):
        for name, soft, hard in plan.limits:
            _limit(getattr(resource, name), soft, hard)
    if plan.bare:
        with _wall("capabilities"):
            kernel.drop_capabilities()
            kernel.no_new_privileges()
    if plan.landlock:
        with _wall("landlock"):
            kernel.landlock([(path, RIGHTS[right]) for path, right in plan.landlock])
    if plan.seccomp:
        with _wall("seccomp"):
            kernel.load_filter(plan.seccomp)


def _limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit; one that this host has set lower already stays."""
    most = resource.getrlimit(kind)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def _build(root: Root) -> None:
    """Put a new root together out of what is bound into it, and change to it."""
    kernel.make_mounts_private()
    trees = [(kernel.open_tree(each.source), each) for each in root.binds]
    if root.proc == "outer":
        trees.append((kernel.open_tree("/proc"), Bind("/proc", "/proc")))
    kernel.mount("tmpfs", root.stage, kernel.MOUNT_NO_SUID | kernel.MOUNT_NO_DEVICES, "size=1m,mode=755")
    for tree, bind in trees:
        _bind(tree, root.stage + bind.target, changeable=bind.target == "/proc")
    for path, to in root.links:
        os.makedirs(os.path.dirname(root.stage + path), exist_ok=True)
        os.symlink(to, root.stage + path)
    for each in root.memory:
        _keep_in_memory(root.stage + each.path, each)
    if root.proc in ("own", "pids"):
        os.makedirs(f"{root.stage}/proc", exist_ok=True)
        flags = kernel.MOUNT_NO_SUID | kernel.MOUNT_NO_DEVICES | kernel.MOUNT_NO_EXEC
        kernel.mount("proc", f"{root.stage}/proc", flags, "subset=pid" if root.proc == "pids" else None)
    kernel.change_root(root.stage)
    kernel.restrict_mount("/", kernel.MOUNT_READ_ONLY | kernel.MOUNT_NO_SUID | kernel.MOUNT_NO_DEVICES, below=False)


def _bind(tree: int, target: str, *, changeable: bool) -> None:
    """Mount a copy of a tree; only /proc can be changed, where a new process of ours writes who it is."""
    try:
        flags = kernel.MOUNT_READ_ONLY | kernel.MOUNT_NO_SUID
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            os.makedirs(target, exist_ok=True)
            flags |= kernel.MOUNT_NO_DEVICES
        else:  # it may be a device: /dev/null
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        kernel.move_mount(tree, target)
    finally:
        os.close(tree)
    if not changeable:
        kernel.restrict_mount(target, flags)


def _keep_in_memory(target: str, folder: Memory) -> None:
    os.makedirs(target, exist_ok=True)
    flags = kernel.MOUNT_NO_SUID | kernel.MOUNT_NO_DEVICES
    size = f"size={folder.mb}m,nr_inodes={folder.inodes},mode=700"
    kernel.mount("tmpfs", target, flags if folder.mb else flags | kernel.MOUNT_READ_ONLY, size)
