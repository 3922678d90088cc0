"""The script that proves the loop on a GPU runs on any device with --quick."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "docs" / "bench" / "gpu.py"


def test_its_models_answer_alike_with_every_draft(tmp_path: Path) -> None:
    written = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--json", str(written), "--parts", "products", "exact", "speed"]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    figures = json.loads(written.read_text())
    assert not [name for name in figures if name.endswith("_failed")], figures
    exact = {name: value for name, value in figures.items() if name.startswith("exact_")}
    assert len(exact) == 8
    assert all(value.startswith("4 of 4 identical") for value in exact.values()), exact
    assert "acceptance rate 0." in exact["exact_bfloat16_k=4"], "its draft guesses well"
    assert figures["draft_k3"]["same_text"]
    assert figures["memory_plan"]["total"] > 0
    assert figures["profile_ms_a_pass"]
    assert figures["any_width_text"] == "4 of 4 identical to plain decoding at k=3"
