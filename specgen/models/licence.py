"""What a model's card says about its licence."""

import re
from pathlib import Path

CARD = "README.md"
# As far as names of licences tell; the terms themselves are on the model's page.
_NON_COMMERCIAL = re.compile(r"\bnc\b|non-?(commercial|production)|research|academic|\b(mnpl|mrl)\b", re.IGNORECASE)


def read_licence(folder: Path) -> str | None:
    """`license` of the card's front matter, the lines between two `---`."""
    try:
        lines = (folder / CARD).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    end = lines.index("---", 1) if lines[:1] == ["---"] and "---" in lines[1:] else 0
    front = dict(line.split(":", 1) for line in lines[1:end] if ":" in line and not line.startswith((" ", "-")))
    name = front.get("license_name") or front.get("license") or ""
    return name.strip().strip("\"'") or None


def forbids_commerce(licence: str | None) -> bool:
    """Whether a licence of this name does not allow commercial use."""
    return licence is not None and _NON_COMMERCIAL.search(licence) is not None
