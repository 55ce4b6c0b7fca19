"""black over many files, in two processes, which it starts by itself: copies of this folder's, with shorter lines.

black_files.py FILES
"""

import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

import meter

WORKERS = "2"


def main(files):
    sources = sorted(Path(__file__).parent.glob("*.py"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BLACK_CACHE_DIR"] = folder
        import black  # it reads the variable when it is imported

        for number, source in zip(range(files), itertools.cycle(sources)):
            Path(folder, f"{number}_{source.name}").write_text(source.read_text())
        started = time.perf_counter()
        black.main(["--quiet", "--line-length=60", "--workers", WORKERS, folder], standalone_mode=False)
        meter.say(time=(time.perf_counter() - started) / files * 1e3)


if __name__ == "__main__":
    main(int(sys.argv[1]))
