from typing import Literal

class TaskTimeout(TimeoutError):
    task_name: str | None
    timeout: float | None
    deadline: float | None
    ran_for: float | None
    stack: str | None
    stopped: Literal["raised", "returned", "killed"] | None
    def __init__(
        self,
        message: str,
        *,
        task_name: str | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        ran_for: float | None = None,
        stack: str | None = None,
        stopped: Literal["raised", "returned", "killed"] | None = None,
    ) -> None: ...
