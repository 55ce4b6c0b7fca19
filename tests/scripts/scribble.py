"""A worker writes garbage into the memory that it shares with its parent: scribble.py SEED ROUNDS [SECONDS]

Each round makes an executor, has one of its workers write random words at random places of every mapping that it shares
with the parent, beside calls and arrays of others, and shuts the executor down.  Each future must come to an end of
some kind, the parent must neither die nor hang, and the next executor must be sound.
"""

import ctypes
import os
import random
import sys
import time

import pyconc

# Far more than a round takes on a busy machine; a hang is the fault that is looked for.
LIMIT = 60

# What wild writes look like: the values that stand there already, small steps away from them, and nonsense.
KINDS = ("bit", "step", "word", "zero", "ones", "copy")


def shared_mappings():
    """The addresses of what this process may write and shares with others, as (start, end)."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            place, rights, *_ = line.split(None, 5)
            if rights.startswith("rw-s") and "memfd:pyconc " in line:
                start, end = (int(number, 16) for number in place.split("-"))
                yield start, end


def resident_pages(start, end):
    """The pages of a mapping that have memory behind them, which a write does not add to."""
    page = os.sysconf("SC_PAGE_SIZE")
    count = min((end - start) // page, 1 << 16)
    seen = (ctypes.c_ubyte * count)()
    if ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(start), ctypes.c_size_t(count * page), seen) != 0:
        return []
    return [start + number * page for number in range(count) if seen[number] & 1]


def scribble(seed, writes):
    """Runs in a worker, on its own mappings."""
    random.seed(seed)
    pages = [page for start, end in shared_mappings() for page in resident_pages(start, end)]
    for _ in range(writes if pages else 0):
        word = ctypes.c_uint32.from_address(random.choice(pages) + 4 * random.randrange(1024))
        kind = random.choice(KINDS)
        if kind == "bit":
            word.value ^= 1 << random.randrange(32)
        elif kind == "step":
            word.value += random.choice([-64, -1, 1, 64])
        elif kind == "word":
            word.value = random.getrandbits(32)
        elif kind == "copy":
            word.value = ctypes.c_uint32.from_address(random.choice(pages) + 4 * random.randrange(1024)).value
        else:
            word.value = 0 if kind == "zero" else 0xFFFFFFFF
    return writes


def one_round(seed):
    chance = random.Random(seed)
    pool = pyconc.ProcessPoolExecutor(chance.choice([1, 2, 3]))
    pool.submit(int).result(LIMIT)
    views = [
        pool,
        pool.options(name="named"),
        pool.options(timeout=0.001, grace=0.01),
        pool.options(deadline=time.monotonic() + 0.02, grace=0.01),
        pool.options(on_cancel="interrupt", grace=0.01),
        pool.options(timeout=0.001, on_cancel="kill"),
    ]
    futures = []
    for number in range(chance.choice([1, 20, 200])):
        futures.append(chance.choice(views[:4]).submit(abs, -number))
        if number % 40 == 0:
            futures.append(chance.choice(views[2:4]).submit(time.sleep, 3600))
            futures.append(views[4].submit(time.sleep, 0.001))
            futures[-1].cancel()
        if number % 10 == 0:
            futures.append(pool.submit(bytes, bytearray(chance.choice([10, 100_000]))))
    futures.insert(len(futures) // 2, pool.submit(scribble, chance.random(), chance.choice([1, 10, 1000])))
    futures += [chance.choice(views).submit(abs, -number) for number in range(chance.choice([1, 200]))]
    for future in chance.sample(futures, chance.choice([0, len(futures) // 4])):
        future.cancel()
    pending = pyconc.wait(futures, LIMIT).not_done
    if pending:
        sys.exit(f"seed {seed}: {len(pending)} of {len(futures)} calls never ended")
    pool.shutdown()


def main():
    seed, rounds = int(sys.argv[1]), int(sys.argv[2])
    end = time.monotonic() + float(sys.argv[3]) if len(sys.argv) > 3 else None
    for number in range(seed, seed + rounds):
        print("seed", number, flush=True)
        one_round(number)
        with pyconc.ProcessPoolExecutor(1) as pool:
            assert pool.submit(abs, -1).result(LIMIT) == 1
        if end is not None and time.monotonic() > end:
            break
    print("sound", flush=True)


if __name__ == "__main__":
    main()
