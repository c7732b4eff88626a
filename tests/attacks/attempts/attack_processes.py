"""Attempts on processes: to see, signal, trace, read and slow down those outside, and to find what was inherited."""

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Callable
from errno import EACCES, EIO, ENOENT, ENOSYS, EPERM, ESRCH
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attacks.attempts.attack_base import (
        NotRefused,
        Target,
        attempt,
        refused,
        syscall,
    )
else:
    from attack_base import NotRefused, Target, attempt, refused, syscall

UNSEEN = (EACCES, EPERM, ENOENT, ESRCH)
UNTOUCHED = (EACCES, EPERM, ESRCH, ENOSYS)
VICTIMS: dict[str, Callable[[Target], int]] = {
    "gateway": lambda target: target.gateway_pid,
    "zygote": lambda target: target.zygote_pid,
    "outside": lambda target: target.outside_pid,
    "parent": lambda target: target.worker_parent,
    "pid_1": lambda _: 1,
}
SEIZE = 0x4206


def _victim(name: str, target: Target) -> int:
    """A victim's number; in a namespace of its own the same number may be this very process, or stand for none."""
    pid = VICTIMS[name](target)
    if pid in (0, os.getpid(), target.worker_pid):
        raise refused(ESRCH, f"the number of {name} is {pid}, which is nobody else here")
    return pid


@attempt(*UNSEEN)
def list_processes(target: Target) -> str:
    seen = {int(each) for each in os.listdir("/proc") if each.isdigit()}
    if target.outside_pid not in seen:
        raise refused(ESRCH, f"only {len(seen)} are seen")
    return f"{len(seen)} are seen, {target.outside_pid} among them"


@attempt(*UNSEEN)
def stat_process(target: Target) -> str:
    pid = _victim("outside", target)
    return f"process {pid} is there, of uid {os.stat(f'/proc/{pid}').st_uid}"


@attempt(*UNSEEN)
def read_command_line(target: Target) -> str:
    pid = _victim("outside", target)
    return f"process {pid} is {Path(f'/proc/{pid}/cmdline').read_bytes()!r}"


@attempt(*UNSEEN)
def read_environment(target: Target) -> str:
    text = Path(f"/proc/{_victim('gateway', target)}/environ").read_text()
    if target.secret not in text:
        raise NotRefused("the gateway's environment was read, without the secret in it")
    return f"read {target.secret!r} from the gateway's environment"


@attempt(*UNSEEN, EIO)
def read_memory(target: Target) -> str:
    with open(f"/proc/{_victim('gateway', target)}/mem", "rb", buffering=0) as memory:
        memory.seek(target.memory_address)
        found = memory.read(len(target.secret))
    return _is_secret(found, target)


@attempt(*UNTOUCHED)
def read_memory_by_call(target: Target) -> str:
    found = ctypes.create_string_buffer(len(target.secret))
    here = struct.pack("QQ", ctypes.addressof(found), len(target.secret))
    there = struct.pack("QQ", target.memory_address, len(target.secret))
    syscall("process_vm_readv", _victim("gateway", target), here, 1, there, 1, 0)
    return _is_secret(found.raw, target)


def _is_secret(found: bytes, target: Target) -> str:
    if found != target.secret.encode():
        raise NotRefused(f"the gateway's memory was read, with {found!r} in it")
    return f"read {target.secret!r} from the gateway's memory"


@attempt(*UNSEEN)
def read_maps(target: Target) -> str:
    lines = Path(f"/proc/{_victim('gateway', target)}/maps").read_text().splitlines()
    return f"the gateway has {len(lines)} mappings"


@attempt(*UNSEEN)
def list_descriptors_of_gateway(target: Target) -> str:
    folder = f"/proc/{_victim('gateway', target)}/fd"
    return f"the gateway has {[os.readlink(f'{folder}/{each}') for each in os.listdir(folder)]}"


@attempt(*UNTOUCHED)
def take_descriptor_of_gateway(target: Target) -> str:
    pidfd = os.pidfd_open(_victim("gateway", target))
    taken = syscall("pidfd_getfd", pidfd, 0, 0)
    return f"took the gateway's standard input: {os.fstat(taken).st_mode:o}"


@attempt(*UNTOUCHED)
def compare_with_gateway(target: Target) -> str:
    """The kernel compares only what the caller may trace."""
    return f"kcmp gave {syscall('kcmp', os.getpid(), _victim('gateway', target), 1, 0, 0)}"


def _on_victims(name: str) -> None:
    def signals(target: Target) -> str:
        pid = _victim(name, target)
        os.kill(pid, 0)
        os.kill(pid, signal.SIGCONT)
        return f"signalled {pid}"

    def traces(target: Target) -> str:
        pid = _victim(name, target)
        syscall("ptrace", SEIZE, pid, 0, 0)
        return f"traces {pid}"

    attempt(*UNTOUCHED, name=f"signal_{name}")(signals)
    attempt(*UNTOUCHED, name=f"trace_{name}")(traces)


for _each in VICTIMS:
    _on_victims(_each)


@attempt(*UNTOUCHED)
def signal_by_descriptor(target: Target) -> str:
    signal.pidfd_send_signal(os.pidfd_open(_victim("gateway", target)), signal.SIGCONT)
    return "signalled the gateway"


@attempt(*UNTOUCHED)
def limit_outside(target: Target) -> str:
    """Sets the same limits again; other ones would end the process."""
    pid = _victim("outside", target)
    resource.prlimit(pid, resource.RLIMIT_CPU, resource.prlimit(pid, resource.RLIMIT_CPU))
    return f"set the limits of {pid}"


@attempt(*UNTOUCHED)
def slow_outside(target: Target) -> str:
    pid = _victim("outside", target)
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid))
    return f"set the priority of {pid}"


@attempt(*UNTOUCHED)
def pin_outside(target: Target) -> str:
    pid = _victim("outside", target)
    os.sched_setaffinity(pid, os.sched_getaffinity(pid))
    return f"set the processors of {pid}"


@attempt(*UNTOUCHED)
def idle_outside(target: Target) -> str:
    """A policy that gives way to all others; the batch one is tried, from which there is a way back."""
    pid = _victim("outside", target)
    before = os.sched_getscheduler(pid)
    os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))  # from idle there might be no way back
    os.sched_setscheduler(pid, before, os.sched_param(0))
    return f"set the scheduling of {pid}"
