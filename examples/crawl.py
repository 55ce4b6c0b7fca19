"""A crawl of a small web site: coroutines fetch its pages, in one process and then in two.

One event loop has many requests on their way at once, but reads the answers on one CPU.  A pool of coroutines has an
event loop in each of its processes: a page is read where it was fetched, and only what was found in it comes back.
"""

import html.parser
import importlib.util
import multiprocessing
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pyconc import asyncio
from pyconc.aiomultiprocess import Pool

try:
    import aiohttp  # type: ignore[import-not-found,unused-ignore]
    from aiohttp import web  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    aiohttp = None  # type: ignore[assignment,unused-ignore]

HOST = "127.0.0.1"
PAGES = 1000
WORDS = ["bench", "coat", "door", "evening", "field", "garden", "house", "island", "lamp", "morning", "night", "river"]
Page = tuple[list[str], int]  # its links, and how many words it has

rates: dict[str, float] = {}  # requests per second
sessions: dict[asyncio.AbstractEventLoop, Any] = {}  # one for each event loop, as it keeps connections open


def write_page(number: int) -> str:
    dice = random.Random(number)
    # Every page but the first has a link from an earlier one.
    numbers = [*range(4 * number + 1, 4 * number + 5), *dice.sample(range(1, PAGES), 2)]
    links = " ".join(f'<a href="/{n}">page {n}</a>' for n in numbers if n < PAGES)
    return "".join(f"<p>{' '.join(dice.choices(WORDS, k=6))}.</p>" for _ in range(200)) + links


def serve(pipe: Any) -> None:
    pages = {f"/{number or ''}": write_page(number) for number in range(PAGES)}

    async def answer(request: Any) -> Any:
        return web.Response(text=pages[request.path], content_type="text/html")

    async def main() -> None:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, HOST, 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


class Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name == "href" and value]

    def handle_data(self, data: str) -> None:
        self.words += len(re.findall(r"\w+", data))


async def fetch(url: str) -> Page:
    loop = asyncio.get_running_loop()
    if loop not in sessions:
        sessions[loop] = aiohttp.ClientSession()
    async with sessions[loop].get(url) as response:
        reader = Reader()
        reader.feed(await response.text())
    return reader.links, reader.words


async def crawl(name: str, site: str, fetch_all: Callable[[list[str]], Awaitable[list[Page]]]) -> None:
    """Follows links from the first page until none of them is new."""
    await fetch_all([site + "/"] * 100)  # The processes start and connect before the clock does.
    started = time.perf_counter()
    seen, new, words = {"/"}, ["/"], 0
    while new:
        pages = await fetch_all([site + path for path in new])
        new = sorted({link for links, _ in pages for link in links} - seen)
        seen.update(new)
        words += sum(count for _, count in pages)
    rate = rates[name] = PAGES / (time.perf_counter() - started)
    assert len(seen) == PAGES
    print(f"{name:15}: {PAGES} pages with {words} words in {PAGES / rate:.2f} s,", end=" ")
    print(f"{rate:.0f} requests per second, {rate / rates['asyncio']:.2f}x", flush=True)


async def compare(site: str) -> None:
    await crawl("asyncio", site, lambda urls: asyncio.gather(*map(fetch, urls)))
    await sessions.pop(asyncio.get_running_loop()).close()
    async with Pool(2) as pool:
        await crawl("pyconc", site, lambda urls: pool.map(fetch, urls).results())
    # It uses what Python 3.14 deprecates.
    if sys.version_info < (3, 14) and importlib.util.find_spec("aiomultiprocess"):
        async with importlib.import_module("aiomultiprocess").Pool(2) as other_pool:
            await crawl("aiomultiprocess", site, lambda urls: other_pool.map(fetch, urls).results())


def main() -> None:
    if aiohttp is None:
        print("This example needs aiohttp: pip install aiohttp")
        return
    context = multiprocessing.get_context("spawn")
    port, pipe = context.Pipe(duplex=False)
    server = context.Process(target=serve, args=(pipe,), daemon=True)  # A daemon ends with whoever started it.
    server.start()
    pipe.close()  # Only the server's end is open now: without a server there is nothing to wait for.
    asyncio.run(compare(f"http://{HOST}:{port.recv()}"))


if __name__ == "__main__":
    main()
