"""Keys of classes of the standard library and of numpy: plain_key() asks for these when it knows of no other form."""

import datetime
import decimal
import fractions
import pathlib
import sys
import uuid

__all__ = ["library_key"]


def library_key(key):
    """Return a key of a more common class that equals this one, or its form, a list, as plain_key() does; or None."""
    kind = type(key)
    for base, form in _FORMS.items():
        if isinstance(key, base) and kind.__hash__ is base.__hash__ and kind.__eq__ is base.__eq__:
            return form(key)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(key, numpy.generic):
        common = key.item()
        is_same = not isinstance(common, numpy.generic) and hash(common) == hash(key) and common == key
        if is_same or common != common:
            return common
    return None


def _ratio(key):
    """Return the int or the float that a number equals, or else its ratio."""
    try:
        number, of = key.as_integer_ratio()
    except (OverflowError, ValueError):
        return float(key)  # infinite, or no number
    if of == 1:
        return number
    try:
        near = number / of
    except OverflowError:
        near = 0.0
    return near if near.as_integer_ratio() == (number, of) else ["ratio", number, of]


def _moment(key):
    offset = key.replace(fold=0).utcoffset()
    if offset is None:
        return ["datetime", key.replace(fold=0).isoformat()]
    if key.replace(fold=1).utcoffset() != offset:
        return None  # a time that there is twice, or not at all: it equals none of another zone
    return ["moment", (key.replace(tzinfo=None) - offset).isoformat()]


def _time(key):
    return ["time", key.replace(fold=0).isoformat()] if key.tzinfo is None else None


def _windows_path(key):
    return ["windows path", str(key).lower()]


def _posix_path(key):
    return ["path", str(key)]


_FORMS = {
    datetime.datetime: _moment,
    datetime.date: lambda key: ["date", key.toordinal()],
    datetime.time: _time,
    datetime.timedelta: lambda key: ["timedelta", key.days, key.seconds, key.microseconds],
    decimal.Decimal: _ratio,
    fractions.Fraction: _ratio,
    pathlib.PureWindowsPath: _windows_path,
    pathlib.PurePosixPath: _posix_path,
    range: lambda key: ["range", len(key), *key[:1], *((key.step,) if len(key) > 1 else ())],
    uuid.UUID: lambda key: ["uuid", key.int],
}
