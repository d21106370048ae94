"""Rank 0's side of a group: waits for the others, has them load their shares, and notices when one is gone."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

import mlx.core as mx

from ..errors import PeerError
from ..json_types import JsonObject
from ..version import __version__
from .channel import Channel
from .group import check_ring, join_group, listen
from .membership import Membership

MLX_VERSION = version("mlx")


class Leader:
    """The connections to all followers, which have all joined the group."""

    def __init__(self, member: Membership, deadline_s: float) -> None:
        """Wait for every follower, check that versions are equal and addresses good, and join MLX's group.

        Raises PeerError naming the ranks that are missing or don't fit.
        """
        self.member, self._deadline_s = member, deadline_s
        self.failure: PeerError | None = None
        self._listeners: list[Callable[[PeerError], object]] = []
        self._channels: dict[int, Channel] = {}
        self.facts: dict[int, JsonObject] = {}
        try:
            self._meet()
            self.tell({"do": "check"})
            check_ring(member, deadline_s)
            self.answers(2 * deadline_s)
            self.tell({"do": "join"})
            self.group: mx.distributed.Group = join_group(member, 2 * deadline_s)
            self.answers(2 * deadline_s)
        except PeerError as error:
            self.close()
            # A follower that ended meanwhile isn't one that can't be reached.
            raise self.failure or error from None
        except BaseException:
            self.close()
            raise

    def order(self, numbers: Sequence[int]) -> None:
        """Send an order to all followers; raises PeerError if one is gone."""
        for rank in self._channels:
            self._send(rank, numbers)

    def on_failure(self, listener: Callable[[PeerError], object]) -> None:
        """Call `listener`, in a thread of the group's, when a follower is gone."""
        # Those who wait for answers come before what ends processes.
        self._listeners.insert(0, listener)
        if self.failure is not None:
            listener(self.failure)

    def forget(self, listener: Callable[[PeerError], object]) -> None:
        """Call a listener no more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def explain(self, error: Exception) -> Exception:
        """Return what is behind an error of a forward pass: the follower that is gone, if one is."""
        end = time.monotonic() + 1.0
        while isinstance(error, RuntimeError | PeerError) and self.failure is None and time.monotonic() < end:
            time.sleep(0.02)
        return self.failure or error

    def close(self) -> None:
        """Let the followers go, whose processes then end."""
        for channel in self._channels.values():
            channel.close()

    def name(self, rank: int) -> str:
        """Return a rank with its address and machine, for messages."""
        host = self.facts.get(rank, {}).get("host")
        return self.member.name(rank) + (f" on {host}" if host and host != socket.gethostname() else "")

    def _meet(self) -> None:
        host, port = self.member.coordinator
        try:
            listening = listen(host, port)
        except OSError as error:
            raise PeerError(f"rank 0 can't listen on {host} port {port} for the others: {error.strerror}") from None
        end = time.monotonic() + self._deadline_s
        with listening:
            while len(self._channels) < self.member.size - 1:
                listening.settimeout(max(0.05, end - time.monotonic()))
                try:
                    self._welcome(listening.accept()[0])
                except TimeoutError:
                    absent = [rank for rank in range(1, self.member.size) if rank not in self._channels]
                    raise PeerError(
                        f"{', '.join(map(self.member.name, absent))} didn't come within {self._deadline_s:g} s: start "
                        f"{'it' if len(absent) == 1 else 'them'}, with {host} port {port} in reach"
                    ) from None

    def _welcome(self, connection: socket.socket) -> None:
        """Take a follower in; whoever else connects is turned away. Raises PeerError for another version."""
        rank: list[int] = []
        channel = Channel(connection, self._deadline_s, lambda reason: self._lost(rank, reason))
        try:
            facts = channel.receive(self._deadline_s)
        except PeerError:
            facts = []
        number = facts.get("rank") if isinstance(facts, dict) else None
        if not isinstance(facts, dict) or not isinstance(number, int) or not 0 < number < self.member.size:
            channel.close()
            return
        rank.append(number)
        self.facts[number], self._channels[number] = facts, channel
        for key, what, ours in (("version", "llama3-mlx", __version__), ("mlx", "MLX", MLX_VERSION)):
            if facts.get(key) != ours:
                raise PeerError(f"{self.name(number)} has {what} {facts.get(key)}, rank 0 has {ours}: install the same")

    def tell(self, request: JsonObject) -> None:
        """Have all followers do something; their answers come by `answers`."""
        for rank in self._channels:
            self._send(rank, request)

    def _send(self, rank: int, message: JsonObject | Sequence[int]) -> None:
        try:
            self._channels[rank].send(message)
        except PeerError as error:
            raise self.failure or PeerError(f"{self.name(rank)} is gone: {error}") from None

    def answers(self, timeout_s: float | None = None) -> dict[int, JsonObject]:
        """Return what every follower answers, by rank; raises PeerError naming who can't do what was told."""
        answers: dict[int, JsonObject] = {}
        for rank, channel in self._channels.items():
            try:
                answer = channel.receive(timeout_s)
            except PeerError as error:
                raise self.failure or PeerError(f"{self.name(rank)} is gone: {error}") from None
            if not isinstance(answer, dict) or "error" in answer:
                told = answer.get("error") if isinstance(answer, dict) else "an answer that isn't one"
                raise PeerError(f"{self.name(rank)}: {told}")
            answers[rank] = answer
        return answers

    def _lost(self, rank: list[int], reason: str) -> None:
        if not rank or self.failure is not None:
            return
        told = self._channels[rank[0]].last_words() if rank[0] in self._channels else None
        self.failure = PeerError(f"{self.name(rank[0])} is gone: {told or reason}; start all processes again")
        for listener in list(self._listeners):
            listener(self.failure)


def own_facts(member: Membership, memory_bytes: int) -> JsonObject:
    """Return what a follower says of itself when it comes."""
    return {
        "rank": member.rank,
        "version": __version__,
        "mlx": MLX_VERSION,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "memory_bytes": memory_bytes,
    }
