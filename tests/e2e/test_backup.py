"""`revo backup` as a user types it, and as `docs/backup.md` shows it."""

from __future__ import annotations

import re
import subprocess

from tests.e2e.conftest import ROOT, Shell
from tests.e2e.test_up import ECHO, free_port


def test_the_backup_document_brings_a_mesh_back_whose_disk_was_lost_and_what_stands_is_left_alone(shell: Shell) -> None:
    shell.home = shell.folder / ".revo"
    shell.env["REVO_HOME"] = str(shell.home)
    text = f'[server]\nport = {free_port()}\nencrypted = true\n[actors.echo]\ntarget = "{ECHO}:Echo"\n'
    (shell.folder / "mesh.toml").write_text(text)
    shell.json("up", "--detach")
    done = shell.json("submit", "echo", "text=done-before", "--wait")["task_id"]
    shell.json("submit", "nobody", "text=waits-for-you")
    script, _ = re.findall(  # the second is for a cluster
        r"^```sh\n(.*?)^```$", (ROOT / "docs" / "backup.md").read_text(), re.MULTILINE | re.DOTALL
    )
    ran = subprocess.run(
        ["/bin/sh", "-e", "-c", script],
        cwd=shell.folder,
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for says in ("backup in copies/monday", "complete and undamaged", "restored from copies/monday"):
        assert says in ran.stdout
    for counted in ("1  waiting or running", "0  lost"):
        assert counted in ran.stdout
    shown = shell.json("tasks", "show", done)
    assert (shown["state"], shown["value"]) == ("succeeded", {"text": "done-before"})
    blocks = [path.read_bytes() for path in (shell.home / "nats").rglob("TASKS/msgs/*.blk")]
    assert blocks
    assert not any(b"waits-for-you" in block for block in blocks), "as encrypted as the mesh file says"
    refused = shell.revo("backup", "restore", "copies/monday")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    assert "TASKS, RESULTS, DEAD" in refused.stderr
