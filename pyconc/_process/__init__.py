"""Worker processes: private to pyconc; the public names are in the modules above."""

__all__: list[str] = []
