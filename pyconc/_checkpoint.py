"""The function that the C core calls to let the interpreter do its housekeeping."""

__all__ = ["checkpoint"]


def checkpoint() -> None:
    """Do nothing, in bytecode: on the way the interpreter hands over the GIL if another thread waits for it."""
