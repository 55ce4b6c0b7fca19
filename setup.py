"""Builds pyconc._core.  Everything else about the package is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildCore(build_ext):
    """Says in one sentence what is missing, instead of letting the compiler say it in a hundred, and uses all CPUs."""

    def build_extensions(self):
        if not sys.platform.startswith("linux") or sys.implementation.name != "cpython":
            sys.exit("pyconc runs on Linux with CPython only.")
        compiler = self.compiler.compiler
        if shutil.which(compiler[0]) is None:
            sys.exit(f"pyconc needs the C compiler {compiler[0]!r}: install it (Debian: apt install gcc libc6-dev).")
        if not any(os.path.exists(os.path.join(folder, "Python.h")) for folder in self.include_dirs):
            python = f"python{sys.version_info.major}.{sys.version_info.minor}"
            sys.exit(f"pyconc needs Python.h of {python}: install its headers (Debian: apt install {python}-dev).")
        includes = [f"-I{folder}" for folder in self.include_dirs]
        probe = subprocess.run(
            [*compiler, "-std=c11", *includes, "-fsyntax-only", "-x", "c", "-"],
            input="#include <Python.h>\n#include <stdatomic.h>\n#include <linux/futex.h>\n",
            capture_output=True,
            text=True,
        )
        if probe.returncode != 0:
            complaint = next((line for line in probe.stderr.splitlines() if "error" in line), "no error was named")
            sys.exit(f"pyconc cannot be compiled here (Debian: apt install gcc libc6-dev): {complaint}")
        self.compile_side_by_side()
        super().build_extensions()

    def compile_side_by_side(self):
        """Have the files of an extension compiled as many at once as there are CPUs; setuptools takes one by one."""
        compile_all, compile_one = self.compiler.compile, self.compiler._compile

        def compile_at_once(*args, **kwargs):
            pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
            started = []
            self.compiler._compile = lambda *file: started.append(pool.submit(compile_one, *file))
            try:
                objects = compile_all(*args, **kwargs)
                for future in started:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)  # after an error, what has begun ends
            return objects

        self.compiler.compile = compile_at_once


core = Extension(
    "pyconc._core",
    sources=sorted(glob("csrc/**/*.c", recursive=True)),
    depends=sorted(glob("csrc/**/*.h", recursive=True)),
    include_dirs=["csrc"],
    extra_compile_args=["-std=c11", "-fvisibility=hidden", "-pthread"],
    extra_link_args=["-pthread"],
)

# Builds for several interpreters may run side by side from one tree, so each has folders of its own, and nothing of an
# earlier build finds its way into a later wheel.  Only an sdist needs its .egg-info beside the sources.
with tempfile.TemporaryDirectory(prefix="pyconc-build-") as scratch:
    options = {"build": {"build_base": scratch}}
    if "sdist" not in sys.argv:
        options["egg_info"] = {"egg_base": scratch}
    setup(ext_modules=[core], cmdclass={"build_ext": BuildCore}, options=options)
