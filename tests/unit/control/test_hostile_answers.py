"""What a host's module answers, taken by Ansible with this project's settings: results, no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.process

MODULE = """#!/usr/bin/python
import json
print(json.dumps({{"changed": False, "ansible_facts": dict.fromkeys({names!r}, "the host's")}}))
"""


@pytest.mark.parametrize("strategy", ["linear", "mitogen_linear"])
def test_a_hosts_answer_overrules_no_variable_of_the_controllers(
    tmp_path: Path, repository: Path, strategy: str
) -> None:
    """The action `sekisho_guard` starts ``guard_ssh`` here: a role's default, as most are."""
    defaults: dict[str, object] = {}
    for path in sorted((repository / "playbooks/roles").glob("*/defaults/main.yml")):
        defaults |= yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    assert {"guard_ssh", "deb_checkout", "policy_rendered"} <= set(defaults)
    names = [*defaults, "inventory_dir", "inventory_hostname", "in_the_inventory"]
    role = tmp_path / "roles/tried"
    for folder in ("defaults", "tasks", "library"):
        (role / folder).mkdir(parents=True)
    (role / "defaults/main.yml").write_text(json.dumps(dict.fromkeys(defaults, "ours")))
    (role / "library/answers.py").write_text(MODULE.format(names=names))
    asked = {"msg": "{{ query('vars', *names) | to_json }}"}
    tasks = [{"answers": {}}, {"ansible.builtin.debug": asked, "vars": {"names": names}}]
    (role / "tasks/main.yml").write_text(json.dumps(tasks))
    (tmp_path / "play.yml").write_text(json.dumps([
        {"hosts": "all", "gather_facts": False, "roles": ["tried"]}
    ]))  # fmt: skip
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"one": {
        "ansible_connection": "local", "ansible_become": False, "in_the_inventory": "ours",
        "ansible_python_interpreter": sys.executable,
    }}}}))  # fmt: skip
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(tmp_path / "hosts.yml"),
         str(tmp_path / "play.yml")],
        cwd=repository, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "ANSIBLE_STRATEGY": strategy,
             "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp"), "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ours" in done.stdout
    assert "the host's" not in done.stdout
