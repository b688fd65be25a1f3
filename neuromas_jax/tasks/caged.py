"""The inside of the cage: run as a script of its own, `python -I -S caged.py`, by `tasks.cage`.

It reads one JSON object from the standard input, locks itself in, runs a program and its tests, and prints a word that only the
outside knows if nothing was raised. It imports nothing of the package.

What the program cannot do once it runs, each by the kernel: open a socket, start a process or another program, signal or trace
any process (seccomp); read files but Python's own library, or write any but below its temporary folder (Landlock); take more CPU
time, memory, file size or open files than it was given (rlimits).
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys
import sysconfig

# Calls that nobody needs to compute an answer, by architecture: audit number, then call numbers.
SOCKETS_AND_SIGNALS = {
    "x86_64": (0xC000003E, dict(
        socket=41, socketpair=53, connect=42, bind=49, sendto=44, sendmsg=46, fork=57, vfork=58, execve=59, execveat=322, kill=62,
        tkill=200, tgkill=234, ptrace=101, process_vm_readv=310, process_vm_writev=311, pidfd_open=434, pidfd_send_signal=424,
        rt_sigqueueinfo=129, mount=165, umount2=166, unshare=272, setns=308, chroot=161, bpf=321, perf_event_open=298, keyctl=250,
        add_key=248, request_key=249, userfaultfd=323, io_uring_setup=425, prlimit64=302, setrlimit=160, setpriority=141,
        sched_setaffinity=203, mknod=133, mknodat=259, shmget=29, msgget=68, semget=64), dict(clone=56, clone3=435)),
    "aarch64": (0xC00000B7, dict(
        socket=198, socketpair=199, connect=203, bind=200, sendto=206, sendmsg=211, execve=221, execveat=281, kill=129, tkill=130,
        tgkill=131, ptrace=117, process_vm_readv=270, process_vm_writev=271, pidfd_open=434, pidfd_send_signal=424,
        rt_sigqueueinfo=138, mount=40, umount2=39, unshare=97, setns=268, chroot=51, bpf=280, perf_event_open=241, keyctl=219,
        add_key=217, request_key=218, userfaultfd=282, io_uring_setup=425, prlimit64=261, setrlimit=164, setpriority=140,
        sched_setaffinity=122, mknodat=33, shmget=194, msgget=186, semget=190), dict(clone=220, clone3=435)),
}
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
CLONE_THREAD = 0x10000
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_DIR, EXECUTE = 1 << 2, 1 << 3, 1 << 0
LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def filter_program(machine: str) -> bytes:
    """The seccomp filter in BPF: instructions of 8 bytes (code, jump if true, jump if false, constant)."""
    audit, denied, clones = SOCKETS_AND_SIGNALS[machine]
    load, equal, above, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    rows = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, KILL), (load, 0, 0, 0)]
    if machine == "x86_64":  # the x32 interface has the same calls under other numbers
        rows += [(above, 0, 1, 0x40000000), (give, 0, 0, KILL)]
    for number in denied.values():
        rows += [(equal, 0, 1, number), (give, 0, 0, EPERM)]
    rows += [(equal, 0, 1, clones["clone3"]), (give, 0, 0, ENOSYS)]  # its flags lie in memory; the C library then takes clone
    rows += [(equal, 0, 3, clones["clone"]), (load, 0, 0, 16), (bits, 1, 0, CLONE_THREAD), (give, 0, 0, EPERM)]
    rows.append((give, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *row) for row in rows)


def shut_out_files(folder: str) -> None:
    """Landlock: read Python's library and the system's, and everything below `folder`; raises OSError where there is none."""
    abi = _checked(LIBC.syscall(LANDLOCK_CREATE, None, 0, 1), "Landlock")
    every = (1 << (13 + (abi >= 2) + (abi >= 3))) - 1 | ((1 << 15) if abi >= 5 else 0)
    network, scopes = (3 if abi >= 4 else 0), (3 if abi >= 6 else 0)
    rules = struct.pack("QQQ", every, network, scopes)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _checked(LIBC.syscall(LANDLOCK_CREATE, rules, len(rules), 0), "Landlock")
    places = {path: READ_FILE | READ_DIR | EXECUTE for path in (
        sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "/lib", "/lib64", "/usr/lib", "/usr/lib64")}
    places |= {sys.base_prefix + "/lib": READ_FILE | READ_DIR | EXECUTE, "/dev/urandom": READ_FILE, "/dev/null": READ_FILE | 2}
    places |= {folder: every & ~EXECUTE}
    for path, allowed in places.items():
        if os.path.exists(path):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            _checked(LIBC.syscall(LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", allowed, opened), 0), "Landlock")
            os.close(opened)
    _checked(LIBC.syscall(LANDLOCK_RESTRICT, ruleset, 0), "Landlock")
    os.close(ruleset)


def lock_in(folder: str, seconds: int, memory: int, size: int) -> None:
    """Everything above. Raises OSError where the kernel cannot."""
    machine = platform.machine()
    if machine not in SOCKETS_AND_SIGNALS:
        raise OSError(f"no list of calls for {machine}")
    for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, size),
                       (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_STACK, 2**26)):
        resource.setrlimit(kind, (most, most))
    _checked(LIBC.prctl(38, 1, 0, 0, 0), "no new privileges")
    shut_out_files(folder)
    program = ctypes.create_string_buffer(filter_program(machine))
    header = struct.pack("HP", (len(program) - 1) // 8, ctypes.addressof(program))
    _checked(LIBC.prctl(22, 2, header, 0, 0), "seccomp")


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    answer = os.dup(1)
    nothing = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    try:
        lock_in(os.getcwd(), job["seconds"], job["memory"], job["size"])
    except OSError as error:
        os.write(answer, f"uncaged {error}".encode())
        os._exit(3)
    word, names = job.pop("word"), {"__name__": "candidate"}
    try:
        for text in job["texts"]:
            exec(compile(text, "<program>", "exec", dont_inherit=True), names)
    except BaseException:  # whatever a program raises, sys.exit among it, is no right answer
        os._exit(1)
    os.write(answer, word.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
