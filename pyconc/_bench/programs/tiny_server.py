"""The least that serves an ASGI application over HTTP/1.1: GET, connections that stay open, answers of one piece."""

import asyncio
import contextlib
import socket


def listen():
    """A socket that connections on this machine reach.

    It names its protocol, for then asyncio turns off Nagle's algorithm, as it does for sockets that it makes itself.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(100)
    return listener


async def answer(application, path, writer):
    status, body = 500, b""

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        nonlocal status, body
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            body = message["body"]

    await application({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
    writer.write(f"HTTP/1.1 {status} -\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


async def converse(application, reader, writer):
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await answer(application, head.split(b" ", 2)[1].decode(), writer)


async def serve(application, listener):
    """Start to answer what connects to this socket; the result is an asyncio.Server."""
    return await asyncio.start_server(lambda *streams: converse(application, *streams), sock=listener)
