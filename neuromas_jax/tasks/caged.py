"""The inside of the cage: run as a script of its own, `python -I -S caged.py`, by `tasks.cage`.

It locks itself in, says so, and only then reads a program and its tests from the standard input; it prints a word that the
outside chose if they ran without raising anything. It imports nothing of the package.

What the program cannot do, each by the kernel: open a socket, start a process or another program, signal or trace any process,
change anything about a file (seccomp); read files but Python's own library and the system's, or write any (Landlock); use a
privilege of root (capabilities); take more CPU time, memory or open files than it was given (rlimits); outlive its parent.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig
import types

# Calls that nobody needs to compute an answer: their numbers on x86-64 and on arm64, None where there is none.
DENIED = dict(
    socket=(41, 198), socketpair=(53, 199), connect=(42, 203), bind=(49, 200), sendto=(44, 206), sendmsg=(46, 211),
    fork=(57, None), vfork=(58, None), execve=(59, 221), execveat=(322, 281), ptrace=(101, 117), process_vm_readv=(310, 270),
    process_vm_writev=(311, 271), kill=(62, 129), tkill=(200, 130), tgkill=(234, 131), rt_sigqueueinfo=(129, 138),
    rt_tgsigqueueinfo=(297, 240), pidfd_open=(434, 434), pidfd_send_signal=(424, 424), chmod=(90, None), fchmod=(91, 52),
    fchmodat=(268, 53), fchmodat2=(452, 452), chown=(92, None), fchown=(93, 55), lchown=(94, None), fchownat=(260, 54),
    utime=(132, None), utimes=(235, None), futimesat=(261, None), utimensat=(280, 88), setxattr=(188, 5), lsetxattr=(189, 6),
    fsetxattr=(190, 7), removexattr=(197, 14), lremovexattr=(198, 15), fremovexattr=(199, 16), setxattrat=(463, 463),
    removexattrat=(466, 466), truncate=(76, 45), mknod=(133, None), mknodat=(259, 33), mount=(165, 40), umount2=(166, 39),
    pivot_root=(155, 41), chroot=(161, 51), unshare=(272, 97), setns=(308, 268), bpf=(321, 280), perf_event_open=(298, 241),
    keyctl=(250, 219), add_key=(248, 217), request_key=(249, 218), userfaultfd=(323, 282), io_uring_setup=(425, 425),
    prlimit64=(302, 261), setrlimit=(160, 164), setpriority=(141, 140), sched_setaffinity=(203, 122),
    sched_setscheduler=(144, 119), sched_setparam=(142, 118), sched_setattr=(314, 274), ioprio_set=(251, 30), shmget=(29, 194),
    msgget=(68, 186), semget=(64, 190),
    reboot=(169, 142), sethostname=(170, 161), setdomainname=(171, 162), settimeofday=(164, 170), clock_settime=(227, 112),
    adjtimex=(159, 171), clock_adjtime=(305, 266), swapon=(167, 224), swapoff=(168, 225), init_module=(175, 105),
    finit_module=(313, 273), delete_module=(176, 106), kexec_load=(246, 104), acct=(163, 89), syslog=(103, 116),
    quotactl=(179, 60))
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # audit number, column above
CLONE, CLONE3, FCNTL, IOCTL = (56, 220), (435, 435), (72, 25), (16, 29)
SET_OWNER = (8, 10, 15)  # fcntl: who gets signals of a file, and which
SET_FLAGS = (0x40086602, 0x40046602, 0x401C5820)  # ioctl: flags of files
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
CLONE_THREAD = 0x10000
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_LEAST = 3  # the first that keeps files from being truncated; Linux 6.2
READ_FILE, READ_DIR, EXECUTE, WRITE_FILE = 1 << 2, 1 << 3, 1 << 0, 1 << 1
NO_NEW_PRIVILEGES, SECCOMP, DEATH_SIGNAL = 38, 22, 1
LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def filter_program(machine: str) -> bytes:
    """The seccomp filter in BPF: instructions of 8 bytes (code, jump if true, jump if false, constant)."""
    audit, column = MACHINES[machine]
    load, equal, above, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    rows = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, KILL), (load, 0, 0, 0)]
    if machine == "x86_64":  # the x32 interface has the same calls under other numbers
        rows += [(above, 0, 1, 0x40000000), (give, 0, 0, KILL)]
    for numbers in DENIED.values():
        if numbers[column] is not None:
            rows += [(equal, 0, 1, numbers[column]), (give, 0, 0, EPERM)]
    rows += [(equal, 0, 1, CLONE3[column]), (give, 0, 0, ENOSYS)]  # its flags lie in memory; the C library then takes clone
    rows += [(equal, 0, 4, CLONE[column]), (load, 0, 0, 16), (bits, 1, 0, CLONE_THREAD), (give, 0, 0, EPERM), (give, 0, 0, ALLOW)]
    for call, refused in ((FCNTL, SET_OWNER), (IOCTL, SET_FLAGS)):  # by their second argument
        checks = [row for value in refused for row in ((equal, 0, 1, value), (give, 0, 0, EPERM))]
        rows += [(equal, 0, len(checks) + 2, call[column]), (load, 0, 0, 24), *checks, (give, 0, 0, ALLOW)]
    rows.append((give, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *row) for row in rows)


def shut_out_files() -> None:
    """Landlock: read Python's library and the system's, and nothing else. Raises OSError where there is none, or an old one."""
    abi = _checked(LIBC.syscall(LANDLOCK_CREATE, None, 0, 1), "Landlock")
    if abi < LANDLOCK_LEAST:
        raise OSError(f"Landlock {abi} is too old, {LANDLOCK_LEAST} is needed")
    every = (1 << 15) - 1 | ((1 << 15) if abi >= 5 else 0)
    network, scopes = (3 if abi >= 4 else 0), (3 if abi >= 6 else 0)
    rules = struct.pack("QQQ", every, network, scopes)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _checked(LIBC.syscall(LANDLOCK_CREATE, rules, len(rules), 0), "Landlock")
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sys.base_prefix + "/lib", "/lib", "/lib64",
                 "/usr/lib", "/usr/lib64")
    places = dict.fromkeys(libraries, READ_FILE | READ_DIR | EXECUTE)
    places |= {"/dev/urandom": READ_FILE, "/dev/null": READ_FILE | WRITE_FILE}
    for path, allowed in places.items():
        if os.path.exists(path):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            _checked(LIBC.syscall(LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", allowed, opened), 0), "Landlock")
            os.close(opened)
    _checked(LIBC.syscall(LANDLOCK_RESTRICT, ruleset, 0), "Landlock")
    os.close(ruleset)


def lock_in(seconds: int, memory: int) -> None:
    """Everything above. Raises OSError or ValueError where the kernel cannot."""
    machine = platform.machine()
    if machine not in MACHINES:
        raise OSError(f"no list of calls for {machine}")
    _checked(LIBC.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "death signal")
    for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0),
                       (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_STACK, 2**26)):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    _checked(LIBC.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    shut_out_files()
    _checked(LIBC.capset(struct.pack("II", 0x20080522, 0), struct.pack("6I", *[0] * 6)), "capabilities")
    program = ctypes.create_string_buffer(filter_program(machine))
    header = struct.pack("HP", (len(program) - 1) // 8, ctypes.addressof(program))
    _checked(LIBC.prctl(SECCOMP, 2, header, 0, 0), "seccomp")


def main() -> None:
    job, answer = sys.stdin.buffer, os.dup(1)
    limits = json.loads(job.readline())
    nothing = os.open("/dev/null", os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    try:
        lock_in(**limits)
    except (OSError, ValueError) as error:
        os.write(answer, f"no: {error}".encode())
        os._exit(3)
    os.write(answer, b"locked")
    texts = json.loads(job.readline())
    word = job.readline().strip()
    os.dup2(nothing, 0)
    # What the program could replace is bound before it runs.
    run, make, write, leave, module = exec, compile, os.write, os._exit, types.ModuleType("candidate")
    sys.modules["candidate"] = module
    try:
        for text in texts:
            run(make(text, "<program>", "exec", dont_inherit=True), module.__dict__)
    except BaseException:  # whatever a program raises, sys.exit among it, is no right answer
        leave(1)
    write(answer, word)
    leave(0)


if __name__ == "__main__":
    main()
