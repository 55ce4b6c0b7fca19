"""Runs the examples beside this file, then compares pyconc with the standard library on this machine."""

import argparse
import ast
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NEEDS = {"cluster.py": "distributed", "crawl.py": "aiohttp", "many_files.py": "aiofiles"}
# Of all that `python -m pyconc bench` compares, what is soon done and says most.
ROWS = [
    "submit a burst",
    "submit().result() one at a time",
    "map",
    "gather of",
    "await run_in_executor one at a time",
    "1,000 calls a second",
    "sqlite through to_thread",
    "blocking endpoints",
]


def subject(path: Path) -> str:
    """What an example says that it is about: the first line of its docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="hardly any work: the figures mean nothing then")
    quick = parser.parse_args().quick

    started = time.monotonic()
    paths = [path for path in sorted(HERE.glob("*.py")) if path.name != Path(__file__).name]
    whole = "half a minute" if quick else "two minutes"
    print(f"{len(paths)} small programs, then a comparison with the standard library: some {whole} on two idle CPUs\n")
    for number, path in enumerate(paths, 1):
        print(f"[{number}/{len(paths)}] {path.name}: {subject(path)}", flush=True)
        needed = NEEDS.get(path.name)
        if needed is not None and importlib.util.find_spec(needed) is None:
            print(f"left out: it needs {needed} (pip install {needed})\n")
            continue
        subprocess.run([sys.executable, str(path)], check=True)
        print()

    print("python -m pyconc bench: some of it; alone it compares more, and with other libraries too", flush=True)
    rows = [word for words in ROWS for word in ("--row", words)]
    options = ["--quick", "--rounds", "1"] if quick else ["--rounds", "5"]
    # -I: what is installed, and not the sources in the folder that the demo is started from.
    command = [sys.executable, "-I", "-m", "pyconc", "bench", "threads", "processes", "workloads", *rows, *options]
    status = subprocess.run(command).returncode
    print(f"\nall of it took {time.monotonic() - started:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
