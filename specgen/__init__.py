"""specgen: local speculative text generation.

`from specgen import Session` is the public interface; it is resolved on first use (PEP 562), so that
`import specgen` and `specgen --help` load no torch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Session", "__version__"]

if TYPE_CHECKING:
    from specgen.session.session import Session


def __getattr__(name: str) -> Any:
    if name == "Session":
        from specgen.session.session import Session

        return Session
    raise AttributeError(f"module 'specgen' has no attribute {name!r}")
