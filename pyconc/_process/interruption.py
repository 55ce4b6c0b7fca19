"""Exceptions of signal handlers, told from those of the code that they have interrupted."""

__all__ = ["call_late", "is_from_handler"]


def is_from_handler(error):
    """Whether an exception that code of the program let escape came from a signal handler that interrupted this code.

    The interpreter calls a handler with the frame that it interrupts: the traceback has a frame whose arguments include
    the frame that called it.  One that had to wait, see signals.py, is called by call_late().
    """
    if isinstance(error, KeyboardInterrupt):
        return True  # Python's own handler has no frame
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code is call_late.__code__ or (frame.f_back is not None and _has_local(frame, frame.f_back)):
            return True
        traceback = traceback.tb_next
    return False


def _has_local(frame, value):
    names = frame.f_code.co_varnames  # a module has none: its variables are other threads' as well
    variables = frame.f_locals if names else {}
    for name in names:
        local = variables.get(name)
        if local is value or (type(local) is tuple and any(item is value for item in local)):
            return True
    return False


def call_late(handler, number, frame):
    """Call a signal's handler when the frame that it interrupts, or would have, may have ended."""
    handler(number, frame)
