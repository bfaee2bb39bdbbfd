"""Says whether a package that Revo is installed with has a known vulnerability, and writes the bill of materials.

Asks the OSV database for every pin of `requirements/runtime.txt`. Exit status 0: none is known. 1: some are, each as
`package version: id, mended in ...`. 3: nobody could be asked, so nothing is known, which is said. The bill of
materials (CycloneDX) is written to `build/sbom.cdx.json` in any case.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

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
    """What Revo is installed with, by name, version and hashes."""
    bill = Bom()
    bill.metadata.component = root = Component(name="revo-mesh", type=ComponentType.APPLICATION)
    for name, version, hashes in pins(LOCK.read_text(encoding="utf-8")):
        purl = PackageURL("pypi", name=name, version=version)
        found = [HashType(alg=HashAlgorithm.SHA_256, content=one) for one in hashes]
        part = Component(name=name, version=version, purl=purl, bom_ref=str(purl), hashes=found)
        bill.components.add(part)
        bill.register_dependency(root, [part])
    BILL.parent.mkdir(exist_ok=True)
    make_outputter(bill, OutputFormat.JSON, SchemaVersion.V1_6).output_to_file(
        str(BILL), allow_overwrite=True, indent=1
    )


def pins(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Name, version and hashes of every pin of a lock."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        pin = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line)
        if pin:
            yield pin[1], pin[2], re.findall(r"--hash=sha256:([0-9a-f]{64})", line)


def not_done(reason: str) -> int:
    """Say that nothing is known."""
    print(f"The packages were NOT audited for known vulnerabilities, for the database could not be asked: {reason}")
    print(f"Where there is a network, run: {Path(sys.executable).name} tools/audit.py")
    return NOT_DONE


if __name__ == "__main__":
    sys.exit(main())
