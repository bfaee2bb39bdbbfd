"""The demo: real work, a real kill, nothing lost, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

from tests.e2e.conftest import BIN, ROOT, Shell, alive, children
from tests.eventually import eventually


def left_behind(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def test_the_demo_loses_nothing_although_a_replica_is_killed(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    done = shell.revo("demo", "--files", "60", "--output", "json", timeout=100, TMPDIR=str(tmp_path / "tmp"))
    story = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert story["lost"] == 0
    assert story["redelivered"] >= 1
    assert story["equal_to_direct"]
    assert story["remembered"], "each finding is in shared memory, once"
    assert story["kept"] == {"files": 60, "by_both": 15, "contradicted": 0}
    assert (story["files"], story["guarded"], story["summed_up"]) == (60, 15, 6)
    assert (story["survey"]["files"], story["survey"]["equal_to_direct"]) == (12, True)
    assert story["survey"]["deliveries"] > 1, "its worker was killed in the middle of it"
    assert story["survey"]["repeated"] <= 1, "only the file that it was at is reviewed again"
    counted = {"accepted": 83, "ended": 83, "waiting": 0, "lost": 0, "limbo": 0, "doubled": 0, "unburied": 0}
    assert story["audit"].items() >= counted.items()
    assert story["hopeless"] == "expired"
    assert sum(story["by_replica"].values()) == 82
    agents = {"code-analyst", "security-guardian", "revo-bridge"}
    assert {name.rpartition("-")[0] for name in story["by_replica"]} == agents
    assert story["guest"].startswith("summarizer-"), "met by the bridge"
    assert story["answered"] == 6
    assert re.match(r"\d+ findings? in \d+ lines\.", story["answer"]), "by a prompt"
    assert 0 < story["noticed_s"] < 4.0 + 1.0, "two heartbeats, and a busy machine"
    assert story["successor"].startswith("code-analyst-")
    assert story["successor"] != story["killed"]
    assert {"process code_review", "process code_survey"} & {span["name"] for span in story["trace"]}
    assert left_behind(tmp_path / "tmp") == []
    assert not shell.home.exists()


def test_the_demo_reviews_the_tree_that_is_named_reports_files_that_fail_and_needs_no_guest(
    shell: Shell, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(40):
        (tree / f"m{n}.py").write_text("import os\n" * (n + 1))
    (tree / "broken.py").write_text("def f(:\n")
    for package in ("bus", "actors", "revo"):  # as it is installed: without the examples
        (tmp_path / package).symlink_to(ROOT / package)
    done = shell.revo("demo", "--output", "json", timeout=100, DEMO_PATH=str(tree), PYTHONPATH=str(tmp_path))
    story = json.loads(done.stdout)
    assert story["failed"] == {"not_parseable": 2}, "the broken one is among those for the guardian, too"
    assert story["equal_to_direct"]
    assert story["lost"] == 0
    assert (story["summed_up"], story["guest"]) == (0, "")
    assert story["answer"]


async def test_ctrl_c_leaves_no_process_and_no_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [str(BIN / "revo"), "demo"],
        cwd=shell.folder,
        env={**shell.env, "TMPDIR": str(tmp_path / "tmp"), "DEMO_PATH": str(ROOT / "bus")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        # In the middle of the work: a replica was killed and another one has taken its place.
        await eventually(lambda: len(children(process.pid)) >= 10, timeout=20)
        first = children(process.pid)
        await eventually(lambda: set(children(process.pid)) - set(first), timeout=20)
        family = children(process.pid)
        family += [tool for child in family for tool in children(child)]
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    await eventually(lambda: not any(alive(pid) for pid in family))
    assert left_behind(tmp_path / "tmp") == []
