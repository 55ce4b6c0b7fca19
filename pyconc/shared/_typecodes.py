"""What numbers and arrays hold, by one letter as the modules array and struct have it."""

import importlib

__all__ = ["NAMES_OF_CTYPES", "TYPECODES", "typecode_or_type_of"]

TYPECODES = "cbBhHiIlLqQfd?"
# In the order of the typecodes.
NAMES_OF_CTYPES = "char byte ubyte short ushort int uint long ulong longlong ulonglong float double bool"


def _typecode_of(code):
    if not isinstance(code, str) or len(code) != 1 or code not in TYPECODES:
        raise TypeError(f"bad typecode {code!r}: it must be one of {', '.join(TYPECODES)}, u")
    return code


def typecode_or_type_of(given):
    """Return the typecode of a number or byte, or else the type of ctypes, which has none."""
    if isinstance(given, str):
        return _typecode_of(given) if given != "u" else importlib.import_module("ctypes").c_wchar
    code = getattr(given, "_type_", None)
    return code if isinstance(code, str) and code in TYPECODES else given
