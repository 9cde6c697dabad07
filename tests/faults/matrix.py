#!/usr/bin/env python3
"""Fails the daemon's system calls in turn, by strace, or lets them stand still, and prints what came of it.

usage: matrix.py ECHO_UDPD [CALL...]

Each run of the first part starts the daemon with one fault (a call, an error, when), sends datagrams one at a time,
stops it, and judges:
`refused`  it ended at the start with status 1 or 78 and one line that says why;
`served`   it lost no datagram but those whose call was failed, did not spin, and ended with status 0 when asked;
`retries`  it waits again after each of interruptions without end;
`deaf`     a call that it cannot do without fails always: it did not spin or crash, and ended with status 0 when asked.
In the second part one call of one thread does not return:
`served`   it went on echoing, and ended within 10 s when asked;
`refused`  it could not read its settings, and ended by itself;
`deaf`     the call was the worker's own; it ended within 10 s when asked.
Anything else is a failure and the script's status is 1. The last line counts the runs.
"""

import collections
import concurrent.futures
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ERRORS = ["EINTR", "EAGAIN", "EPERM", "EINVAL", "ENOBUFS", "ENOMEM", "ENETUNREACH", "EIO"]
WHEN = {"first": "1", "later": "4", "third": "3+3", "always": "1+"}
# Not futex: a lock that cannot wait has no way to go on. Not newfstatat: only the loader makes it.
CALLS = ["socket", "setsockopt", "getsockopt", "bind", "epoll_create1", "epoll_ctl", "epoll_wait", "eventfd2",
         "recvmmsg", "sendmmsg", "clone3", "openat", "read", "statx", "write", "close", "recvfrom", "sendto", "sendmsg"]
# Calls without which nothing is heard or answered.
VITAL = {"recvmmsg", "sendmmsg", "epoll_wait"}
# Calls without which the service manager does not hear that the daemon is ready.
NOTIFYING = {"socket", "write", "sendmsg", "sendto"}
# What no kernel does: the runtime empties an eventfd that is full and writes again, for ever.
IMPOSSIBLE = {("write", "EAGAIN", "always")}
# Threads and the calls that do not return, of a daemon that serves already.
STALLS = [("control", "getsockopt"), ("control", "write"), ("control", "clone3"), ("control", "mprotect"),
          ("log", "write"), ("notify", "socket"), ("notify", "connect"), ("notify", "write"), ("notify", "close"),
          ("signals", "recvfrom"), ("settings", "openat"), ("settings", "read"),
          ("worker-1", "recvmmsg"), ("worker-1", "sendmmsg"), ("worker-1", "epoll_wait")]
# Calls that do not return while it starts.
START_STALLS = ["bind", "setsockopt", "getsockname", "epoll_create1", "eventfd2", "epoll_ctl", "openat", "read",
                "sendmsg"]
STALL = "delay_enter=60000000"
PROBES = 20
# Calls a second that are no busy loop: a pause of a millisecond after the first errors, a second in the end.
SPINNING = 400
PORTS, LOCK = set(), threading.Lock()


def free_port():
    """A port that no other run has had: one that answers is the run's own."""
    while True:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::", 0))
            port = probe.getsockname()[1]
        with LOCK:
            if port not in PORTS:
                PORTS.add(port)
                return port


def echo(port, number, wait):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(wait)
        client.connect(("127.0.0.1", port))
        packet = b'{"number":%d}\n' % number
        try:
            client.send(packet)
            return client.recv(100) == packet
        except OSError:
            return False


def is_ready(notify):
    """Whether the service manager has heard that the daemon is ready."""
    try:
        return notify.recv(5000) == b"READY=1\n" or is_ready(notify)
    except BlockingIOError:
        return False


def environment(folder, **more):
    kept = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    return {**kept, "NOTIFY_SOCKET": str(folder / "notify"), **more}


def run(program, call, error, when):
    with tempfile.TemporaryDirectory(prefix="echo-faults-") as folder:
        return run_in(Path(folder), program, call, error, when)


def run_in(folder, program, call, error, when):
    # Sends to journald: with a socket of ours in its place.
    journalling = call == "sendto"
    target = "journald" if journalling else "auto"
    (folder / "echo-udpd.toml").write_text(f"[log]\ntarget = '{target}'\n")
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.bind(str(folder / "socket"))
    journal.setblocking(False)
    mount = f"mount -t tmpfs none /run; mkdir -p /run/systemd/journal; mount --bind {folder} /run/systemd/journal"
    within = ["unshare", "--mount", "sh", "-ec", mount + '; exec "$@"', "sh"] if journalling else []
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(folder / "notify"))
    notify.setblocking(False)
    port, trace = free_port(), folder / "trace"
    fault = f"inject={call}:error={error}:when={WHEN[when]}"
    # Of the calls that read files only those on the settings: the loader's own are not the daemon's.
    path = ["-P", folder / "echo-udpd.toml"] if call in ("openat", "read", "close") else []
    # Asks whether standard error is the journal.
    journal_stream = {"JOURNAL_STREAM": "0:0"} if call == "statx" else {}
    words = [*within, "strace", "-f", "-q", "-o", trace, *path, "-e", f"trace={call}", "-e", fault, program,
             "--config", folder / "echo-udpd.toml", "--listen", f"[::]:{port}"]
    log = open(folder / "log", "wb+")
    started = time.monotonic()
    daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                              env=environment(folder, **journal_stream))
    text = lambda: (folder / "log").read_text(errors="replace")
    try:
        up = False
        while daemon.poll() is None and not up and time.monotonic() < started + 5:
            time.sleep(0.01)
            up = echo(port, 0, 0.05) if call in NOTIFYING else is_ready(notify)
        if daemon.poll() is not None:
            said = text()
            reasons = [line for line in said.splitlines() if line.startswith("echo-udpd: ")]
            good = daemon.returncode in (1, 78) and len(reasons) == 1 and "panicked" not in said
            return "refused" if good else f"FAILED: status {daemon.returncode}: {said!r}"
        if not up:
            # The standard library opens and reads again after each interruption; no kernel interrupts every call.
            return "retries" if (error, when) == ("EINTR", "always") else "FAILED: it does not come up"
        answered = sum(echo(port, number, 0.1 if when == "always" else 0.25) for number in range(PROBES))
        listening = time.monotonic()
        calls = len(trace.read_bytes().splitlines())
        time.sleep(0.25)
        rate = (len(trace.read_bytes().splitlines()) - calls) / (time.monotonic() - listening)
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        try:
            status = daemon.wait(10)
        except subprocess.TimeoutExpired:
            return "FAILED: it does not stop"
        injected = trace.read_text(errors="replace").count("(INJECTED)")
        lost = PROBES - answered
        if status != 0:
            return f"FAILED: status {status} when stopped: {text()!r}"
        if rate > SPINNING and call in ("epoll_wait", "write") and (error, when) == ("EINTR", "always"):
            # The runtime and the standard library try again at once, as they must after a signal; no kernel interrupts
            # every call.
            return "retries"
        if rate > SPINNING:
            return f"FAILED: it spins, {rate:.0f} calls a second"
        if when == "always" and call in VITAL and answered == 0:
            return "deaf"
        if lost > (injected if call in VITAL else 0):
            return f"FAILED: lost {lost} with {injected} faults: {text()!r}"
        return "served"
    finally:
        if daemon.poll() is None:
            os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()
        log.close()
        notify.close()
        journal.close()


def stall(program, thread, call):
    with tempfile.TemporaryDirectory(prefix="echo-faults-") as folder:
        return stall_in(Path(folder), program, thread, call)


def stall_in(folder, program, thread, call):
    """Lets a call of a thread not return; of whichever makes it first, during the start, where no thread is named."""
    settings, trace = folder / "echo-udpd.toml", folder / "trace"
    settings.write_text("")
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(folder / "notify"))
    notify.setblocking(False)
    port = free_port()
    path = ["-P", settings] if call in ("openat", "read") else []
    strace = ["strace", "-q", "-o", trace, *path, "-e", f"trace={call}", "-e", f"inject={call}:{STALL}:when=1"]
    words = [program, "--config", settings, "--listen", f"[::]:{port}"]
    tracer = None
    log = open(folder / "log", "wb+")
    daemon = subprocess.Popen(words if thread else [*strace, "-f", *words], stdin=subprocess.DEVNULL, stdout=log,
                              stderr=log, start_new_session=True, env=environment(folder, WATCHDOG_USEC="1000000"))
    try:
        pid = daemon.pid
        if thread:
            wait_for(lambda: is_ready(notify))
            # The thread that reads settings does not run yet, and no other touches the file.
            whom = ["-f", "-p", str(pid)] if thread == "settings" else ["-p", thread_of(pid, thread)]
            tracer = subprocess.Popen([*strace, *whom], start_new_session=True, stderr=subprocess.DEVNULL)
            wait_for(lambda: is_traced(pid))
        else:
            pid = wait_for(lambda: child_of(daemon.pid, "echo-udpd"))
        answered = 0
        for number in range(PROBES if thread else 0):
            # Gives each thread something to do.
            os.kill(pid, signal.SIGHUP if number % 2 else signal.SIGUSR1)
            answered += echo(port, number, 0.25)
        wait_for(lambda: has_stalled(pid) or has_ended(pid))
        if not thread and call in ("openat", "read"):
            # It gives the file up by itself.
            wait_for(lambda: has_ended(pid))
            return "refused"
        os.kill(pid, signal.SIGTERM)
        asked = time.monotonic()
        # A tracer that delays a thread keeps its process from being reaped, not from ending.
        wait_for(lambda: has_ended(pid), 15)
        if time.monotonic() > asked + 10:
            return "FAILED: it does not stop"
        text = (folder / "log").read_text(errors="replace")
        if "panicked" in text:
            return f"FAILED: {text!r}"
        if not thread or answered == PROBES:
            return "served"
        return "deaf" if thread.startswith("worker") else f"FAILED: lost {PROBES - answered}: {text!r}"
    except TimeoutError as error:
        return f"FAILED: {error} {(folder / 'log').read_text(errors='replace')!r}"
    finally:
        for process in [tracer, daemon]:
            if process:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.wait()
        log.close()
        notify.close()


def wait_for(what, seconds=10):
    """The first true value of a function, within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.01)
    raise TimeoutError("it took too long")


def child_of(pid, name):
    """A tracer has had other children before."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                return int(child)
        except FileNotFoundError:
            pass
    return None


def thread_of(pid, name):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return next(task.name for task in tasks if (task / "comm").read_text().strip() == name)


def is_traced(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return any(not re.search(r"TracerPid:\t0\n", (task / "status").read_text()) for task in tasks)


def has_stalled(pid):
    """Whether a thread stands still in its tracer's hands, for a tenth of a second at least."""
    def stopped():
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return {task for task in tasks if "State:\tt" in (task / "status").read_text()}

    try:
        stalled = stopped()
        for _ in range(10):
            time.sleep(0.01)
            stalled &= stopped()
        return bool(stalled)
    except FileNotFoundError:
        return False


def has_ended(pid):
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def main():
    program, calls = sys.argv[1], sys.argv[2:] or CALLS
    faults = [(call, error, when) for call in calls for error in ERRORS for when in WHEN
              if (call, error, when) not in IMPOSSIBLE]
    stalls = [*STALLS, *((None, call) for call in START_STALLS)]
    stalls = [(thread, call) for thread, call in stalls if call in calls or calls == CALLS]
    perform = lambda one: run(program, *one) if len(one) == 3 else stall(program, *one)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        # Those that stand still longest first.
        results = dict(zip(stalls + faults, pool.map(perform, stalls + faults)))
    # A busy machine can look like a lost datagram: what failed is run again, alone.
    for one in [one for one, result in results.items() if result.startswith("FAILED")]:
        results[one] = perform(one)
    print(f"{'call':14} {'error':12} " + " ".join(f"{when:9}" for when in WHEN))
    for call in calls:
        for error in ERRORS:
            cells = [results.get((call, error, when), "-") for when in WHEN]
            print(f"{call:14} {error:12} " + " ".join(f"{cell.split(':')[0]:9}" for cell in cells))
    for thread, call in stalls:
        print(f"{call:14} {'stands still':12} {results[thread, call].split(':')[0]:9} in {thread or 'the start'}")
    failures = [(one, result) for one, result in results.items() if result.startswith("FAILED")]
    for one, result in failures:
        print(*one, re.sub(r"\s+", " ", result)[:400], file=sys.stderr)
    print(f"{len(results)} runs: " + ", ".join(f"{n} {what}" for what, n in
          collections.Counter(result.split(":")[0] for result in results.values()).most_common()))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
