"""A load generator: so many connections to a server on this machine, each with one GET after the other.

load.py PORT CONNECTIONS REQUESTS
"""

import asyncio
import sys
import time

import meter


async def get_all(port, numbers, times):
    """Add to `times` how many microseconds each request took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in numbers:
        started = time.perf_counter()
        writer.write(f"GET /texts/{number} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        times.append((time.perf_counter() - started) * 1e6)
    writer.close()


async def main(port, connections, requests):
    times = []
    started = time.perf_counter()
    await asyncio.gather(*[get_all(port, range(first, requests, connections), times) for first in range(connections)])
    seconds = time.perf_counter() - started
    meter.say(time=seconds / requests * 1e6, p50=meter.percentile(times, 50), p99=meter.percentile(times, 99))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
