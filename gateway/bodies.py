"""The bodies of requests: how they are unpacked, how large they may be, and the room that large ones share.

A packed body is unpacked as it comes, a part at a time, and refused as soon as it is too large.
"""

from __future__ import annotations

import asyncio
import io
import zlib

from gateway.errors import BodyTooLarge, InvalidRequest, Unavailable, UnsupportedEncoding

BODY_LIMIT = 32 * 2**20  # Bytes, unpacked; room for images in base64.
LARGE_BODY = 2**20  # Bytes; smaller ones always find room.
ROOM_BYTES = 256 * 2**20
ROOM_SECONDS = 30  # How long a large body waits for room, unread.
COPIES = 3  # Of a body while it waits for the backend: as it is kept, and as it is sent on, with the encoder's slack.
PART_BYTES = 2**18  # Unpacked within a millisecond.

_GZIP, _ZLIB = 31, 15  # As zlib calls the formats.
_FORMATS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}


class Room:
    """What the large bodies of a process take together. One that finds it full waits, in order of arrival."""

    def __init__(self) -> None:
        self._taken = 0
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()

    async def take(self, size: int) -> None:
        """Raises Unavailable after ROOM_SECONDS."""
        try:
            async with asyncio.timeout(ROOM_SECONDS), self._turn:
                while self._taken + size > ROOM_BYTES:
                    self._given_back.clear()
                    await self._given_back.wait()
                self._taken += size
        except TimeoutError:
            raise Unavailable("Too many large requests are here at the moment. Please try again.") from None

    def give_back(self, size: int) -> None:
        self._taken -= size
        self._given_back.set()


class Body:
    """One body, from its first piece to the moment when nobody needs it any more."""

    def __init__(self, room: Room, *, announced: int, encoding: str) -> None:
        """`announced` is the Content-Length, 0 without one. Raises BodyTooLarge, UnsupportedEncoding."""
        if announced > BODY_LIMIT:
            raise _too_large()
        self._room = room
        self._taken = 0
        self._bytes = io.BytesIO()
        self._inflater = _inflater(encoding)
        self._announced = announced if self._inflater is None else 0

    async def expect(self) -> None:
        """Wait for room, if it is known that much is needed. Raises Unavailable."""
        if self._announced > LARGE_BODY:
            await self._take(self._announced)

    async def add(self, piece: bytes) -> None:
        """Raises BodyTooLarge, InvalidRequest, Unavailable."""
        if self._inflater is None:
            return await self._append(piece)
        # The first part here; what unpacks to more is worked on where it holds up nobody else's stream.
        await self._append(self._unpack(piece))
        while rest := self._inflater.unconsumed_tail:
            await self._append(await asyncio.to_thread(self._unpack, rest))
        return None

    def whole(self) -> bytes:
        """All of it, once. Raises InvalidRequest where the end of a packed one is missing."""
        if self._inflater is not None and not self._inflater.eof:
            raise _not_packed()
        body = self._bytes.getvalue()
        self._bytes = io.BytesIO()
        if self._taken:
            self._give_back(self._taken - len(body) * COPIES)
        return body

    def forget(self) -> None:
        """Give its room to others."""
        self._give_back(self._taken)

    def _unpack(self, piece: bytes) -> bytes:
        assert self._inflater is not None  # noqa: S101  # Only packed bodies come here.
        try:
            part = self._inflater.decompress(piece, PART_BYTES)
        except zlib.error:
            raise _not_packed() from None
        if self._inflater.unused_data:
            raise _not_packed()
        return part

    async def _append(self, part: bytes) -> None:
        size = self._bytes.tell() + len(part)
        if size > BODY_LIMIT:
            raise _too_large()
        if size > LARGE_BODY and not self._taken:
            await self._take(BODY_LIMIT)  # Nobody knows how much comes.
        self._bytes.write(part)

    async def _take(self, size: int) -> None:
        await self._room.take(size * COPIES)
        self._taken = size * COPIES

    def _give_back(self, size: int) -> None:
        self._room.give_back(size)
        self._taken -= size


def _inflater(encoding: str) -> zlib._Decompress | None:
    """None for a body that comes as it is."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in _FORMATS:
        raise UnsupportedEncoding()
    return zlib.decompressobj(_FORMATS[encoding])


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {BODY_LIMIT // 2**20} MB.")


def _not_packed() -> InvalidRequest:
    return InvalidRequest("The request body is not packed as its Content-Encoding says.")
