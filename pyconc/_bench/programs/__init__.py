"""The programs of `python -m pyconc bench workloads`: what people have executors for, as they would write it.

None of them knows pyconc: workloads.py starts each once by `python` and once by `python -m pyconc run`, as a file, so
that they find each other beside themselves.  A program takes how much work to do as its last argument, does some of it
first, so that its pools have started, and ends by printing its figures, as meter.py says.
"""
