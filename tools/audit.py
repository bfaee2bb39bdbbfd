"""Says whether a package that Revo is installed with has a known vulnerability, and writes the bill of materials.

Asks the OSV database for every pin of `requirements/runtime.txt`. Exit status 0: none is known. 1: some are, each as
`package version: id, mended in ...`. 3: nobody could be asked, so nothing is known, which is said. The bill of
materials (CycloneDX) is written to `build/sbom.cdx.json` in any case.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "runtime.txt"
BILL = ROOT / "build" / "sbom.cdx.json"
NOT_DONE = 3


def main() -> int:
    """Write the bill, then ask."""
    write_bill()
    command = [sys.executable, "-m", "pip_audit", "-r", str(LOCK), "--disable-pip", "--require-hashes"]
    asked = [*command, "--vulnerability-service", "osv", "--progress-spinner", "off", "--format", "json"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return not_done("no answer within 120 s")
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return not_done(last[:300])
    bad = [
        f"{one['name']} {one['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none yet'}"
        for one in found
        for fault in one.get("vulns", [])
    ]
    unknown = [one["name"] for one in found if "vulns" not in one]
    for line in bad:
        print(line)
    if unknown and not bad:
        return not_done(f"nothing could be learnt of {', '.join(unknown)}")
    return 1 if bad else 0


def write_bill() -> None:
    """What Revo is installed with, by name, version and hash."""
    BILL.parent.mkdir(exist_ok=True)
    made = [sys.executable, "-m", "cyclonedx_py", "requirements", str(LOCK), "--output-reproducible"]
    subprocess.run([*made, "--of", "JSON", "-o", str(BILL)], check=True, capture_output=True, timeout=120)


def not_done(reason: str) -> int:
    """Say that nothing is known."""
    print(f"The packages were NOT audited for known vulnerabilities, for the database could not be asked: {reason}")
    print(f"Where there is a network, run: {Path(sys.executable).name} tools/audit.py")
    return NOT_DONE


if __name__ == "__main__":
    sys.exit(main())
