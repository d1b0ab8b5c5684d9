"""The server: routes, admission and refusals of the demo backend."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from flint.sandbox.demo_backend import answers, frames, plain, prompts, structures, switches
from flint.sandbox.demo_backend.journal import Entry, Journal
from flint.sandbox.demo_backend.pace import Pace
from flint.sandbox.demo_backend.prompts import Prompt
from flint.sandbox.demo_backend.serving import WORKER_LOST, Serving, Shutdown
from flint.sandbox.demo_backend.switches import Switches

BODY_BYTES_MAX = 64 * 1024 * 1024
HEADER_CHARACTERS_MAX = 200
JOURNAL_ENTRIES_SHOWN = 1000
FINISH_SECONDS = 10.0
MODELS = ("demo-chat", "demo-thinking")


class Backend:
    """Everything one process of the demo backend holds."""

    def __init__(self, *, journal: Journal, api_key: str | None, first_token_ms: int, tokens_per_second: float) -> None:
        self.journal = journal
        self.shutdown = Shutdown()
        self.idle = asyncio.Event()
        self.idle.set()
        self._api_key = api_key
        self._first_token_ms = first_token_ms
        self._tokens_per_second = tokens_per_second
        self._control = switches.Control()
        self._prefixes = prompts.PrefixCache()
        self._answer_ids = itertools.count(1)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        router = application.router
        router.add_post("/v1/chat/completions", self.chat)
        router.add_post("/v1/completions", self.completions)
        router.add_post("/v1/embeddings", self.embeddings)
        router.add_get("/v1/models", self.models)
        router.add_get("/health", self.health)
        router.add_get("/control", self.show_control)
        router.add_put("/control", self.change_control)
        router.add_delete("/control", self.change_control)
        router.add_get("/journal", self.show_journal)
        router.add_get("/stats", self.stats)
        router.add_route("*", "/{path:.*}", self.unknown)
        return application

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, prompts.read, frames.Frames)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, plain.read_completion, plain.TextFrames)

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        entry = self.journal.open_entry(
            call_id=_header(request, "X-Flint-Call-Id"), attempt=_header(request, "X-Flint-Attempt")
        )
        if not self._may_call(request):
            return self._refuse(entry, 401, "Invalid API key.")
        try:
            wanted, texts = plain.read_embedding(await request.read())
            asked = self._control.for_call(texts[-1] if texts else "", attempt=_attempt(entry))
        except (prompts.InvalidRequest, switches.InvalidSwitch) as error:
            return self._refuse(entry, 400, str(error))
        if asked.status is not None:
            return self._refuse(entry, asked.status, WORKER_LOST, asked)
        entry.model, entry.stream, entry.choices, entry.max_tokens = wanted.model, False, 0, 0
        entry.prompt_tokens, entry.cached_tokens = plain.count(texts), 0
        self.journal.accept(entry)
        body = plain.embeddings(wanted, texts, asked)
        entry.status, entry.usage = 200, msgspec.json.decode(body).get("usage")
        self.journal.end(entry, "done")
        return web.Response(body=body, content_type="application/json")

    async def _complete(
        self, request: web.Request, read: Callable[[bytes], Prompt], made: type[frames.Frames]
    ) -> web.StreamResponse:
        entry = self.journal.open_entry(
            call_id=_header(request, "X-Flint-Call-Id"), attempt=_header(request, "X-Flint-Attempt")
        )
        if not self._may_call(request):
            return self._refuse(entry, 401, "Invalid API key.")
        try:
            prompt = read(await request.read())
            entry.model = prompt.request.model
            asked = self._control.for_call(prompt.last_user_text, attempt=_attempt(entry))
        except (prompts.InvalidRequest, switches.InvalidSwitch) as error:
            return self._refuse(entry, 400, str(error))
        except web.HTTPRequestEntityTooLarge:
            return self._refuse(entry, 413, f"The body is larger than {BODY_BYTES_MAX} bytes.")
        if asked.status is not None:
            return self._refuse(entry, asked.status, WORKER_LOST, asked)
        serving = self._prepare(request, prompt, asked, entry, made)
        self.journal.accept(entry)
        self.idle.clear()
        try:
            return await serving.run()
        finally:
            self.journal.end(entry, serving.end or "error")
            if not self.journal.running:
                self.idle.set()

    def _prepare(
        self, request: web.Request, prompt: Prompt, asked: Switches, entry: Entry, made: type[frames.Frames]
    ) -> Serving:
        """Everything that is known of the call before its first byte; nothing has been sent or journalled yet."""
        wire = prompt.request
        entry.stream = bool(wire.stream)
        entry.choices = wire.n or 1
        entry.max_tokens = prompt.max_tokens
        entry.prompt_tokens, entry.cached_tokens = self._prefixes.count(prompt)
        options = wire.stream_options or prompts.StreamOptions()
        rate = self._tokens_per_second if asked.tokens_per_second is None else asked.tokens_per_second
        first_token_ms = self._first_token_ms if asked.first_token_ms is None else asked.first_token_ms
        events = made(
            answer_id=f"chatcmpl-{self.journal.boot}{secrets.token_hex(8)}{next(self._answer_ids)}",
            created=int(time.time()),
            model=wire.model,
            figures=frames.UsageFigures(entry.prompt_tokens, entry.cached_tokens, 0, 0),
            usage_asked=options.include_usage,
            usage_running=options.include_usage and options.continuous_usage_stats,
            switches=asked,
        )
        return Serving(
            request=request,
            is_stream=entry.stream,
            switches=asked,
            choices=[_choice(prompt, asked, index) for index in range(entry.choices)],
            events=events,
            entry=entry,
            pace=Pace(first_token_seconds=first_token_ms / 1000, tokens_per_second=rate * entry.choices),
            shutdown=self.shutdown,
        )

    def _refuse(self, entry: Entry, status: int, message: str, asked: Switches = switches.HEALTHY) -> web.Response:
        self.journal.refuse(entry, status)
        content_type, body = frames.error_body(asked.error_body, status=status, message=message)
        headers = {"Content-Type": content_type}
        if asked.retry_after:
            headers["Retry-After"] = asked.retry_after
        if 300 <= status < 400:
            headers["Location"] = "/elsewhere"
        return web.Response(status=status, body=body, headers=headers)

    def _may_call(self, request: web.Request) -> bool:
        if self._api_key is None:
            return True
        expected = f"Bearer {self._api_key}".encode()
        return hmac.compare_digest((_header(request, "Authorization") or "").encode(), expected)

    async def models(self, request: web.Request) -> web.Response:
        if not self._may_call(request):
            return _error(401, "Invalid API key.")
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "demo"} for name in MODELS]
        return _json({"object": "list", "data": data})

    async def health(self, request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def show_control(self, request: web.Request) -> web.Response:
        return _json(self._control.words)

    async def change_control(self, request: web.Request) -> web.Response:
        try:
            self._control.set(switches.in_control(await request.read()) if request.method == "PUT" else {})
        except switches.InvalidSwitch as error:
            return _error(400, str(error))
        return _json(self._control.words)

    async def show_journal(self, request: web.Request) -> web.Response:
        call_id = request.query.get("call_id")
        if call_id is None:
            return _json(self.journal.last(JOURNAL_ENTRIES_SHOWN))
        return _json(self.journal.of_call(call_id))

    async def stats(self, request: web.Request) -> web.Response:
        journal = self.journal
        counters = {name: getattr(journal, name) for name in ("accepted", "refused", "running", "tokens_written")}
        return _json({"boot": journal.boot} | counters | journal.ends)

    async def unknown(self, request: web.Request) -> web.Response:
        return _error(404, f"Nothing here: {request.method} {request.path}")


async def serve(
    backend: Backend, *, host: str, port: int, ready: Callable[[str], None], stop: Awaitable[object]
) -> None:
    """Serves until `stop`, then lets running streams finish for FINISH_SECONDS."""
    runner = web.AppRunner(backend.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        ready(f"http://{host}:{runner.addresses[0][1]}")
        await stop
        await site.stop()
        backend.shutdown.begun.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(backend.idle.wait(), FINISH_SECONDS)
        backend.shutdown.over.set()
    finally:
        await runner.cleanup()


def _choice(prompt: Prompt, asked: Switches, index: int) -> answers.Choice:
    topic = answers.topic_of(switches.without_marker(prompt.last_user_text))
    seed = prompt.seed + bytes([index])
    limit, exact, endless = prompt.max_tokens, asked.tokens, asked.endless
    if calls := structures.tool_calls(prompt, topic=topic, wanted=asked.tool_calls):
        return answers.compose_tool_calls(calls, seed=seed, limit=limit)
    if document := structures.document(prompt, topic=topic):
        return answers.compose_document(document, limit=limit)
    if endless and not prompt.request.stream:
        limit, exact, endless = None, answers.ENDLESS_FACTOR * (limit or 100), False
    return answers.compose(
        topic=topic,
        model=prompt.request.model,
        seed=seed,
        limit=limit,
        stops=prompt.stops,
        exact_tokens=exact,
        endless=endless,
    )


def _header(request: web.Request, name: str) -> str | None:
    """The value as text that can be written to the journal, whatever bytes it had."""
    value = request.headers.get(name)
    return None if value is None else value[:HEADER_CHARACTERS_MAX].encode(errors="replace").decode()


def _attempt(entry: Entry) -> int:
    """The number of the attempt; a call that does not say is a first one."""
    return int(entry.attempt) if entry.attempt and entry.attempt.isdecimal() else 1


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    content_type, body = frames.error_body("openai", status=status, message=message)
    return web.Response(status=status, body=body, content_type=content_type)
