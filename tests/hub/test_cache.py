"""List and delete models in the Hugging Face cache."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from specgen.checkpoint.checkpoint import fetch_weights, find
from specgen.core.errors import ModelNotFound, SpecgenError
from specgen.core.progress import follow
from specgen.core.types import ModelRef
from specgen.hub.cache import cached_models, complete_models, plan_removal
from tests.checkpoint.gguf.test_remote import write as write_gguf
from tests.hub_server import HubServer, serve_hub, write_model

hub = pytest.fixture(serve_hub)


def pull(source: str) -> Path:
    checkpoint = follow(find(ModelRef.parse(source), offline=False), [].append)
    return follow(fetch_weights(checkpoint, offline=False), [].append).path


@pytest.fixture
def commits(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """org/one at main and v2, and org/two, all cached."""
    folder = write_model(tmp_path / "m")
    commits = {"org/two": hub.publish("org/two", folder), "org/one": hub.publish("org/one", folder)}
    pull("org/one")
    write_model(folder, size=800_000)
    commits["org/one@v2"] = hub.publish("org/one", folder, "v2")
    pull("org/one@v2")
    pull("org/two")
    return commits


def test_no_cache_has_no_models(hub: HubServer) -> None:
    assert cached_models() == []


def test_models_are_listed_with_their_revisions(commits: dict[str, str], hub: HubServer) -> None:
    one, two = cached_models()
    assert (one.id, two.id) == ("org/one", "org/two")
    assert {(found.commit, found.names) for found in one.revisions} == {
        (commits["org/one"], ("main",)),
        (commits["org/one@v2"], ("v2",)),
    }
    assert one.size > two.size > 400_000
    assert datetime.now(UTC) - one.last_used < timedelta(minutes=5)
    assert all(found.path.is_dir() and found.path.is_relative_to(hub.cache) for found in one.revisions)


def test_what_is_no_model_of_transformers_is_not_listed(commits: dict[str, str], hub: HubServer) -> None:
    for path in hub.cache.glob("models--org--two/snapshots/*/config.json"):
        path.unlink()
    assert [model.id for model in cached_models()] == ["org/one"]


def test_a_model_that_was_only_looked_at_is_not_whole(hub: HubServer, tmp_path: Path) -> None:
    for repo in ("org/one", "org/shards"):
        hub.publish(repo, write_model(tmp_path / repo, shards=1 if repo == "org/one" else 2))
        follow(find(ModelRef.parse(repo), offline=False), [].append)
        assert not cached_models()[-1].revisions[0].is_complete
        assert repo not in complete_models()
        pull(repo)
        assert cached_models()[-1].revisions[0].is_complete
        assert repo in complete_models()


def test_gguf_files_are_models_too(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    write_gguf(tmp_path / "g" / "a.gguf")
    hub.publish("org/g", tmp_path / "g")
    follow(find(ModelRef.parse("org/g:a.gguf"), offline=False), [].append)
    assert cached_models() == [], "it is not here yet"
    plan_removal([ModelRef("org/g")]).execute()
    assert not (hub.cache / "models--org--g").exists(), "nor is its header any more"
    pull("org/g:a.gguf")
    assert [model.id for model in cached_models()] == ["org/g"]
    plan_removal([ModelRef("org/g")]).execute()
    assert cached_models() == []


def test_removing_a_model_removes_all_of_it(commits: dict[str, str], hub: HubServer) -> None:
    size = cached_models()[0].size
    plan = plan_removal([ModelRef("org/one")])
    assert (plan.models, plan.freed) == (("org/one",), size)
    assert [model.id for model in cached_models()] == ["org/one", "org/two"]
    plan.execute()
    assert [model.id for model in cached_models()] == ["org/two"]
    assert not (hub.cache / "models--org--one").exists()


def test_a_copy_with_the_same_commits_stays(commits: dict[str, str], hub: HubServer) -> None:
    assert commits["org/one"] == commits["org/two"]
    for name in ("one", "two"):
        [strategy] = plan_removal([ModelRef(f"org/{name}", "main")]).strategies
        touched = {*strategy.repos, *strategy.snapshots, *strategy.blobs}
        assert touched
        assert all(path.is_relative_to(hub.cache / f"models--org--{name}") for path in touched)


@pytest.mark.parametrize("revision", ["v2", "{commit}", "{short}"])
def test_removing_a_revision_leaves_the_others(revision: str, commits: dict[str, str]) -> None:
    commit = commits["org/one@v2"]
    plan = plan_removal([ModelRef("org/one", revision.format(commit=commit, short=commit[:9]))])
    assert plan.freed > 400_000
    plan.execute()
    assert [found.commit for found in cached_models()[0].revisions] == [commits["org/one"]]


def test_what_is_not_cached_cannot_be_removed(commits: dict[str, str]) -> None:
    with pytest.raises(ModelNotFound, match=r"org/ome is not in the cache .*; did you mean 'org/one'\?"):
        plan_removal([ModelRef("org/two"), ModelRef("org/ome")])
    with pytest.raises(ModelNotFound, match=r"zzz is not in the cache .*; `specgen list` shows the cached models"):
        plan_removal([ModelRef("zzz")])
    with pytest.raises(ModelNotFound, match="org/one has no revision v9 in the cache"):
        plan_removal([ModelRef("org/one", "v9")])
    assert len(cached_models()) == 2


def test_a_removal_that_fails_says_so(commits: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_removal([ModelRef("org/one")])
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(SpecgenError, match="models--org--one could not be deleted; check its permissions"):
        plan.execute()
