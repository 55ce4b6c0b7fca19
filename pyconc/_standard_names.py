"""A module that stands for one of the standard library: what it does not define itself is that one's."""

import sys

__all__ = ["names_of"]


def names_of(standard, stand_in):
    """Return the __getattr__ of the module whose __name__ is `stand_in`."""

    def __getattr__(name):
        try:
            return getattr(standard, name)
        except AttributeError:
            message = f"module {stand_in!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=sys.modules[stand_in]) from None

    return __getattr__
