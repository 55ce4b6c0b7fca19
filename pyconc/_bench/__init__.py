"""The comparison of `python -m pyconc bench`, of `make bench` and of `make demo`: one set of workloads for all three.

A group is a module with rows: threads, processes, data, coroutines, deadlines, shared, workloads, cluster, flood and
neighbours.
The first line of its docstring is the question that it answers.  make_rows(options) and make_contests(options) give
what is measured, facts() what else must be known of the environment, ROUNDS says how often, and BASELINE, if there is
one, what stands beside pyconc in place of the standard library.

command.py reads the command line and has the rows measured, by harness.py; what comes out is a report, one plain
dictionary, which is the JSON file, and which table.py, charts.py and page.py show.  Nothing imports this package but
`python -m pyconc bench`.
"""

__all__ = []
