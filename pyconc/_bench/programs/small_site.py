"""A site of so many pages, each with links to some others; prints its address, and ends when its standard input does.

small_site.py PAGES
"""

import asyncio
import sys

import tiny_server

LINKS = 8


def write_page(number, pages):
    """Links to the next ones in a tree that begins with the first page, and a text."""
    targets = [target for target in range(LINKS * number + 1, LINKS * number + LINKS + 1) if target < pages]
    links = "".join(f'<a href="/{target}">page {target}</a>' for target in targets)
    return (f"<p>This is page {number}.</p>" * 50 + links).encode()


async def main(pages):
    texts = {f"/{number}": write_page(number, pages) for number in range(pages)}

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": texts[scope["path"]]})

    with tiny_server.listen() as listener:
        server = await tiny_server.serve(application, listener)
        print("http://{}:{}".format(*listener.getsockname()), flush=True)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
        await ended.wait()
        server.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
