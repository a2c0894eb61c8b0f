"""The pinned packages have no flaw that is known: asked of pip-audit where it is installed and reaches the service that knows."""

import json
import shutil
import subprocess

import pytest
from helpers.repository import ROOT


def test_no_pinned_package_has_a_known_flaw(tmp_path):
    tool, told = shutil.which("pip-audit"), tmp_path / "found.json"
    if tool is None:
        pytest.skip("pip-audit is not installed: `pip install pip-audit`, then run this test again where there is a network")
    asked = [tool, "-r", ROOT / "requirements.txt", "--disable-pip", "--no-deps", "--progress-spinner", "off", "-f", "json", "-o", told]
    done = subprocess.run(list(map(str, asked)), capture_output=True, text=True)
    if not told.exists():  # it writes none where it failed itself
        pytest.skip(f"pip-audit could not ask for known flaws ({(done.stderr.strip().splitlines() or ['it said nothing'])[-1][:200]})")
    packages = json.loads(told.read_text())["dependencies"]
    assert {p["name"]: [flaw["id"] for flaw in p["vulns"]] for p in packages if p.get("vulns")} == {}
    if unknown := [p["name"] for p in packages if "skip_reason" in p]:  # where the service is not reached, it knows of no flaw either
        pytest.skip(f"pip-audit knows nothing of {len(unknown)} of {len(packages)} packages, as {unknown[0]}: run this test with a network")
