"""An asyncio service: a line in, an answer out piece by piece, many connections on one model.

    python -m examples.recipes.line_service --port 8765
    echo "Why is the sky blue?" | nc 127.0.0.1 8765

Answers of all connections are decoded in one batch. A client that hangs up ends its answer; at most `--waiting`
questions are open, others are told so; Ctrl-C lets running answers end. The small model answers in a second or two; an
8B serves some dozens of readers on one Mac. For the protocols that applications know, use `llama3-mlx serve`.
"""

import asyncio
import contextlib
import signal

from examples.recipes import arguments, run
from llama3_mlx import Llama, Llama3MLXError


class LineService:
    """Answers lines; `handle` is what asyncio.start_server takes."""

    def __init__(self, llama: Llama, *, waiting: int = 32, max_tokens: int = 300) -> None:
        self.llama, self.waiting, self.max_tokens = llama, waiting, max_tokens
        self.open = 0
        self._running: set[asyncio.Task[None]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's lines, one after the other."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        with contextlib.suppress(ConnectionError):
            await task
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode("utf-8", "replace").strip():
            if self.open >= self.waiting:
                writer.write(b"error: too many questions at once, try again\n")
                continue
            self.open += 1
            try:
                await self._answer(line, writer)
            finally:
                self.open -= 1

    async def _answer(self, line: str, writer: asyncio.StreamWriter) -> None:
        stream = self.llama.astream_chat([{"role": "user", "content": line}], max_tokens=self.max_tokens)
        try:
            async for piece in stream:
                writer.write(piece.text.replace("\n", " ").encode())
                # Raises where the client has gone, and waits where it reads slowly.
                await writer.drain()
            writer.write(b"\n")
        except Llama3MLXError as error:
            writer.write(f"error: {error}\n".encode())
        finally:
            stream.cancel()

    async def finish(self, seconds: float) -> None:
        """Let running answers end, but no longer than so many seconds."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=seconds)
            for task in late:
                task.cancel()


async def serve(llama: Llama, port: int, waiting: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    service, stop = LineService(llama, waiting=waiting), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await asyncio.start_server(service.handle, "127.0.0.1", port) as server:
        print(f"listening on {server.sockets[0].getsockname()}")
        await stop.wait()
        server.close()
        await service.finish(30)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--waiting", type=int, default=32, help="questions open at once (%(default)s)")
    args = parser.parse_args()
    with Llama.load(args.model) as llama:
        asyncio.run(serve(llama, args.port, args.waiting))


if __name__ == "__main__":
    run(main)
