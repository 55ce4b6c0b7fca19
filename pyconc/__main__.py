"""The command line.

python -m pyconc run script.py [argument ...]       or -m module, -c command, - in its place; -O, -W and -X before it
python -m pyconc run --trace FILE script.py         and write a timeline of what its executors do
python -m pyconc enable                             PYCONC=1 in the environment does the same for every program
python -m pyconc disable                            takes that back
python -m pyconc dump PID [--json] [--stacks]       what a program's executors do
python -m pyconc bench [group ...] [--rivals]       a comparison with the standard library, and with others
python -m pyconc top [PID]                          the same, in a terminal, each second anew
"""

from __future__ import annotations

import argparse
import io
import sys

import pyconc

__all__: list[str] = []

_PROG = "python -m pyconc"


def _read_pid(text: str) -> int:
    pid = int(text)
    if pid <= 0:
        raise ValueError
    return pid


_read_pid.__name__ = "PID"  # "invalid PID value"


def _print_what_can_be_printed() -> None:
    """Have a question mark stand for what the output has no sign for, such as that of micro where there is ASCII only.

    What `run` runs prints as it would without.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(_PROG, description="Native executors for asyncio and concurrent.futures.")
    parser.add_argument("--version", action="version", version=f"pyconc {pyconc.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser(
        "run",
        usage=f"{_PROG} run [-h] [--no-multiprocessing] [--trace FILE] [-O] [-W arg] [-X opt]\n"
        "       [other options of python] (script | - | -m module | -c command) [argument ...]",
        help="run a program with pyconc's executors in place of the standard ones",
        description="Run a program as `python` does, after pyconc.install(): wherever it, or a library that it uses, "
        "asks for concurrent.futures.ThreadPoolExecutor or ProcessPoolExecutor, for a loop's default executor, or for "
        "multiprocessing.Pool, it gets pyconc's.",
    )
    run.add_argument("--no-multiprocessing", action="store_true", help="leave multiprocessing.Pool alone")
    run.add_argument("--trace", metavar="FILE", help="write a timeline of what executors do, to look at in Perfetto")
    run.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help="a module to run, and its arguments")
    run.add_argument("-c", dest="program", nargs=argparse.REMAINDER, help="a program text, and its arguments")
    run.add_argument(
        "script", nargs=argparse.REMAINDER, help="a script to run, or - for standard input, and its arguments"
    )
    commands.add_parser(
        "enable",
        help="let PYCONC=1 in the environment do what `run` does",
        description="Write a .pth file into site-packages.  From then on each program that this interpreter starts "
        "with PYCONC=1 in its environment runs on pyconc's executors, as with `run`; PYCONC=no-multiprocessing leaves "
        "multiprocessing.Pool alone.",
    )
    commands.add_parser("disable", help="take `enable` back", description="Remove what `enable` has written.")
    dump = commands.add_parser(
        "dump",
        help="show what the executors of a program do",
        description="Show what the executors of a running program do, and their workers, from outside: the program "
        "is not disturbed.",
    )
    dump.add_argument("pid", type=_read_pid, metavar="PID", help="the program's process")
    dump.add_argument("--json", action="store_true", help="print it as JSON")
    dump.add_argument("--stacks", action="store_true", help="ask the workers by a signal where they are, too")
    top = commands.add_parser(
        "top",
        help="watch what the executors of a program do",
        description="Show in a terminal what `dump` shows, and look again each second. Keys: arrows select a worker, "
        "s asks it by a signal where it is, t writes a timeline of five seconds, q leaves.",
    )
    top.add_argument(
        "pid", type=_read_pid, metavar="PID", nargs="?", help="the program's process, if there are several"
    )
    commands.add_parser("bench", help="compare with the standard library, and with others", add_help=False)
    arguments = sys.argv[1:]
    if arguments[:1] != ["run"]:
        _print_what_can_be_printed()
    if arguments[:1] == ["bench"]:
        from pyconc._bench import command

        sys.exit(command.main(arguments[1:]))
    if arguments[:1] == ["run"]:
        from pyconc import _run

        try:
            interpreter_options, arguments[1:] = _run.split_interpreter_options(arguments[1:])
        except ValueError as error:
            run.error(str(error))
        if interpreter_options:
            _run.start_again(interpreter_options, arguments[1:])
    options = parser.parse_args(arguments)
    if options.command in ("enable", "disable"):
        from pyconc import _startup

        sys.exit(_startup.enable() if options.command == "enable" else _startup.disable())
    if options.command == "top":
        from pyconc import _top

        sys.exit(_top.main(options.pid))
    if options.command == "dump":
        from pyconc import _dump

        sys.exit(_dump.main(options.pid, as_json=options.json, stacks=options.stacks))
    target = [*(options.module or options.program or []), *options.script]
    if not target:
        run.error("a script, -, -m module or -c command is required")
    pyconc.uninstall()  # PYCONC in the environment may have asked for something else
    if options.trace is not None:
        from pyconc._trace import end_by_signals

        trace = pyconc.trace(options.trace)
        try:
            trace.start()  # its end is the program's
        except OSError as error:
            run.error(f"can't write {options.trace!r}: {error.strerror}")
        end_by_signals(trace)
    from pyconc import _run

    kind = "module" if options.module else "command" if options.program else "script"
    _run.run(kind, target[0], target[1:], multiprocessing=not options.no_multiprocessing)


if __name__ == "__main__":
    main()
