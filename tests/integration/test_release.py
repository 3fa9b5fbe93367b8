"""Gate, release, channel, pull and proof, by the real command in a real repository."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from registry.lock import content_md5
from tests.served import serve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.team import Team


@pytest.fixture(scope="module")
def released(built: Team, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """The built repository with one release and a channel on it."""
    team = built.copy(tmp_path_factory.mktemp("released") / "team")
    team.must("varietal", "release", "support@v1.0.0")
    team.must("varietal", "promote", "support@v1.0.0", "prod")
    return team


@pytest.fixture(scope="module")
def pulled(released: Team) -> Path:
    """What another clone pulled by the channel."""
    clone = released.root.parent / "clone"
    released.must("git", "clone", "--quiet", str(released.root), str(clone))
    other = type(released)(root=clone)
    other.must("varietal", "pull", "support#prod", "../pulled")
    return clone.parent / "pulled"


def test_a_release_is_pulled_elsewhere_with_its_very_bytes(released: Team, pulled: Path) -> None:
    original = released.root / "models/support/artifacts/final"
    assert {path.name: path.read_bytes() for path in pulled.iterdir()} == {
        path.name: path.read_bytes() for path in original.iterdir()
    }
    answer = released.must("varietal", "verify", "support@v1.0.0", str(pulled), "--json")
    assert json.loads(answer.out)["artifact_digest"] == str(released.record("final").artifact.digest)


def test_a_second_pull_moves_nothing(released: Team, pulled: Path) -> None:
    del pulled
    answer = released.must("varietal", "pull", "support@v1.0.0", "../again", "--json")
    assert json.loads(answer.out)["moved_bytes"] < 20_000  # the listing of the folder, never a weight


def test_gto_reads_the_tags(released: Team) -> None:
    shown = json.loads(released.must("gto", "show", "support", "--json").out)
    assert [row["version"] for row in shown] == ["v1.0.0"]
    assert "prod" in json.dumps(shown)


def test_one_tensor_is_followed_from_the_pulled_file_to_the_manifest(released: Team, pulled: Path) -> None:
    listing = json.loads((pulled / "artifact.json").read_text())
    tensor = next(one for one in listing["tensors"] if "layers.1.self_attn.q_proj" in one["name"])
    found = json.loads(released.must("varietal", "find", tensor["digest"], "--json").out)
    assert "support" in json.dumps(found)
    lineage = released.must("varietal", "lineage", "support#prod").out
    for name in ("support:final", "support:pref", "support:toned", "support:tone", "bases:tiny", "data/talks.jsonl"):
        assert name in lineage


def test_what_a_data_set_touches(released: Team) -> None:
    out = released.must("varietal", "lineage", "--down", "data/talks.jsonl").out
    for stage in ("tone", "toned", "pref", "final", "score"):
        assert f"support:{stage}" in out


def test_a_flipped_byte_in_a_pulled_folder_is_found(released: Team, pulled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    released.must("cp", "-r", str(pulled), str(folder))
    shard = next(folder.glob("model-00002*"))
    shard.chmod(0o644)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    answer = released.call("varietal", "verify", "support@v1.0.0", str(folder))
    assert answer.code == 3
    assert f"{shard.name} has sha256:" in answer.err


def test_a_flipped_byte_in_an_input_stops_the_stage(team: Team) -> None:
    shard = next((team.root / "bases/tiny").glob("model-00002*"))
    shard.chmod(0o644)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.unlink()
    shard.write_bytes(data)
    answer = team.call("varietal", "run", "support", "toned")
    assert answer.code == 3
    assert f"{shard.name} has sha256:" in answer.err
    assert "mend: remove the folder and fetch or build the artifact again" in answer.err


def test_a_tag_that_exists(released: Team) -> None:
    answer = released.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 5
    assert answer.err.startswith("support@v1.0.0 exists\n  where: commit ")
    assert "mend: a release never moves: take the next version" in answer.err


def test_a_channel_that_is_there_already_and_one_that_was_nowhere(released: Team) -> None:
    answer = released.call("varietal", "promote", "support@v1.0.0", "prod")
    assert answer.code == 5
    assert "support#prod points at v1.0.0 already" in answer.err
    answer = released.call("varietal", "rollback", "support#prod")
    assert answer.code == 2
    assert "support#prod pointed at nothing before" in answer.err


def test_a_failed_check(team: Team) -> None:
    team.edit("max_increase: 1.0", "max: 0.001")
    team.commit("A bound that cannot be met")
    answer = team.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 1
    assert "support@v1.0.0 is not released: bits_per_byte of score is" in answer.err
    assert "it must be at most 0.001" in answer.err
    assert team.must("git", "tag").out == ""


def test_no_checks_at_all(team: Team) -> None:
    team.edit("checks:\n- {stage: score, metric: bits_per_byte, max_increase: 1.0}\n", "")
    answer = team.call("varietal", "gate", "support")
    assert answer.code == 1
    assert "FAIL  the manifest has no checks: write some, or `checks: []` to release without" in answer.out


def test_a_stale_lock(team: Team) -> None:
    team.edit("beta: 0.1", "beta: 0.2")
    team.commit("Another beta, not built")
    answer = team.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 1
    assert "the lock is stale: support:pref: stages.pref is {" in answer.err
    assert team.must("git", "tag").out == ""


def test_a_lock_that_was_lost(team: Team) -> None:
    (team.root / "models/support/dvc.lock").unlink()
    team.commit("Lose the lock")
    answer = team.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 1
    assert "support:final: was never built" in answer.err


def test_a_record_that_was_edited_in_git(team: Team) -> None:
    path = team.root / "models/support/records/score.json"
    path.write_text(path.read_text().replace('"duration_s"', '"duration_s" '))
    team.commit("Doctor a record")
    answer = team.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 1
    assert "models/support/records/score.json is not the record that was built" in answer.err


def test_a_dirty_tree(team: Team) -> None:
    (team.root / "data/notes.txt").write_text("not committed")
    answer = team.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 1
    assert "the work tree differs from the commit: data/notes.txt" in answer.err


def test_a_commit_that_is_not_on_main(team: Team) -> None:
    team.must("git", "checkout", "--quiet", "-b", "try")
    (team.root / "data/notes.txt").write_text("on a branch")
    team.commit("On a branch")
    answer = team.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 1
    assert (
        "the commit is not on the main branch (that of the origin, where there is one; fetch and push first)"
        in answer.err
    )


def test_bytes_that_are_not_on_the_remote(team: Team) -> None:
    team.must("dvc", "remote", "modify", "--local", "store", "url", str(team.root.parent / "empty"))
    answer = team.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 1
    assert "the remote lacks the record of support:final, the listing of support:final: run `dvc push`" in answer.err


def test_a_record_that_is_not_on_the_remote(team: Team, tmp_path: Path) -> None:
    """It is what a descriptor points at, so a release without it could be described never more."""
    remote = tmp_path / "remote"
    team.must("cp", "-r", str(remote_of(team)), str(remote))
    team.must("dvc", "remote", "modify", "--local", "store", "url", str(remote))
    oid = content_md5((team.root / "models/support/records/final.json").read_bytes())
    (remote / "files/md5" / oid[:2] / oid[2:]).unlink()
    answer = team.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 1
    assert "the remote lacks the record of support:final: run `dvc push`" in answer.err
    assert team.must("git", "tag").out == ""


def remote_of(team: Team) -> str:
    """Folder of the remote that the shared repository was pushed to."""
    return team.must("dvc", "config", "remote.store.url").out.strip()


def test_there_is_no_remote(team: Team) -> None:
    for name in ("storage", "store"):  # that of `init`, and that of the fixture
        team.must("dvc", "remote", "remove", name)
    team.commit("Forget the remote")
    answer = team.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 2
    assert "dvc remote add" in answer.err


def pin(team: Team, digest: str) -> None:
    """Declare a variant that starts from the release, and folds in an adapter of the release's ancestor."""
    (team.root / "models/next").mkdir(exist_ok=True)
    (team.root / "models/next/model.yaml").write_text(
        f'schema: 1\nbase: {{variant: support@v1.0.0, digest: "{digest}"}}\n'
        "adapters: {tone: {variant: support, stage: tone}}\n"
        "stages: {again: {kind: fold, from: base, adapters: {tone: 0.5}}}\nrelease: again\nchecks: []\n"
    )
    team.must("varietal", "compile")


def test_a_variant_starts_from_a_release(released: Team, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    released.must("git", "clone", "--quiet", str(released.root), str(clone))
    other = type(released)(root=clone)
    original = released.record("final")
    pin(other, str(original.artifact.digest))
    other.must("dvc", "repro", "--pull", "--allow-missing", "models/next/dvc.yaml")
    base, again = other.record("base", "next"), other.record("again", "next")
    assert base.artifact == original.artifact
    assert base.reused_from == "support:final"
    assert base.inputs == original.inputs
    assert any("rebased" in note for note in again.notes)
    lineage = other.must("varietal", "lineage", "next:again").out
    assert "support:pref" in lineage


def test_a_pin_that_is_not_the_release(released: Team, tmp_path: Path) -> None:
    team = released.copy(tmp_path / "team")
    pin(team, f"sha256:{'0' * 64}")
    answer = team.call("varietal", "run", "next", "base")
    assert answer.code == 3
    assert f"support@v1.0.0 is {team.record('final').artifact.digest}, the manifest says sha256:000" in answer.err
    assert "where: tag support@v1.0.0" in answer.err


# Several variants, notes, and what stands in the way


@pytest.fixture(scope="module")
def two(built: Team, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """The built repository with a second variant, both built and pushed to an origin; nothing is released."""
    place = tmp_path_factory.mktemp("two")
    team = built.copy(place / "team")
    (team.root / "models/other").mkdir()
    (team.root / "models/other/model.yaml").write_text(
        "schema: 1\nbase: {variant: support, stage: toned}\nadapters: {tone: {variant: support, stage: tone}}\n"
        "stages: {again: {kind: fold, from: base, adapters: {tone: 0.5}}}\nrelease: again\nchecks: []\n"
    )
    team.must("varietal", "compile")
    team.must("dvc", "repro", "--quiet", "models/other/dvc.yaml")
    team.must("dvc", "push", "--quiet", "models/other/dvc.yaml")
    team.commit("Build another")
    team.must("git", "init", "--quiet", "--bare", "--initial-branch=main", "../origin.git")
    team.must("git", "remote", "add", "origin", "../origin.git")
    team.must("git", "push", "--quiet", "origin", "HEAD:main")
    team.must("git", "fetch", "--quiet", "origin")
    return team


def join(two: Team, place: Path) -> Team:
    """A copy of the repository and of its origin."""
    team = two.copy(place / "team")
    two.must("cp", "-r", str(two.root.parent / "origin.git"), str(place / "origin.git"))
    return team


def test_two_variants_are_released_from_one_commit(two: Team, tmp_path: Path) -> None:
    team = join(two, tmp_path)
    answer = json.loads(team.must("varietal", "release", "support@v1.0.0", "other@v0.1.0", "--push", "--json").out)
    assert [row["tag"] for row in answer["tags"]] == ["support@v1.0.0", "other@v0.1.0"]
    assert set(team.must("git", "ls-remote", "--tags", "--refs", "origin").out.split()[1::2]) == {
        "refs/tags/support@v1.0.0",
        "refs/tags/other@v0.1.0",
    }
    shown = json.loads(team.must("gto", "show", "--json").out)
    assert {name: row["version"] for name, row in shown.items()} == {"support": "v1.0.0", "other": "v0.1.0"}
    notes = answer["tags"][0]["notes"]
    assert notes[0] == "First release"
    assert any(line.startswith("- metric score.bits_per_byte: ") and "at most 1 above" in line for line in notes)
    assert any(line.startswith("- input bases:tiny: sha256:") for line in notes)


def test_what_is_new_in_the_next_release(two: Team, tmp_path: Path) -> None:
    team = join(two, tmp_path)
    team.must("varietal", "release", "support@v1.0.0")
    team.edit("max_increase: 1.0", "max_increase: 0.5")
    team.commit("A closer bound")
    team.must("git", "push", "--quiet", "origin", "HEAD:main")
    team.must("git", "fetch", "--quiet", "origin")
    preview = team.must("varietal", "release", "support@v1.1.0", "--notes").out.splitlines()
    assert preview[:2] == ["support@v1.1.0", "Since v1.0.0"]
    assert "0 of them new, 0 B" in preview[2]
    assert "- check score.bits_per_byte: at most 1 above the one before -> at most 0.5 above the one before" in preview
    assert team.must("git", "tag").out.split() == ["support@v1.0.0"]
    assert team.must("varietal", "release", "support@v1.1.0").out.splitlines()[1:] == preview[1:]
    text = team.must("varietal", "changelog", "support").out
    assert text.index("## v1.1.0") < text.index("Since v1.0.0") < text.index("## v1.0.0") < text.index("First release")
    versions = json.loads(team.must("gto", "show", "support", "--json").out)
    assert [row["version"] for row in versions] == ["v1.1.0", "v1.0.0"]


def test_where_one_may_not_be_released_none_is(two: Team, tmp_path: Path) -> None:
    team = join(two, tmp_path)
    team.edit("max_increase: 1.0", "max: 0.001")
    team.commit("A bound that cannot be met")
    answer = team.call("varietal", "release", "other@v0.1.0", "support@v1.0.0")
    assert answer.code == 1
    assert "other@v0.1.0 is not released: the commit is not on the main branch" in answer.err
    assert "bits_per_byte of score is" in answer.err
    assert team.must("git", "tag").out == ""
    assert team.call("varietal", "release", "other@v0.1.0", "other@v0.2.0").code == 4


@pytest.mark.slow
def test_a_version_that_a_colleague_released(two: Team, tmp_path: Path) -> None:
    team = join(two, tmp_path)
    team.must("git", "clone", "--quiet", "../origin.git", "../colleague")
    other = type(team)(root=tmp_path / "colleague")
    other.must("git", "tag", "--annotate", "--message=theirs", "support@v1.0.0")
    other.must("git", "push", "--quiet", "origin", "support@v1.0.0")
    answer = team.call("varietal", "release", "support@v1.0.0", "other@v0.1.0")
    assert answer.code == 5
    assert answer.err.startswith("the origin has tags that are not here: support@v1.0.0\n")
    assert team.must("git", "tag").out == ""


@pytest.mark.slow
def test_a_release_from_a_checkout_without_a_branch(two: Team, tmp_path: Path) -> None:
    """As a runner checks out: what counts is whether the commit is on the main branch."""
    team = join(two, tmp_path)
    team.must("git", "checkout", "--quiet", "--detach")
    team.must("varietal", "release", "support@v1.0.0")


def test_a_release_from_a_shallow_clone(two: Team, tmp_path: Path) -> None:
    origin = join(two, tmp_path).root.parent / "origin.git"
    two.must("git", "clone", "--quiet", "--depth=1", f"file://{origin}", str(tmp_path / "shallow"))
    shallow = type(two)(root=tmp_path / "shallow")
    answer = shallow.call("varietal", "release", "support@v1.0.0")
    assert answer.code == 1
    assert "history is cut off here, so tags and ancestors are missing: `git fetch --unshallow --tags`" in answer.err


def test_descriptors_beside_a_release(two: Team, tmp_path: Path) -> None:
    team = join(two, tmp_path)
    team.must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key"))
    team.must("dvc", "remote", "add", "--quiet", "--local", "--default", "shelf", str(tmp_path / "shelf"))
    team.must("dvc", "push", "--quiet", "--remote", "shelf", "models/support/dvc.yaml")
    team.must("varietal", "release", "support@v1.0.0", "--key", str(tmp_path / "key"))
    team.must("varietal", "promote", "support@v1.0.0", "prod", "--key", str(tmp_path / "key"))
    with serve(tmp_path / "shelf") as served:
        host = type(team)(root=tmp_path)
        trust = str(tmp_path / "key.pub")
        host.must("varietal", "pull", "support#prod", "model", "--from", served.url, "--trust", trust)
    original = team.root / "models/support/artifacts/final"
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == {
        path.name: path.read_bytes() for path in original.iterdir()
    }
