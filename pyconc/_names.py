"""The names of executors, and those that ps and top show of their threads and processes."""

__all__ = ["check_name", "short_name"]

# How much of a name the kernel keeps, in bytes.
_MOST = 15


def check_name(name: object) -> None:
    """Raise TypeError for a name= that is no str; None: there is none."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")


def short_name(name: "str | None", suffix: str) -> str:
    """Return what the kernel is to call a thread: as much of an executor's name as fits before the suffix.

    name: as the program has given it; if it has not, those of pyconc are known by "pyconc".
    """
    full = (name or "pyconc") + suffix
    if len(full) <= _MOST and full.isascii() and "\0" not in full:
        return full
    room = _MOST - len(suffix)
    # A lone surrogate, as os.fsdecode() makes, has no UTF-8.
    return (name or "pyconc").encode(errors="replace")[:room].decode(errors="ignore").replace("\0", "?") + suffix
