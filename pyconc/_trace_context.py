"""context=["opentelemetry"]: what OpenTelemetry propagates, such as the current span, goes with calls to processes.

It behaves as a ContextVar whose value can be pickled: what the program's propagators write into the headers of a
request.
"""

from opentelemetry.context import Context, attach
from opentelemetry.propagate import extract, inject

__all__ = ["propagated"]


class _Propagated:
    def get(self, default=None):
        """Return what is propagated from here; never the default, so that a worker has nothing of another call's."""
        headers = {}
        inject(headers)
        return headers

    def set(self, headers):
        """Have it as what is current in this context, and nothing else."""
        attach(extract(headers, context=Context()))


propagated = _Propagated()
