from collections.abc import Mapping
from typing import Any, NoReturn

class AnsibleModule:
    params: dict[str, Any]
    check_mode: bool
    run_command_environ_update: dict[str, str]
    def __init__(
        self, argument_spec: Mapping[str, Any], *, supports_check_mode: bool = False
    ) -> None: ...
    def run_command(
        self,
        args: list[str],
        *,
        check_rc: bool = False,
        data: str | None = None,
        environ_update: Mapping[str, str] | None = None,
    ) -> tuple[int, str, str]: ...
    def fail_json(self, msg: str, **kwargs: Any) -> NoReturn: ...
    def exit_json(self, **kwargs: Any) -> NoReturn: ...
    def warn(self, warning: str) -> None: ...
    def get_bin_path(self, arg: str) -> str | None: ...
