"""Joining MLX's group within a deadline: MLX itself waits for ever for a process that doesn't come.

While it waits, MLX lets no other Python thread run: the deadline is kept by a process of its own.
"""

import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlx.core as mx

from ..errors import PeerError
from .membership import Membership

_RETRY_S, _NAP_US = 0.1, 1000
# Ends its parent, with a message, unless its standard input is closed or written to in time.
_WATCHDOG = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    sys.stderr.write(sys.argv[2])
    sys.stderr.flush()
    os.kill(int(sys.argv[3]), signal.SIGKILL)
"""


# The same for a parent that stops writing, counted in waits: both may have been suspended for longer.
_SENTINEL = """
import os, select, signal, sys
left = limit = int(float(sys.argv[1]) * 2)
signal.signal(signal.SIGINT, signal.SIG_IGN)
while left:
    if select.select([0], [], [], 0.5)[0]:
        if not os.read(0, 65536):
            sys.exit()
        left = limit
    else:
        left -= 1
sys.stderr.write(sys.argv[2])
sys.stderr.flush()
os.kill(int(sys.argv[3]), signal.SIGKILL)
"""


def join_group(member: Membership, deadline_s: float) -> mx.distributed.Group:
    """Return MLX's group of all processes; each must be known to be there, and `check_ring` to have passed.

    Raises PeerError. A process that is still waiting after the deadline is killed, with one line on stderr.
    """
    late = (
        f"error: MLX's {member.backend} group of {member.size} processes didn't come up within {deadline_s:g} s on "
        f"{member.name(member.rank)}: see docs/several-macs.md, troubleshooting\n"
    )
    with _watchdog(deadline_s, late):
        try:
            group = mx.distributed.init(strict=True, backend=member.backend)
        except RuntimeError as error:
            raise PeerError(f"MLX's {member.backend} group can't be joined: {error}") from None
    if member.shares_machine:
        wait_in_kernel({split_address(address)[1] for address in member.addresses})
    return group


def wait_in_kernel(ports: Collection[int]) -> int:
    """Have MLX's ring sleep while it waits for what comes over the connections of these ports; return how many.

    It looks again and again instead, since its sockets don't block, and takes the processor from the process of the
    same machine that it waits for: of a sum over four processes on two busy cores, 200 ms in place of 0.6. A socket
    that blocks for a millisecond at most gives the ring the same answers (EAGAIN where there is nothing).
    """
    found = 0
    for path in Path("/dev/fd").iterdir():
        try:
            if not stat.S_ISSOCK(os.fstat(int(path.name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(path.name))) as held:
                own, other = held.getsockname(), held.getpeername()
                if isinstance(own, tuple) and {own[1], other[1]} & set(ports):
                    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                        held.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 0, _NAP_US))
                    held.setblocking(True)
                    found += 1
        except OSError:
            # The folder's own, closed by now, or a socket that isn't connected.
            continue
    return found


def kill_later(deadline_s: float, message: str) -> "subprocess.Popen[bytes]":
    """Have this process killed, with a message on stderr, unless it ends or closes the pipe of what this returns.

    From outside, since a call of MLX that never returns may keep every Python thread from running.
    """
    command = [sys.executable, "-ISc", _WATCHDOG, str(deadline_s), message, str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


class Sentinel:
    """A process that kills this one, with a message, once its Python threads stand still: MLX may hold them for ever.

    MLX's ring was seen to do so when a peer died in the middle of a sum.
    """

    def __init__(self, deadline_s: float) -> None:
        message = f"error: this process stood still for {deadline_s:g} s, in MLX: was another of its group lost?\n"
        command = [sys.executable, "-ISc", _SENTINEL, str(deadline_s), message, str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self._closed = threading.Event()
        threading.Thread(target=self._beat, args=(deadline_s / 5,), name="llama3-mlx sentinel", daemon=True).start()

    def close(self) -> None:
        """Let the process go."""
        self._closed.set()
        self._process.kill()
        self._process.wait()

    def _beat(self, every_s: float) -> None:
        assert self._process.stdin is not None, "it has a pipe"
        while not self._closed.wait(every_s):
            with suppress(OSError):
                os.write(self._process.stdin.fileno(), b"1")


@contextmanager
def _watchdog(deadline_s: float, message: str) -> Iterator[None]:
    with kill_later(deadline_s, message) as watching:
        try:
            yield
        finally:
            assert watching.stdin is not None, "it has a pipe"
            watching.stdin.close()


def check_ring(member: Membership, deadline_s: float) -> None:
    """Check that this process is reached from the one before it in the ring, and reaches the one after it.

    Other back ends have no addresses that could be tried. Raises PeerError naming rank and address.
    """
    if not member.addresses:
        return
    before, after = (member.rank - 1) % member.size, (member.rank + 1) % member.size
    end = time.monotonic() + deadline_s
    with _listening(member) as listening:
        reaching: socket.socket | None = None
        reached = answered = False
        while not (reached and answered):
            if time.monotonic() > end:
                if reaching is None:
                    raise PeerError(
                        f"{member.name(member.rank)} can't reach {member.name(after)}: is the address right, and no "
                        "firewall between?"
                    )
                raise PeerError(
                    f"{member.name(member.rank)} isn't reached by {member.name(before)}: is its own address right, and "
                    "no firewall between?"
                )
            reaching = reaching or _connected(member.addresses[after])
            if not reached:
                reached = _accepted(listening)
            answered = answered or (reaching is not None and _is_answered(reaching))
        if reaching is not None:
            reaching.close()


def _listening(member: Membership) -> socket.socket:
    host, port = split_address(member.addresses[member.rank])
    try:
        return listen(host, port)
    except OSError as error:
        raise PeerError(f"{member.name(member.rank)} can't listen on its own address: {error.strerror}") from None


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket; raises OSError."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(128)
    except OSError:
        made.close()
        raise
    return made


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `ip:port`; raises PeerError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise PeerError(f"an address must be IP:PORT, not {address!r}")
    return host.strip("[]"), int(port)


def _connected(address: str) -> socket.socket | None:
    with suppress(OSError):
        made = socket.create_connection(split_address(address), 1.0)
        made.settimeout(_RETRY_S)
        return made
    time.sleep(_RETRY_S)
    return None


def _accepted(listening: socket.socket) -> bool:
    """Answer the one process that tries this address. From then on MLX may be tried here, which must not be heard."""
    listening.settimeout(_RETRY_S)
    with suppress(TimeoutError):
        connection, _ = listening.accept()
        listening.close()
        with connection:
            connection.sendall(b"1")
        return True
    return False


def _is_answered(reaching: socket.socket) -> bool:
    with suppress(TimeoutError):
        return reaching.recv(1) == b"1"
    return False
