"""The pinned packages have no known vulnerability; needs pip-audit and a network."""

import json
import shutil
import subprocess

import pytest
from helpers.repository import ROOT


def test_no_pinned_package_has_a_known_vulnerability(tmp_path):
    tool, report = shutil.which("pip-audit"), tmp_path / "report.json"
    if tool is None:
        pytest.skip("pip-audit is not installed: `pip install pip-audit`, then run this test again where there is a network")
    command = [tool, "-r", ROOT / "requirements.txt", "--disable-pip", "--no-deps", "--progress-spinner", "off", "-f", "json", "-o", report]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if not report.exists():  # it writes no report if it fails itself
        pytest.skip(f"pip-audit could not ask for known vulnerabilities ({(done.stderr.strip().splitlines() or ['no output'])[-1][:200]})")
    packages = json.loads(report.read_text())["dependencies"]
    assert {p["name"]: [vulnerability["id"] for vulnerability in p["vulns"]] for p in packages if p.get("vulns")} == {}
    if unknown := [p["name"] for p in packages if "skip_reason" in p]:  # without the service, it reports nothing
        pytest.skip(f"pip-audit knows nothing of {len(unknown)} of {len(packages)} packages, as {unknown[0]}: run this test with a network")
