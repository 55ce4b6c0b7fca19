from typing import Any

__all__ = ["PyconcBackend", "install"]

PyconcBackend: Any

def install(make_default: bool = True) -> None: ...
