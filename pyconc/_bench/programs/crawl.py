"""A crawl by eight threads with urllib: the pages of a small site in another process, followed from the first.

crawl.py PAGES
"""

import concurrent.futures
import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.request

import meter

THREADS = 8
SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "small_site.py")
# Whatever proxy the environment names has nothing to do with this machine's own pages.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextlib.contextmanager
def site(pages):
    """A site of so many pages, by its address."""
    command = [sys.executable, SITE, str(pages)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()  # then it ends, as it does when this program dies


def fetch(address):
    """The links of a page."""
    with opener.open(address) as response:
        return re.findall(r'href="([^"]+)"', response.read().decode())


def crawl(executor, address):
    """The paths of all pages that links lead to from the first."""
    seen = {"/0"}
    pending = {executor.submit(fetch, f"{address}/0")}
    while pending:
        done, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
        for path in {path for future in done for path in future.result()} - seen:
            seen.add(path)
            pending.add(executor.submit(fetch, address + path))
    return seen


def main(pages):
    with concurrent.futures.ThreadPoolExecutor(THREADS) as executor:
        with site(THREADS) as address:
            crawl(executor, address)
        with site(pages) as address:
            started, before = time.perf_counter(), time.process_time()
            found = crawl(executor, address)
            seconds, cpu = time.perf_counter() - started, time.process_time() - before
    assert len(found) == pages
    meter.say(time=seconds / pages * 1e6, cpu=cpu / pages * 1e6)


if __name__ == "__main__":
    main(int(sys.argv[1]))
