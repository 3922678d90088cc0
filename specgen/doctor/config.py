"""The user's settings and those of the project."""

from specgen.config import settings
from specgen.core.errors import SpecgenError
from specgen.doctor.finding import Finding, Verdict


def check_config() -> Finding:
    """Can they be read, and does specgen know all of them?"""
    try:
        made = settings.resolve().found
    except SpecgenError as error:
        return Finding("config", Verdict.FAIL, error.message, error.hint)
    files = [path for path in (settings.user_file(), settings.project_file()) if path and path.is_file()]
    where = " and ".join(map(str, files)) or "no file"
    return Finding("config", Verdict.OK, f"{len(made)} settings, from {where}; specgen config list shows them")
