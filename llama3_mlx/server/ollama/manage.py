"""Ollama's pull, create, copy and delete. Source: https://github.com/ollama/ollama/blob/main/docs/api.md."""

import asyncio
import queue
import re
import threading
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse, StreamingResponse

from ...errors import RequestError
from ...json_types import JsonMapping
from ...library.catalogue import DEFAULT_TAG, Catalogue, check_name
from ...library.home import models_folder
from ...library.storage import copy_model, remove_model
from ..core.request_context import Server
from ..http.errors import ApiError
from ..http.streaming import JSON_LINES, STREAM_HEADERS, errors_as_events, json_line
from .schema import CopyRequest, CreateRequest, Named, PullRequest

StatusReport = Callable[[JsonMapping], None]
# Takes where reports go, and what is set when the client has gone.
ManageTask = Callable[[StatusReport, threading.Event], None]
_BITS = re.compile(r"q([2-68])(_0|_1|_k|_k_[msl])?\Z", re.IGNORECASE)


def _may_manage(request: Request) -> None:
    if not request.app.state.server.settings.manage:
        raise ApiError(403, "this server's models can't be changed over HTTP: it was started with --no-manage")


router = APIRouter(tags=["Ollama"], dependencies=[Depends(_may_manage)])


@router.post("/api/pull")
async def pull(body: PullRequest, request: Request) -> Response:
    """Download a model from the Hub."""
    name = body.chosen.removesuffix(f":{DEFAULT_TAG}").removeprefix("hf.co/")

    def task(report: StatusReport, gone: threading.Event) -> None:
        from ...library.hub import HubId, download_model

        if name in _catalogue(request).models():
            return
        report({"status": "pulling manifest"})
        hub_id = None if name.startswith((".", "/", "~")) else HubId.parse(name)
        if hub_id is None:
            raise RequestError(
                f"{name[:80]!r} isn't a Hub id: give owner/name, as in mlx-community/Llama-3.2-3B-Instruct-4bit"
            )
        digest = "sha256:" + sha256(name.encode()).hexdigest()

        def downloaded(done: int, total: int) -> None:
            report({"status": f"pulling {name}", "digest": digest, "total": total, "completed": done})

        download_model(hub_id, report=downloaded, stop=gone)

    return await _run(task, request, stream=body.stream is not False)


@router.post("/api/create")
async def create(body: CreateRequest, request: Request) -> Response:
    """Make a model out of another one: quantized if `quantize` says so, else a copy."""
    if not body.from_:
        raise ApiError(400, "from is missing: name the model to make the new one from", param="from")
    target = _new_folder(body.chosen)
    source = _source(_catalogue(request), body.from_)
    bits = _bits(body.quantize)

    def task(report: StatusReport, _: threading.Event) -> None:
        report({"status": f"reading {body.from_}"})
        if bits is None and (source / "config.json").exists() and any(source.glob("*.safetensors")):
            from ...library.catalogue import ModelEntry

            copy_model(ModelEntry(source.name, source), target)
            return
        from ...convert import convert

        report({"status": f"converting to {bits} bits" if bits else "converting"})
        convert(source, target, bits=bits)

    return await _run(task, request, stream=body.stream is not False)


@router.post("/api/copy")
async def copy(body: CopyRequest, request: Request) -> Response:
    """Give a model a second name."""
    model = _catalogue(request).choose(body.source).model
    await asyncio.to_thread(copy_model, model, _new_folder(body.destination))
    return Response()


@router.delete("/api/delete")
async def delete(body: Named, request: Request) -> Response:
    """Delete a model that was downloaded or made here."""
    server: Server = request.app.state.server
    choice = server.models.catalogue.choose(body.chosen or None) if body.chosen else None
    if choice is None or choice.adapter:
        raise ApiError(400, "name a model to delete")
    slot = server.models.slots.get(choice.name)
    if slot is not None and slot.users:
        raise ApiError(409, f"{choice.name} is in use: try again later")
    await server.models.unload(choice.name)
    await asyncio.to_thread(remove_model, choice.model)
    server.models.catalogue.remove(choice.model.name)
    return Response()


def _catalogue(request: Request) -> Catalogue:
    catalogue: Catalogue = request.app.state.server.models.catalogue
    return catalogue


def _new_folder(name: str) -> Path:
    return models_folder() / check_name(name)


def _source(catalogue: Catalogue, name: str) -> Path:
    """Return the folder of a model by name; a path counts only inside our own folder."""
    models = catalogue.models()
    plain = name.removesuffix(f":{DEFAULT_TAG}")
    if plain in models:
        return models[plain].folder
    ours = models_folder().resolve()
    path = (ours / name).resolve()
    if path.is_relative_to(ours) and path != ours and path.exists():
        return path
    raise ApiError(404, f"there is no model {name[:80]!r}, and paths outside {ours} are not read", param="from")


def _bits(quantize: str | None) -> int | None:
    if not quantize:
        return None
    match = _BITS.match(quantize)
    if not match:
        raise ApiError(400, f"quantize must be q2, q3, q4, q5, q6 or q8 (q4_K_M is q4), not {quantize[:40]!r}")
    return int(match[1])


async def _run(task: ManageTask, request: Request, *, stream: bool) -> Response:
    """Run `task` in a thread; its reports are the lines of a stream, or the last one is the answer."""
    if not stream:
        await asyncio.to_thread(task, lambda _: None, threading.Event())
        return JSONResponse({"status": "success"})
    return StreamingResponse(
        errors_as_events(_lines(task), request, lines=True), headers=STREAM_HEADERS, media_type=JSON_LINES
    )


async def _lines(task: ManageTask) -> AsyncIterator[bytes]:
    """Yield the reports of a task as lines; says so to the task once nobody reads them any more."""
    reports: queue.SimpleQueue[JsonMapping] = queue.SimpleQueue()
    gone = threading.Event()
    working = asyncio.ensure_future(asyncio.to_thread(task, reports.put, gone))
    try:
        while not working.done():
            await asyncio.wait({working}, timeout=0.1)
            while not reports.empty():
                yield json_line(reports.get())
    finally:
        gone.set()
        working.add_done_callback(lambda done: done.cancelled() or done.exception())
    working.result()
    yield json_line({"status": "success"})
