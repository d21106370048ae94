"""What every process but rank 0 does: meets the leader, loads its share, obeys until the leader is gone."""

import os
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import mlx.core as mx

from ..checkpoint.folder import ModelFolder
from ..device import working_memory_bytes
from ..dtypes import DTYPES
from ..errors import Llama3MLXError, PeerError
from ..json_types import JsonObject
from ..model.memory_estimate import RESERVE
from .channel import Channel
from .exchange import make_exchange
from .fingerprint import check_fingerprint
from .group import Sentinel, check_ring, join_group
from .leader import own_facts
from .membership import Membership, deadline_s, membership
from .share_files import open_share
from .share_loading import load_share
from .share_runner import ShareRunner
from .shares import Share

_RETRY_S, _PATIENCE = 0.1, 4


def follow(member: Membership) -> int:
    """Serve the leader until it ends; return the exit code. Raises PeerError if it can't be found.

    Ctrl-C reaches all processes of a terminal: what it means is the leader's to decide.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(_connect(member), deadline_s(), _leave)
    channel.send(own_facts(member, working_memory_bytes()))
    try:
        with ExitStack() as at_end:
            _obey(member, channel, at_end)
    except Exception as error:
        if channel.is_closed:
            # The leader has ended, and with it what this process was computing.
            return 0
        # The leader is told in one line, and its user is told by it.
        told = str(error) if isinstance(error, Llama3MLXError) else f"{type(error).__name__}: {error}"
        with suppress(PeerError):
            channel.send({"error": told})
        channel.close()
        return 1
    return 0


def _obey(member: Membership, channel: Channel, at_end: ExitStack) -> None:
    group: mx.distributed.Group | None = None
    share: ShareRunner | None = None
    while True:
        message = channel.receive()
        if not isinstance(message, dict):
            assert share is not None, "orders come after a model"
            share.obey(message)
            continue
        answer: JsonObject = {}
        match message["do"]:
            case "check":
                check_ring(member, deadline_s())
            case "join":
                group = join_group(member, 2 * deadline_s())
                # Where MLX holds all threads, the end of the leader isn't noticed.
                at_end.callback(Sentinel(2 * deadline_s()).close)
            case "load":
                assert group is not None, "a model is loaded after the group is joined"
                share = None
                share, answer = _load(message, group)
            case "unload":
                share = None
                mx.clear_cache()
            case _:
                assert share is not None, "what is done with a share comes after it"
                answer = share.answer(message)
        channel.send(answer)


def _load(request: JsonObject, group: mx.distributed.Group) -> tuple[ShareRunner, JsonObject]:
    share, dtype = Share.from_dict(request["share"][str(group.rank())]), request["dtype"]
    if "hub" in request:
        folder = open_share(request["hub"], share)
    else:
        folder = ModelFolder(Path(request["folder"]))
        check_fingerprint(folder, request["fingerprint"])
    # Whatever loading another model took.
    mx.reset_peak_memory()
    model = load_share(folder, share, dtype)
    free = working_memory_bytes() * (1 - RESERVE) - mx.get_active_memory()
    room = {"bytes": free, "head_dim": model.config.head_dim, "float_bytes": DTYPES[dtype].size}
    runner = ShareRunner(model, share, folder, make_exchange(share, group), DTYPES[dtype])
    return runner, {"held_bytes": mx.get_active_memory(), "peak_bytes": mx.get_peak_memory(), "room": room}


def _connect(member: Membership) -> socket.socket:
    # Rank 0 may have something to ask its user first.
    wait_s = _PATIENCE * deadline_s()
    end = time.monotonic() + wait_s
    while True:
        try:
            return socket.create_connection(member.coordinator, deadline_s())
        except OSError as error:
            if time.monotonic() > end:
                host, port = member.coordinator
                raise PeerError(
                    f"rank 0 isn't there: {host} port {port} doesn't answer within {wait_s:g} s "
                    f"({error.strerror or error})"
                ) from None
            time.sleep(_RETRY_S)


def _leave(reason: str) -> None:
    """End the process, whatever it is doing: without its leader it is of no use."""
    if "silent" in reason:
        sys.stderr.write(f"error: rank 0 is gone: {reason}\n")
    os._exit(0 if "ended" in reason else 1)


def main() -> int:
    """Follow the leader that the environment names."""
    try:
        member = membership()
        if member is None or not member.rank:
            raise PeerError("a follower is started by its leader or by mlx.launch")
        return follow(member)
    except PeerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
