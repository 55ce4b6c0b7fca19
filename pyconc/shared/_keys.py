"""The keys of a shared Dict: a form of each that is the same in all processes, and for all keys that are equal."""

import enum
import importlib
import marshal
import math
import operator
import types

__all__ = ["plain_key"]

# The classes of which a key is taken for what it is, also in a class of its own that leaves hash and == alone.
_KEY_CLASSES = (str, bytes, int, float, complex, tuple, frozenset)


def plain_key(key):
    """Return what is the same for all keys that equal this one, and what marshal writes the same in all processes.

    That is an int for each number that is one, and for another its only form; a tuple of the plain forms in a tuple;
    and for what marshal does not write, or not in one way, a list, which no key has otherwise.

    Of plain scalars, and of a tuple of them, shared_dict_type.c makes the same by itself.
    """
    kind = type(key)
    for base in _KEY_CLASSES:
        if kind is base or (isinstance(key, base) and kind.__hash__ is base.__hash__ and kind.__eq__ is base.__eq__):
            return _PLAIN_FORMS[base](key)
    if key is None or key is ...:
        return key
    if isinstance(key, enum.Enum) and kind.__hash__ is enum.Enum.__hash__ and kind.__eq__ is object.__eq__:
        return ["enum", *_place(kind), key.name]
    if isinstance(key, (type, types.FunctionType)) and kind.__hash__ is object.__hash__:
        return ["named", *_place(key)]
    hash(key)  # which may be the error that a dict raises
    form = importlib.import_module("pyconc.shared._library_keys").library_key(key)
    if form is None:
        raise TypeError(
            "a key of a shared Dict is a str, bytes, number, None, date, time, path, range, UUID, class, function or "
            f"member of an Enum, or a tuple or frozenset of them, and no {kind.__name__}, which has no form that is "
            "the same in all processes"
        )
    return form if type(form) is list else plain_key(form)


def _place(named):
    """Return the module and the name of a class or function; a process that is started anew has a main program, too."""
    module = named.__module__
    return "__main__" if module == "__mp_main__" else module, named.__qualname__


def _plain_float(key):
    if key != key:
        return math.nan
    return int(key) if key.is_integer() else float.__float__(key)


def _plain_complex(key):
    # Adding 0.0 makes -0.0 that, which it equals.
    return complex(key.real + 0.0, key.imag + 0.0) if key.imag else _plain_float(key.real)


def _plain_tuple(key):
    plain = tuple(map(plain_key, tuple.__iter__(key)))
    return key if type(key) is tuple and all(map(operator.is_, plain, key)) else plain


_PLAIN_FORMS = {
    str: str.__str__,
    bytes: lambda key: bytes.__getitem__(key, slice(None)),
    int: int.__int__,
    float: _plain_float,
    complex: _plain_complex,
    tuple: _plain_tuple,
    frozenset: lambda key: sorted(marshal.dumps(plain_key(item), 2) for item in frozenset.__iter__(key)),
}
