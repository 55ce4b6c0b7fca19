"""What does each constant that tunes pyconc do to a program?

    python benchmarks/constants.py                  all of the table, in some 20 minutes
    python benchmarks/constants.py STALL_NS PROBES  these only
    python benchmarks/constants.py --rounds 9       for figures that are to be told apart better

For each constant the sources are copied as often as there are values to try, and a copy is built with each value in the
place of the one definition.  Then the copies take turns at a piece of work that shows the trade-off, in a new process
each time, and the medians are printed by value, with half the distance of the quartiles.  All figures are costs: less
is better.  The copies are thrown away.

What comes out belongs into the comment at the constant.  A constant that makes no difference can go.

A number with a name is in TABLE, or in FIXED with the reason why nothing is tried; tests/test_constants.py looks.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["FIXED", "ROOT", "TABLE", "WORK", "Constant", "main", "named_numbers"]

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(__file__).with_name("constants_work.py")


class Constant(NamedTuple):
    file: str
    name: str
    others: tuple[str, ...]  # the values to try beside its own, as the file would have them
    work: str  # a function of constants_work.py

    @property
    def key(self) -> str:
        return f"{Path(self.file).stem}.{self.name}"


TABLE = [
    # Calls in processes.
    Constant("csrc/processes/job_table.c", "STALL_NS", ("5000000", "500000000"), "stopped_worker"),
    Constant("pyconc/_process/supervisor.py", "_TASKS_A_WORKER", ("4", "128"), "calls"),
    Constant("pyconc/_process/supervisor.py", "_TASKS", ("64", "4096"), "calls"),
    Constant("csrc/processes/job_table.h", "JOB_TABLE_LOOK_NS", ("100000", "10000000"), "time_outs"),
    Constant("csrc/processes/job_table_stops.c", "TELL_NS", ("1000000", "200000000"), "time_outs"),
    Constant("csrc/processes/process_delivery.c", "DELIVER_NS", ("200000", "20000000"), "delivery"),
    Constant("csrc/processes/worker_run.c", "CHUNK_MAX_NS", ("2000000", "200000000"), "uneven_maps"),
    Constant("csrc/processes/worker_run.c", "MEASURE_NS", ("0", "100000000"), "measured_workers"),
    Constant("csrc/processes/map_feed.h", "MAP_CHUNKS_AHEAD", ("1", "2", "8"), "maps"),
    Constant("csrc/processes/map_feed.c", "TARGET_NS", ("1e5", "1e7"), "maps"),
    Constant("csrc/processes/map_feed.c", "LEAST_NS", ("1e4", "1e6"), "maps"),
    Constant("csrc/processes/map_feed.c", "SHARES", ("1", "16"), "maps"),
    Constant("csrc/processes/map_feed.c", "FEW_CALLS", ("1", "64"), "uneven_maps"),
    Constant("csrc/processes/map_feed.c", "GROWTH", ("8", "65536"), "uneven_maps"),
    Constant("csrc/processes/map_feed.c", "CUT_AT", ("16", "65536"), "long_map"),
    Constant("csrc/processes/map_results.c", "PATIENCE_NS", ("4000000", "400000000"), "uneven_maps"),
    # What is sent with them.
    Constant("csrc/base/scalars.h", "SCALARS_BYTES_MAX", ("16", "400"), "arguments"),
    Constant("csrc/base/scalars.c", "DEPTH_MAX", ("0", "16"), "arguments"),
    Constant("csrc/processes/callable_cache.h", "CALLABLES_MAX", ("64", "65536"), "many_callables"),
    Constant("csrc/processes/callable_cache.c", "CALLABLE_BYTES_MAX", ("1024", "262144"), "large_callables"),
    Constant("csrc/processes/large_strings.c", "LARGE_STRING_BYTES", ("(16 << 10)", "(256 << 10)"), "strings"),
    Constant("csrc/processes/large_strings.c", "LARGE_STRING_DEPTH", ("1", "8"), "nested_arguments"),
    Constant("csrc/processes/large_strings.c", "LARGE_STRING_ITEMS", ("1", "64"), "nested_arguments"),
    Constant("csrc/processes/large_strings.c", "LARGE_STRING_LOOKS", ("8", "512"), "nested_arguments"),
    Constant("csrc/processes/pickling.c", "SHARED_DEPTH", ("1", "8"), "nested_arguments"),
    Constant("csrc/processes/pickling.c", "SHARED_ITEMS", ("1", "64"), "nested_arguments"),
    Constant("csrc/processes/pickling.c", "IN_BAND_BYTES", ("64", "16384"), "buffers"),
    Constant("csrc/processes/region.c", "TRIM_BYTES", ("(1 << 20)", "(64 << 20)"), "transfers"),
    Constant("csrc/core/shm_arena.h", "SHM_SMALL_PAGES", ("4", "64"), "transfers"),
    Constant("csrc/core/shm_arena.c", "PROBES", ("1", "64"), "transfers"),
    Constant("csrc/core/shm_arena.c", "KEEP_BLOCKS", ("0", "16"), "transfers"),
    Constant("csrc/core/shm_arena.c", "KEEP_BYTES", ("0", "(UINT64_C(1) << 24)"), "transfers"),
    Constant("csrc/core/shm_arena.c", "KEEP_BLOCK_BYTES", ("(UINT64_C(1) << 20)",), "transfers"),
    Constant("csrc/core/shm_arena.c", "SLAB_BYTES", ("(UINT64_C(1) << 16)", "(UINT64_C(1) << 22)"), "transfers"),
    Constant("csrc/core/shm_arena.c", "LIMITED_BYTES", ("0", "(UINT64_C(1) << 30)"), "transfers"),
    Constant("csrc/core/shm_region.c", "STEP_BYTES", ("(UINT64_C(1) << 16)", "(UINT64_C(1) << 26)"), "transfers"),
    # Threads and loops.
    Constant("csrc/core/park.h", "PARK_SPIN_MAX_NS", ("5000", "500000"), "waits"),
    Constant("csrc/core/park.c", "SPIN_MIN_NS", ("0", "20000"), "waits"),
    Constant("csrc/core/park.c", "MOST_DOUBT", ("0", "16", "4096"), "waits"),
    Constant("csrc/core/park.c", "LOOKS", ("1", "512"), "waits"),
    Constant("csrc/base/gil.h", "GIL_PATIENCE_NS", ("0", "100000"), "waits"),
    Constant("csrc/base/state.h", "MODULE_CHECKPOINT_NS", ("10000", "5000000"), "calls_in_c"),
    Constant("csrc/threads/thread_worker.c", "END_SPINS", ("1", "40"), "short_pools"),
    Constant("csrc/threads/thread_job.c", "PAUSE_NS", ("100000", "20000000"), "time_outs_of_threads"),
    Constant("csrc/loops/loop_bridge.c", "DRAIN_MAX_NS", ("200000", "INT64_MAX"), "loops"),
    Constant("csrc/loops/loop_bridge.c", "DRAIN_LOOK", ("1", "4096"), "loops"),
    Constant("csrc/loops/loop_bridge.c", "RIDE_NS", ("1", "1000000", "1000000000"), "loops"),
    Constant("pyconc/_process/loop_worker.py", "_BATCH_MAX", ("16", "4096"), "coroutines"),
    Constant("pyconc/_process/loop_worker.py", "_BATCH_NS", ("100_000", "20_000_000"), "coroutines"),
    Constant("pyconc/coroutine_pool.py", "CONCURRENCY", ("16", "4096"), "coroutines"),
    Constant("pyconc/coroutine_pool.py", "STREAM_BUFFER", ("1", "8", "1024"), "streams"),
    # Shared data.
    Constant("csrc/core/shared_look.h", "SHARED_LOOK_TRIES", ("1", "16"), "looks"),
    Constant("csrc/core/shared_look.h", "SHARED_LOOK_BYTES", ("32", "4096"), "looks"),
    Constant("csrc/core/shared_look.c", "SPINS", ("1", "1024"), "looks"),
    Constant("csrc/core/shared_run.h", "SHARED_LOOK_PAYS", ("1", "4096"), "looks"),
    Constant("csrc/core/shared_run.c", "SPARE_PAUSE", ("1", "4096"), "growing_containers"),
    Constant("csrc/core/shared_dict.c", "PROBES", ("2", "1024"), "looks"),
    Constant("csrc/core/shared_dict.c", "TABLE_LEAST", ("1", "64"), "growing_containers"),
    Constant("csrc/core/shared_list.c", "TABLE_LEAST", ("1", "64"), "growing_containers"),
    Constant("csrc/core/shared_queue.c", "RING_LEAST", ("64", "16384"), "queues"),
    Constant("csrc/core/shared_queue.c", "KEPT_ORDER", ("0", "10"), "queues"),
    Constant("csrc/core/shared_heap_layout.h", "SWEEP_LEAST", ("1", "4096"), "growing_containers"),
    Constant("csrc/core/shared_heap_layout.h", "KEPT_MAPPINGS", ("1", "64"), "shared_arguments"),
    Constant("csrc/core/shared_heap_memory.c", "STEP_BYTES", ("(UINT64_C(1) << 16)",), "shared_slices"),
    Constant("csrc/core/shared_item.h", "SHARED_REFS_FEW", ("1", "32"), "containers_in_containers"),
    Constant("csrc/shared/shared_value.h", "SHARED_VALUES_FEW", ("1", "32"), "containers_in_containers"),
    Constant("csrc/shared/shared_array_type.c", "QUICK_BYTES", ("(1 << 14)", "(1 << 26)"), "shared_slices"),
    # Observation.
    Constant("csrc/base/trace.c", "RECENT_NAMES", ("1", "1024"), "traced_calls"),
    Constant("csrc/core/name_table.c", "FIRST_ROOM", ("2", "1024"), "traced_calls"),
    Constant("csrc/core/trace_log.c", "RELEASE_BYTES", ("(UINT64_C(1) << 14)", "(UINT64_C(1) << 26)"), "traced_calls"),
    Constant("pyconc/_timeline.py", "_BATCH", ("10", "100000"), "traced_calls"),
    Constant("pyconc/_trace.py", "_COMPRESSION", ("1", "9"), "traced_calls"),
    Constant("pyconc/_process/black_box.py", "_LOOK_SECONDS", ("0.00002", "0.005"), "time_outs"),
    Constant("pyconc/_process/process_tree.py", "_LOOK_SECONDS", ("0.00001", "0.005"), "killed_trees"),
    # Other roads to the same pools.
    Constant("pyconc/multiprocessing/pool.py", "_STRIDE", ("1", "8", "1024"), "pool_maps"),
    Constant("pyconc/_process/launcher.py", "_ENDING_LOOKS", ("0", "1000"), "short_process_pools"),
    Constant("pyconc/cluster/_dispatcher.py", "_AHEAD_SECONDS", ("0.001", "0.2"), "clusters"),
    Constant("pyconc/cluster/_dispatcher.py", "_MOST_AHEAD", ("64", "100_000"), "clusters"),
    Constant("pyconc/cluster/_pending.py", "_AT_A_TIME", ("16", "100_000"), "clusters"),
    Constant("pyconc/cluster/_node.py", "_MANY", ("1", "1024"), "clusters"),
    Constant("pyconc/cluster/_node.py", "_LINGER", ("0.0001", "0.02"), "clusters"),
]

# Why there is nothing to try: names by reason, each after its file's.
FIXED = {
    "formats, codes, bit patterns and counts that others follow from": """
        call_name.CALL_NAME_WORDS futex.WORD_OF_32_BITS job_ring_shared.CLAIM_BITS job_slot.JOB_SLOT_BYTES
        park.SPIN_PAYS_NS pool_view.POOL_VIEW_NAME_BYTES robust_lock.ONE_TURN robust_lock.TURNS_MARK
        shared_block.HAS_RUN shared_heap_cells.CELLS_PER_PAGE shared_heap_layout.FIRST_PROCESS
        shared_heap_layout.ROW_WORDS shared_heap_map.RUN_BITS shared_item.SHARED_ITEM_HEAD_BYTES
        shared_value.WORD_INT_MAX shm_arena.SHM_ARENA_CLASSES
        shm_arena.SHM_ARENA_BUCKETS thread_view.CELLS_MAX thread_view.FILE_BYTES thread_view.THREAD_VIEW_CELL
        thread_view.THREAD_VIEW_POOL_NAME thread_view.THREAD_VIEW_NOTE_BYTES trace.RECORD_EVENTS
        wire.BUFFER_ALIGNMENT wire.FORM_SHIFT worker.WORKER_CUT_OFF worker.WORKER_MEMORY_DAMAGED
        worker.WORKER_INTERRUPTED_IMPORT worker.WORKER_IDLED
        shared_dict_type.MARSHAL_VERSION thread_job.STOP_SIGNAL _log_levels._HEAD_BYTES _logs._PID_BYTES
        loop_worker._IS_EAGER pickling.PROTOCOL signals.STOP worker_main.INITIALIZER_FAILED
        worker_main.MEMORY_DAMAGED worker_main.INTERRUPTED_IMPORT worker_main.IDLED zygote._UNKNOWN
        thread_pool._CONTEXTS _refs._ALIGNED _dispatcher._RECALL_SECONDS job_ring_shared.RING_SLACK
        job_ring_shared.INBOX_SLACK
    """,
    "limits of the kernel, of the hardware, of a type or of the standard library": """
        pidfd.SYS_pidfd_send_signal pidfd.SYS_pidfd_open futex.SYS_futex_waitv
        quick_clock.COMPARE_NS quick_clock.NEAR_TICKS quick_clock.AGREE_SHIFT quick_clock.TICK_MIN quick_clock.TICK_MAX
        robust_lock.STEPS_MAX shm_region.SHM_PAGE shm_region.SHM_MAP_ALIGNMENT shared_extents.SHARED_UNIT_BYTES
        trace_log.HUGE_PAGE_BYTES
        trace.COARSE_NS executor.LONGEST_NS future.NESTED_MAX process_state.PART_BYTES chunks._MOST_CHUNK
        chunks._MOST_AHEAD chunks._EVERYTHING nursery._FDS_MAX supervisor._LONGEST_WAIT _logs._MESSAGE_BYTES
        _names._MOST _calls.MOST_BYTES _top_trace._TICK pool.CHILD_CONCURRENCY _top_trace._ROUNDING
    """,
    "the most that there may be: room that costs address space, or a guard against what does not happen": """
        callable_name.WRAPPED_MAX robust_lock.ROBUST_LOCKS_MAX shared_dict.SHARED_DICT_MAX shared_extents.SHARED_UNITS
        shared_extents.SHARED_ORDER_MAX shared_heap.SHARED_HEAP_CELLS shared_heap.SHARED_HEAP_PARTIES
        shared_heap.SHARED_HEAP_RESERVATIONS shared_holds.SHARED_HOLDS_CELLS shared_holds.SHARED_HOLDS_MAX
        shared_watch.STACK_BYTES shm_fork.WITNESS_BYTES shm_fork.WITNESSES_MAX shm_region.SHARE_MOST
        shm_region.SHARE_LEAST shm_region.HEAD_COPY_MOST thread_view.STEP_BYTES executor.EACH_MOST_ARGS
        callable_cache.CLOSURE_DEPTH_MAX process_queue_type.SLOTS_MAX thread_helping.NESTED_MAX thread_stack.FRAMES_MAX
        _log_levels._BYTES black_box._PART_BYTES black_box._NOTE_BYTES black_box._TEXT_BYTES black_box._LOWEST_FD
        _current_task._NOTE_LENGTH _calls._MOST_KNOWN _dispatcher._MESSAGE_BYTES _node._MESSAGE_BYTES
        supervisor._FALSE_STARTS server_sockets.LISTENERS_MAX
    """,
    "how long to wait for somebody who mostly answers long before, or is gone": """
        futex.FUTEX_STOP_NS shared_watch.SHARED_WATCH_GRACE_NS worker.KILL_NS gil.GIL_PATIENCE_END_NS
        thread_job.PAUSE_MAX_NS process_tree._STOP_SECONDS process_tree._MOST_SECONDS call_stopper._FIRST_REPEAT
        call_stopper._LAST_REPEAT call_stopper._END_SECONDS supervisor._STACK_SECONDS watched_worker.REPORT_SECONDS
        watched_worker._FORKSERVER_SECONDS zygote._LOOK_SECONDS zygote._LOOKS_MAX _logs._PATIENCE _shutdown.SPARE
        _thread_stacks._SECONDS _dispatcher._PATIENCE _dispatcher._LEAST_SECONDS _relay._LONGEST_READ _relay._LEASE
        _relay._PATIENCE black_box.ANSWER_SECONDS
    """,
    "what people see, or choose": """
        executor.GRACE_NS _progress._REST _top_trace.SECONDS _top_trace.STEP _executor._DEFAULT_OPTIONS
        _dump._TASK_WIDTH _dump._COLUMNS
    """,
}

# --- Definitions ------------------------------------------------------------------------------------------------------

NUMBER = re.compile(r"(?<![\w.])\d[\d_]*(?:\.\d+)?(?:e-?\d+)?")


def definitions(path: Path) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Each constant with a number that a file defines: its name, its value, and where that begins and ends."""
    head = r"#define (\w+) " if path.suffix in (".c", ".h") else r"(_?[A-Z][A-Z0-9_]+) = "
    comment = "//" if path.suffix in (".c", ".h") else "#"
    for match in re.finditer(rf"^{head}(.+?)(?: *{comment}.*)?$", path.read_text(), re.MULTILINE):
        numbers = [float(number.replace("_", "")) for number in NUMBER.findall(match[2])]
        if any(number not in (0, 1) for number in numbers) or "1.0" in match[2]:
            yield match[1], match[2], match.span(2)


def named_numbers() -> set[str]:
    """The constants of the package, each after its file's name."""
    files = [*ROOT.glob("csrc/**/*.[ch]"), *ROOT.glob("pyconc/**/*.py")]
    return {f"{path.stem}.{name}" for path in files if "_bench" not in path.parts for name, _, _ in definitions(path)}


def its_value(constant: Constant, tree: Path = ROOT) -> str:
    found = [value for name, value, _ in definitions(tree / constant.file) if name == constant.name]
    if len(found) != 1:
        sys.exit(f"{constant.file} defines {constant.name} {len(found)} times: the table in {__file__} is out of date")
    return found[0]


def set_value(constant: Constant, tree: Path, value: str) -> None:
    path = tree / constant.file
    [(begin, end)] = [span for name, _, span in definitions(path) if name == constant.name]
    text = path.read_text()
    path.write_text(text[:begin] + value + text[end:])


# --- Copies -----------------------------------------------------------------------------------------------------------

# Compiles what has changed; setup.py would compile everything.
MAKEFILE = """
.RECIPEPREFIX = >
objects := $(patsubst csrc/%.c,objects/%.o,$(shell find csrc -name '*.c'))
$(LIBRARY): $(objects)
> $(LINK) $^ -o $@ -pthread
objects/%.o: csrc/%.c
> @mkdir -p $(@D)
> $(COMPILE) -MMD -c $< -o $@
-include $(objects:.o=.d)
"""


def build(tree: Path) -> None:
    ask = sysconfig.get_config_var
    compiler = f"{ask('CC')} {ask('CFLAGS')} {ask('CCSHARED')} -std=c11 -fvisibility=hidden -pthread"
    variables = {
        "COMPILE": f"{compiler} -Icsrc -I{sysconfig.get_path('include')}",
        "LINK": ask("LDSHARED"),
        "LIBRARY": f"pyconc/_core{ask('EXT_SUFFIX')}",
    }
    command = ["make", "-s", f"-j{len(os.sched_getaffinity(0))}", "-f", "-"]
    given = [f"{name}={value}" for name, value in variables.items()]
    subprocess.run([*command, *given], input=MAKEFILE, cwd=tree, text=True, check=True)


def make_tree(folder: Path) -> Path:
    """A copy of the sources that is built."""
    tree = folder / "tree"
    leave = shutil.ignore_patterns("*.so", "__pycache__")
    for name in "csrc", "pyconc":
        shutil.copytree(ROOT / name, tree / name, ignore=leave)
    build(tree)
    return tree


def make_copy(tree: Path, constant: Constant, value: str, copy: Path) -> Path:
    shutil.copytree(tree, copy)
    set_value(constant, copy, value)
    build(copy)
    return copy


# --- Figures ----------------------------------------------------------------------------------------------------------


def measure(work: str, copy: Path) -> dict[str, float]:
    """The figures of a piece of work, which a process of its own does with a copy."""
    environment = os.environ | {"PYTHONPATH": str(copy)}
    command = [sys.executable, str(WORK), work, str(copy)]
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, cwd="/", check=True, timeout=100)
    return json.loads(finished.stdout)


def show(constant: Constant, tree: Path, rounds: int) -> None:
    own = its_value(constant, tree)
    values = [own, *constant.others]
    with tempfile.TemporaryDirectory(dir=tree.parent) as folder:
        copies = [make_copy(tree, constant, value, Path(folder, str(i))) for i, value in enumerate(values)]
        figures = [[] for _ in copies]
        for number in range(rounds):
            for turn in range(len(copies)):
                which = (number + turn) % len(copies)
                figures[which].append(measure(constant.work, copies[which]))
    names = list(figures[0][0])
    print(f"\n{constant.name} in {constant.file}, by {constant.work}")
    print(f"{'':>24}", *(f"{name:>22}" for name in names))
    for value, found in zip(values, figures, strict=True):
        columns = [[each[name] for each in found] for name in names]
        mark = f"{value}{' (now)' if value is own else ''}"
        print(f"{mark:>24}", *(f"{median_and_spread(column):>22}" for column in columns), flush=True)


def median_and_spread(figures: list[float]) -> str:
    if len(figures) == 1:
        return f"{figures[0]:.3g}"
    low, middle, high = statistics.quantiles(figures, n=4, method="inclusive")
    return f"{middle:.3g} ± {(high - low) / 2:.2g}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a constant; all of them if none is named")
    parser.add_argument("--rounds", type=int, default=3, help="how often each value has its turn (%(default)s)")
    options = parser.parse_args(arguments)
    chosen = [each for each in TABLE if not options.names or each.name in options.names]
    for name in options.names:
        if name not in [each.name for each in chosen]:
            parser.error(f"the table has no {name}")
    for constant in chosen:
        its_value(constant)  # before minutes of work
    failed = []
    with tempfile.TemporaryDirectory(prefix="pyconc-constants-") as folder:
        tree = make_tree(Path(folder))
        for constant in chosen:
            try:
                show(constant, tree, options.rounds)
            except subprocess.SubprocessError as error:  # the others are worth their minutes all the same
                print(error, file=sys.stderr)
                failed.append(constant.name)
    if failed:
        sys.exit(f"\nleft out: {', '.join(failed)}")


if __name__ == "__main__":
    main()
