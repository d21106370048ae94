"""The ways into a group: what launchers say, deadlines, and connections that end or fall silent."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from llama3_mlx.distributed.channel import Channel
from llama3_mlx.distributed.membership import membership
from llama3_mlx.errors import PeerError

from ..support.processes import finished, running

# A process that checks its ring, joins the group and sums over it, and how busy it was while it waited for the others,
# who come later; "alone" doesn't check.
JOINING = """
import sys, time
from llama3_mlx.distributed.group import check_ring, join_group
from llama3_mlx.distributed.membership import membership
from llama3_mlx.errors import PeerError
import mlx.core as mx
try:
    if "alone" not in sys.argv:
        check_ring(membership(), float(sys.argv[1]))
    group = join_group(membership(), float(sys.argv[1]))
    time.sleep(0.5 * group.rank())
    began, used = time.monotonic(), time.process_time()
    print(mx.distributed.all_sum(mx.array(1.0), group=group).item())
    print((time.process_time() - used) / (time.monotonic() - began))
except PeerError as error:
    sys.exit(str(error))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_launchers_say_who_is_who(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[["10.0.0.1:5000"], ["10.0.0.2:5001", "10.0.0.2:5002"]]')
    ring = membership({"MLX_RANK": "1", "MLX_HOSTFILE": str(hosts)})
    assert ring is not None
    assert (ring.rank, ring.size, ring.backend, ring.coordinator) == (1, 2, "ring", ("10.0.0.1", 6000))
    assert ring.name(1) == "rank 1 (10.0.0.2:5001)"
    devices = tmp_path / "devices.json"
    devices.write_text('[[null, "rdma_en5"], ["rdma_en5", null]]')
    variables = {"MLX_RANK": "0", "MLX_IBV_DEVICES": str(devices), "MLX_JACCL_COORDINATOR": "10.0.0.1:7000"}
    jaccl = membership(variables)
    assert jaccl is not None
    assert (jaccl.size, jaccl.backend, jaccl.coordinator) == (2, "jaccl", ("10.0.0.1", 8000))
    mpi = membership({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "LLAMA3_MLX_COORDINATOR": "h:9"})
    assert mpi is not None
    assert (mpi.rank, mpi.coordinator) == (1, ("h", 9))
    assert membership({}) is None
    assert membership({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}) is None


def test_what_launchers_say_is_checked(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"none\.json can't be read"):
        membership({"MLX_RANK": "0", "MLX_HOSTFILE": str(tmp_path / "none.json")})
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[["10.0.0.1:5000"], ["10.0.0.2:5001"]]')
    with pytest.raises(PeerError, match="rank 2 of a group of 2"):
        membership({"MLX_RANK": "2", "MLX_HOSTFILE": str(hosts)})
    with pytest.raises(PeerError, match="MLX_RANK must be a whole number, not 'x'"):
        membership({"MLX_RANK": "x", "MLX_HOSTFILE": str(hosts)})


def start(hosts: Path, rank: int, *arguments: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    variables = {**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)}
    command = [sys.executable, "-c", JOINING, *arguments]
    return running(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ring_of(size: int, tmp_path: Path) -> tuple[Path, list[int]]:
    ports = [free_port() for _ in range(size)]
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    return hosts, ports


def test_a_ring_comes_up_after_its_check_and_sleeps_while_it_waits(tmp_path: Path) -> None:
    hosts, _ = ring_of(3, tmp_path)
    with ExitStack() as started:
        processes = [started.enter_context(start(hosts, rank, "60")) for rank in range(3)]
        outputs = [finished(process, 90) for process in processes]
    assert [out.split()[0] for out, _ in outputs] == ["3.0"] * 3, outputs
    # Rank 0 waits for a second.
    assert float(outputs[0][0].split()[1]) < 0.2


def test_a_rank_that_never_starts_is_named_after_the_deadline(tmp_path: Path) -> None:
    hosts, ports = ring_of(2, tmp_path)
    with start(hosts, 0, "1") as alone:
        _, missing = finished(alone)
    assert f"can't reach rank 1 (127.0.0.1:{ports[1]})" in missing
    # MLX's own wait has no end: the process is ended from outside.
    with start(hosts, 0, "1", "alone") as waiting:
        _, killed = finished(waiting)
    assert "didn't come up within 1 s on rank 0" in killed
    assert waiting.returncode == -signal.SIGKILL


def channels(deadline_s: float) -> tuple[Channel, Channel, "queue.SimpleQueue[str]"]:
    lost: queue.SimpleQueue[str] = queue.SimpleQueue()
    one, two = socket.socketpair(socket.AF_UNIX)
    return Channel(one, deadline_s, lost.put), Channel(two, deadline_s, lambda _: None), lost


def test_numbers_and_objects_arrive_in_order() -> None:
    one, two, lost = channels(30.0)
    one.send([1, -2, 2**31 - 1])
    one.send({"model": "ö"})
    assert two.receive(10) == [1, -2, 2**31 - 1]
    assert two.receive(10) == {"model": "ö"}
    with pytest.raises(PeerError, match="no answer within"):
        two.receive(0.01)
    two.close()
    assert lost.get(timeout=10) == "its process has ended"
    with pytest.raises(PeerError, match="has ended"):
        one.receive(10)


def test_silence_and_foreign_bytes_end_a_channel() -> None:
    for said, reason in ((b"", "silent for 0.5 s"), (b"GET / HTTP/1.1\r\n", "another program")):
        lost: queue.SimpleQueue[str] = queue.SimpleQueue()
        one, two = socket.socketpair(socket.AF_UNIX)
        channel = Channel(one, 0.5, lost.put)
        two.sendall(said)
        assert reason in lost.get(timeout=30)
        channel.close()
        two.close()
