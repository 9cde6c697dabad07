#!/usr/bin/env python3
"""Fails the daemon's system calls in turn, by strace, and prints what came of it.

usage: matrix.py ECHO_UDPD [CALL...]

Each run starts the daemon with one fault (a call, an error, when), sends datagrams one at a time, stops it, and judges:
`refused`  it ended at the start with status 1 and one line that says why;
`served`   it lost no datagram but those whose call was failed, did not spin, and ended with status 0 when asked;
`retries`  it waits again after each of interruptions without end;
`deaf`     a call that it cannot do without fails always: it did not spin or crash, and ended with status 0 when asked.
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
import time
from pathlib import Path

ERRORS = ["EINTR", "EAGAIN", "EPERM", "EINVAL", "ENOBUFS", "ENOMEM", "ENETUNREACH", "EIO"]
WHEN = {"first": "1", "later": "4", "third": "3+3", "always": "1+"}
CALLS = ["socket", "setsockopt", "bind", "epoll_create1", "epoll_ctl", "epoll_wait", "eventfd2", "recvmmsg", "sendmmsg",
         "clone3", "openat", "read", "sendto", "sendmsg"]
# Calls without which nothing is heard or answered.
VITAL = {"recvmmsg", "sendmmsg", "epoll_wait"}
PROBES = 20
# Calls a second that are no busy loop: a pause of a millisecond after the first errors, a second in the end.
SPINNING = 400


def free_port():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::", 0))
        return probe.getsockname()[1]


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


def run(program, call, error, when):
    with tempfile.TemporaryDirectory(prefix="echo-faults-") as folder:
        return run_in(Path(folder), program, call, error, when)


def run_in(folder, program, call, error, when):
    # Sends to journald: with a socket of ours in its place.
    journalling = call == "sendto"
    (folder / "echo-udpd.toml").write_text(f"[log]\ntarget = '{'journald' if journalling else 'stderr'}'\n")
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.bind(str(folder / "socket"))
    journal.setblocking(False)
    mount = f"mount -t tmpfs none /run; mkdir -p /run/systemd/journal; mount --bind {folder} /run/systemd/journal"
    within = ["unshare", "--mount", "sh", "-ec", mount + '; exec "$@"', "sh"] if journalling else []
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(folder / "notify"))
    port, trace = free_port(), folder / "trace"
    fault = f"inject={call}:error={error}:when={WHEN[when]}"
    # Of the calls that read files only those on the settings: the loader's own are not the daemon's.
    path = ["-P", folder / "echo-udpd.toml"] if call in ("openat", "read") else []
    words = [*within, "strace", "-f", "-q", "-o", trace, *path, "-e", f"trace={call}", "-e", fault, program,
             "--config", folder / "echo-udpd.toml", "--listen", f"[::]:{port}"]
    log = open(folder / "log", "wb+")
    started = time.monotonic()
    daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                              env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")})
    text = lambda: (folder / "log").read_text(errors="replace")
    try:
        up = lambda: echo(port, 0, 0.05) if journalling else "listening on" in text()
        while daemon.poll() is None and not up() and time.monotonic() < started + 5:
            time.sleep(0.01)
        if daemon.poll() is not None:
            said = text()
            reasons = [line for line in said.splitlines() if line.startswith("echo-udpd: ")]
            good = daemon.returncode in (1, 78) and len(reasons) == 1 and "panicked" not in said
            return "refused" if good else f"FAILED: status {daemon.returncode}: {said!r}"
        if not up():
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
        if rate > SPINNING and (call, error, when) == ("epoll_wait", "EINTR", "always"):
            # The runtime waits again at once, as it must after a signal; no kernel interrupts every wait.
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


def main():
    program, calls = sys.argv[1], sys.argv[2:] or CALLS
    runs = [(call, error, when) for call in calls for error in ERRORS for when in WHEN]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = dict(zip(runs, pool.map(lambda one: run(program, *one), runs)))
    # A busy machine can look like a lost datagram: what failed is run again, alone.
    for one in [one for one, result in results.items() if result.startswith("FAILED")]:
        results[one] = run(program, *one)
    print(f"{'call':14} {'error':12} " + " ".join(f"{when:9}" for when in WHEN))
    for call in calls:
        for error in ERRORS:
            cells = [results[call, error, when] for when in WHEN]
            print(f"{call:14} {error:12} " + " ".join(f"{cell.split(':')[0]:9}" for cell in cells))
    failures = [(one, result) for one, result in results.items() if result.startswith("FAILED")]
    for one, result in failures:
        print(*one, re.sub(r"\s+", " ", result)[:400], file=sys.stderr)
    print(f"{len(runs)} runs: " + ", ".join(f"{n} {what}" for what, n in
          collections.Counter(result.split(":")[0] for result in results.values()).most_common()))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
