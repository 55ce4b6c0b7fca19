"""An ASGI application that asks a database in a thread for each request, and a load generator in another process.

    web_server.py REQUESTS

uvicorn serves it, or tiny_server.py where that is not installed.  The endpoint awaits asyncio.to_thread().
"""

import asyncio
import contextlib
import functools
import json
import os
import sys
import time

import meter
import tiny_server
from database import open_database

try:
    import uvicorn
except ImportError:
    uvicorn = None

CONNECTIONS = 16
LOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "load.py")


async def application(database, scope, receive, send):
    assert scope["type"] == "http"
    text = await asyncio.to_thread(database.look_up, int(scope["path"].rpartition("/")[2]))
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


@contextlib.asynccontextmanager
async def served(application, listener):
    if uvicorn is None:
        server = await tiny_server.serve(application, listener)
        yield
        server.close()
        return
    options = {"interface": "asgi3", "lifespan": "off", "access_log": False, "log_level": "warning"}
    server = uvicorn.Server(uvicorn.Config(application, **options))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield  # the listener's backlog has what comes before the server looks
    server.should_exit = True
    await serving


async def load(port, requests):
    """What the load generator says of so many requests."""
    command = [sys.executable, LOAD, str(port), str(CONNECTIONS), str(requests)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(said)


async def main(database, requests):
    with tiny_server.listen() as listener:
        port = listener.getsockname()[1]
        async with served(functools.partial(application, database), listener):
            await load(port, max(CONNECTIONS, requests // 10))
            before = time.process_time()
            said = await load(port, requests)
            cpu = time.process_time() - before
    meter.say(**said, cpu=cpu / requests * 1e6)


if __name__ == "__main__":
    with open_database() as database:
        asyncio.run(main(database, int(sys.argv[1])))
