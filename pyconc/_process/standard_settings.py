"""The standard class's private names that say how its workers are made, for programs that set them."""

__all__ = ["Setting"]


class Setting:
    """Such a name of an executor: it may be set until something is submitted, and raises AttributeError afterwards.

    change(plan, value) returns the executor's plan with this value in it; without it, the name may not be set at all.
    The executor's own __init__ sets the name behind this class's back, in vars().
    """

    def __init__(self, change=None):
        self._change = change

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, executor, owner=None):
        if executor is None:
            return self
        try:
            return vars(executor)[self._name]
        except KeyError:
            raise AttributeError(f"{type(executor).__name__!r} object has no attribute {self._name!r}") from None

    def __set__(self, executor, value):
        attributes = vars(executor)
        if "_plan" in attributes and value is not attributes[self._name]:
            if self._change is None:
                raise AttributeError(f"{self._name} of pyconc's executor cannot be changed")
            if executor._opened is not None:
                raise AttributeError(f"{self._name} of pyconc's executor cannot be changed once a task was submitted")
            executor._adopt(self._change(executor._plan, value))
        attributes[self._name] = value
