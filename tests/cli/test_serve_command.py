"""specgen serve: what the command hands to the server."""

from pathlib import Path
from typing import Any

import pytest

from specgen.serve.worker.pool import PairKey
from tests.cli.command import invoke


def test_a_local_model_is_served_under_the_name_that_commands_send(
    checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[PairKey] = []

    class Server:
        def __init__(self, _: object, pair: PairKey, **options: object) -> None:
            served.append(pair)

        def run(self) -> bool:
            return True

    target = Path(checkpoints.target("llama"))
    monkeypatch.setattr("specgen.serve.server.Server", Server)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    monkeypatch.chdir(target.parent)
    for name in (f"./{target.name}", f"./{target.name}/", str(target)):
        assert invoke("serve", "-m", name, "-d", "none").code == 0
    assert {pair.target for pair in served} == {str(target)}
