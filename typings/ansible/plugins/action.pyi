from typing import Any

class Task:
    args: dict[str, Any]
    check_mode: bool

class ActionBase:
    _task: Task
    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]: ...
    def _execute_module(
        self, *, module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]: ...
