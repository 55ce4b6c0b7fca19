"""Runs the examples beside this file, then compares pyconc with the standard library on this machine."""

import argparse
import importlib.util
import subprocess
import sys
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
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="hardly any work: the figures mean nothing then")
    quick = parser.parse_args().quick

    for path in sorted(HERE.glob("*.py")):
        if path.name == Path(__file__).name:
            continue
        needed = NEEDS.get(path.name)
        if needed is not None and importlib.util.find_spec(needed) is None:
            print(f"{path.name} is left out: it needs {needed} (pip install {needed})\n")
            continue
        print(path.name, flush=True)
        subprocess.run([sys.executable, str(path)], check=True)
        print()

    print("python -m pyconc bench: some of it; alone it compares more, and with other libraries too", flush=True)
    rows = [word for words in ROWS for word in ("--row", words)]
    options = ["--quick", "--rounds", "1"] if quick else ["--rounds", "5"]
    # -I: what is installed, and not the sources in the folder that the demo is started from.
    command = [sys.executable, "-I", "-m", "pyconc", "bench", "threads", "processes", *rows, *options]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
