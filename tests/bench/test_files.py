"""Reports written and read back."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from specgen.bench.files import choose_format, read_report, render_report, settings_of
from specgen.bench.report import roofline
from specgen.bench.roofline import PassTimes
from specgen.bench.settings import BenchSettings, Format
from specgen.core.errors import BadFile, UsageError
from tests.bench.fake_runs import FakeContender, measurement, run, whole_report

HOSTILE = "chat </script><b>|"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def report() -> dict[str, Any]:
    contenders = [FakeContender("plain", []), FakeContender("model", [])]
    runs = [
        run(name, f"{category}{index}", measurement(speed + index, accepted=accepted), category=category)
        for category in (HOSTILE, "code")
        for index in range(3)
        for name, speed, accepted in (("plain", 10, 0), ("model", 25, 2))
    ]
    made = whole_report(contenders, runs)
    made["roofline"] = roofline(30e9, {"target": PassTimes(1_500_000_000, 256, {1: 0.055, 8: 0.066})})
    return made


@pytest.mark.parametrize("form", [Format.JSON, Format.JSONL, Format.HTML])
def test_all_of_a_report_comes_back(report: dict[str, Any], form: Format, tmp_path: Path) -> None:
    path = tmp_path / f"report.{form}"
    path.write_text(render_report(report, form), encoding="utf-8")
    assert read_report(path) == report


@pytest.mark.parametrize("form", [Format.CSV, Format.MD])
def test_every_form_carries_what_it_takes_to_run_it_again(report: dict[str, Any], form: Format, tmp_path: Path) -> None:
    path = tmp_path / f"report.{form}"
    path.write_text(render_report(report, form), encoding="utf-8")
    again = read_report(path)
    assert {name: again[name] for name in ("machine", "target", "settings")} == {
        name: report[name] for name in ("machine", "target", "settings")
    }
    assert settings_of(again, path) == BenchSettings("org/big@0123456789abcdef")


def test_csv_has_a_row_a_contender_and_category(report: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(render_report(report, Format.CSV))))
    assert [(row["category"], row["contender"]) for row in rows][:3] == [
        ("overall", "plain"),
        ("overall", "model"),
        (HOSTILE, "plain"),
    ]
    assert float(rows[1]["speed_up"]) == report["overall"]["model"]["speed_up"]


def test_jsonl_has_a_line_a_run(report: dict[str, Any]) -> None:
    first, *runs = render_report(report, Format.JSONL).splitlines()
    assert "runs" not in json.loads(first)
    assert [json.loads(line) for line in runs] == report["runs"]


def test_no_name_breaks_a_table_in_markdown(report: dict[str, Any]) -> None:
    text = render_report(report, Format.MD)
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table}) == 1


def test_the_page_needs_nothing_else(report: dict[str, Any]) -> None:
    page = render_report(report, Format.HTML)
    assert page.count("<svg") == 3
    assert page.count("<script") == page.count("</script>") == 1
    assert "<b>" not in page
    assert not re.search(r"(?:src|href)=[\"'](?!#)", page), "it would load something"
    assert "@import" not in page


@pytest.mark.skipif(BROWSER is None, reason="no browser here")
def test_a_browser_shows_the_page(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render_report(report, Format.HTML), encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1000,2000", f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "report.html").as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    from matplotlib.image import imread

    pixels = imread(tmp_path / "page.png")[..., :3]
    assert pixels.shape[:2] == (2000, 1000)
    coloured = (pixels.max(axis=-1) - pixels.min(axis=-1) > 0.3).mean()
    assert coloured > 0.01, "bars and lines have colours"


@pytest.mark.parametrize(
    ("asked", "file", "chosen"),
    [
        (None, None, "table"),
        (None, "a.csv", "csv"),
        (None, "a.JSON", "json"),
        ("md", "a.txt", "md"),
        (None, "a", "table"),
    ],
)
def test_the_format_is_asked_for_or_follows_from_the_file(asked: str | None, file: str | None, chosen: str) -> None:
    assert choose_format(Format(asked) if asked else None, Path(file) if file else None) == chosen


def test_a_format_that_cannot_be_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="has an unknown ending"):
        choose_format(None, Path("a.pdf"))
    monkeypatch.setattr("specgen.bench.files.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="matplotlib"):
        choose_format(None, Path("a.html"))


@pytest.mark.parametrize("text", ["", "{}", "hello", "[1]", '{"format": 1}', "category,a\n", "# specgen bench\n"])
def test_what_is_no_report_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(BadFile, match=r"report\.json is "):
        read_report(path)
    with pytest.raises(BadFile, match="cannot read"):
        read_report(tmp_path / "none")
