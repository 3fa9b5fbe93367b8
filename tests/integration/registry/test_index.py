"""The index: every answer, what a refresh reads, and what becomes of it under damage, old layouts and two processes."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from registry.artifact import Artifact
from registry.errors import DigestMismatchError, MachineError
from registry.history import Repository
from registry.index import Index, Sighting
from registry.record import artifact_folder, git_record
from registry.store import Store
from registry.tensor_tables import take_tensor_tables
from tests.repositories import Team, data_input, git, input_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.artifact import TensorEntry

DATA = data_input("data/rows.jsonl", b"rows")


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team.make(tmp_path / "team")


def places(sightings: Sequence[Sighting]) -> list[tuple[str, str]]:
    return [(sighting.commit, sighting.path) for sighting in sightings]


def work_tree(variant: str, stage: str) -> set[tuple[str, str]]:
    return {("", f"models/{variant}/artifacts/{stage}.json"), ("", f"models/{variant}/records/{stage}.json")}


def clear_work_tree(team: Team) -> None:
    shutil.rmtree(team.root / "models")


def test_every_sighting_of_an_action_the_work_tree_first(team: Team) -> None:
    first = team.build("support:tone", {"a": b"1"}, inputs=[DATA], settings={"epochs": 1})
    one = team.commit("Build")
    other = team.build("support:tone", {"a": b"2"}, inputs=[DATA], settings={"epochs": 2})
    two = team.commit("Build again")
    copy = team.build("copy:tone", {"a": b"1"}, inputs=[DATA], settings={"epochs": 1}, reused_from="support:tone")
    with Index.open(team.repository) as index:
        found = index.by_action(first.action.digest)
        assert {sighting.record.digest for sighting in found} == {first.digest, copy.digest}
        assert places(found)[-1] == (one, "models/support/records/tone.json")
        assert set(places(found)[:-1]) == work_tree("copy", "tone")
        found = index.by_action(other.action.digest)
        assert set(places(found)[:2]) == work_tree("support", "tone")
        assert places(found)[2:] == [(two, "models/support/records/tone.json")]
        assert [sighting.record for sighting in index.by_artifact(first.artifact.digest)]
        assert index.by_action(first.artifact.digest) == ()


def test_answers_by_weights_and_by_input(team: Team) -> None:
    base = team.build("bases:tiny", {"a": b"1"}, kind="import")
    tone = team.build("support:tone", {"a": b"2"}, inputs=[input_from(base), DATA])
    assert base.artifact.weights_digest is not None
    with Index.open(team.repository) as index:
        by_weights = {one.record.ref for one in index.by_weights(base.artifact.weights_digest)}
        assert by_weights == {"bases:tiny"}
        assert {one.record.ref for one in index.by_input(base.artifact.digest)} == {"support:tone"}
        assert {one.record.digest for one in index.by_input(DATA.digest)} == {tone.digest}


def test_prefixes(team: Team) -> None:
    record = team.build("support:tone", {"a": b"1"}, inputs=[DATA])
    digest, weights = record.artifact.digest, record.artifact.weights_digest
    assert weights is not None
    with Index.open(team.repository) as index:
        for length in (1, 7, 8, 63, 64):
            assert index.artifacts(digest.hex[:length]) == (digest,)
        assert index.artifacts(digest.hex[:8] + "0" * 56) == ()
        assert index.weights(weights.hex[:9]) == (weights,)
        assert index.actions(record.action.digest.hex[:9]) == (record.action.digest,)
        assert index.inputs(DATA.digest.hex[:9]) == (DATA.digest,)


def test_which_artifacts_hold_a_file_or_a_tensor(team: Team, tmp_path: Path) -> None:
    first = team.build("support:tone", {"a": b"same", "b": b"1"})
    second = team.build("support:final", {"a": b"same", "b": b"2"})
    config = next(file for file in first.artifact.files if file.path == "config.json")
    same = next(one for one in _tensors(team, "support:tone") if one.name == "a")
    both = {first.artifact.digest, second.artifact.digest}
    with Index.open(team.repository) as index:
        assert {one.artifact for one in index.holders_of_file(config.digest.hex)} == both
        assert index.holders_of_tensor(same.digest.hex) == ()
        assert take_tensor_tables(index, team.repository, Store(tmp_path / "store")) == 2
        found = index.holders_of_tensor(same.digest.hex[:10])
        assert {(one.artifact, one.name, one.digest) for one in found} == {(one, "a", same.digest) for one in both}
        assert take_tensor_tables(index, team.repository, Store(tmp_path / "store")) == 0


def _tensors(team: Team, ref: str) -> Sequence[TensorEntry]:
    variant, _, stage = ref.partition(":")
    return Artifact.read(team.root / artifact_folder(variant, stage)).tensors


def test_tensor_tables_come_from_dvcs_cache_and_from_the_store_too(team: Team, tmp_path: Path) -> None:
    record = team.build("support:tone", {"a": b"1"})
    team.commit("Build")
    listing = (team.root / "models/support/artifacts/tone/artifact.json").read_bytes()
    clear_work_tree(team)
    store = Store(tmp_path / "store")
    with Index.open(team.repository) as index:
        assert take_tensor_tables(index, team.repository, store) == 1
    (team.root / ".varietal" / "index.sqlite").unlink()
    shutil.rmtree(team.root / ".dvc")
    with Index.open(team.repository) as index:
        assert take_tensor_tables(index, team.repository, store) == 0
        path = store.path(record.artifact.listing)
        path.parent.mkdir(parents=True)
        path.write_bytes(listing.replace(b'"a"', b'"b"'))
        assert take_tensor_tables(index, team.repository, store) == 0
        path.write_bytes(listing)
        assert take_tensor_tables(index, team.repository, store) == 1


def test_a_tensor_table_that_is_larger_than_one_can_be_is_not_read(team: Team, tmp_path: Path) -> None:
    team.build("support:tone", {"a": b"1"})
    os.truncate(team.root / artifact_folder("support", "tone") / "artifact.json", 1 << 40)
    with Index.open(team.repository) as index:
        assert take_tensor_tables(index, team.repository, Store(tmp_path / "store")) == 1  # from DVC's cache


def test_a_tensor_table_that_is_not_the_records(team: Team) -> None:
    record = team.build("support:tone", {"a": b"1"})
    with Index.open(team.repository) as index, pytest.raises(DigestMismatchError) as caught:
        index.add_listing(record, b"{}")
    assert caught.value.where == "support:tone"
    assert caught.value.what.endswith(f"the record says {record.artifact.listing}")


# What a refresh reads


def test_a_refresh_takes_what_is_new_and_drops_what_left_the_work_tree(team: Team) -> None:
    team.build("support:tone", {"a": b"1"})
    with Index.open(team.repository) as index:
        assert (index.refresh().records, index.refresh().new) == (1, 0)
        second = team.build("support:tone", {"a": b"2"})
        refreshed = index.refresh()
        assert (refreshed.records, refreshed.new, refreshed.artifacts) == (2, 1, 2)
        assert set(places(index.by_artifact(second.artifact.digest))) == work_tree("support", "tone")
        clear_work_tree(team)
        index.refresh()
        assert index.by_artifact(second.artifact.digest) == ()


def test_a_refresh_reads_only_new_commits(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.build("support:tone", {"a": b"1"})
    team.commit("Build")
    Index.open(team.repository).close()
    asked: list[str] = []
    read = Repository.read_blobs

    def spy(self: Repository, names: Sequence[str]) -> object:
        asked.extend(names)
        return read(self, names)

    monkeypatch.setattr(Repository, "read_blobs", spy)
    team.build("support:tone", {"a": b"2"})
    team.commit("Build again")
    clear_work_tree(team)
    with Index.open(team.repository) as index:
        assert index.refresh().records == 2
    assert len(asked) == 1


def test_a_branch_that_is_gone_takes_its_sightings_along(team: Team) -> None:
    git(team.root, "checkout", "--quiet", "-b", "side")
    record = team.build("support:tone", {"a": b"1"})
    team.commit("Build")
    git(team.root, "checkout", "--quiet", "main")
    clear_work_tree(team)
    with Index.open(team.repository) as index:
        assert len(index.by_artifact(record.artifact.digest)) == 1
        git(team.root, "branch", "--quiet", "-D", "side")
        index.refresh()
        assert index.by_artifact(record.artifact.digest) == ()


def test_history_that_a_shallow_clone_gets_later(team: Team, tmp_path: Path) -> None:
    record = team.build("support:tone", {"a": b"1"})
    team.commit("Build")
    team.build("support:tone", {"a": b"2"})
    team.commit("Build again")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{team.root}", "clone")
    clone = Repository(tmp_path / "clone")
    with Index.open(clone) as index:
        assert index.by_artifact(record.artifact.digest) == ()
        git(clone.root, "fetch", "--quiet", "--unshallow")
        index.refresh()
        assert len(index.by_artifact(record.artifact.digest)) == 1


def test_a_bare_repository_is_indexed_too(team: Team, tmp_path: Path) -> None:
    record = team.build("support:tone", {"a": b"1"})
    commit = team.commit("Build")
    git(tmp_path, "clone", "--quiet", "--bare", str(team.root), "bare.git")
    with Index.open(Repository(tmp_path / "bare.git", bare=True)) as index:
        assert places(index.by_action(record.action.digest)) == [(commit, "models/support/records/tone.json")]


def test_files_that_are_no_records_are_told_and_hinder_nothing(team: Team) -> None:
    record = team.build("support:tone", {"a": b"1"})
    bad = team.root / git_record("support", "bad")
    bad.write_text("{")
    team.commit("Build")
    bad.write_text("[]")
    with Index.open(team.repository) as index:
        refreshed = index.refresh()
        assert [path for path, _ in refreshed.problems] == ["models/support/records/bad.json"] * 2
        assert any("expected a table, got a list" in problem for _, problem in refreshed.problems)
        assert len(index.by_artifact(record.artifact.digest)) == 3


def test_what_is_no_plain_file_is_not_read(team: Team) -> None:
    path = team.root / git_record("support", "endless")
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/zero")
    (path.parent / "loop.json").symlink_to("loop.json")
    with Index.open(team.repository) as index:
        assert index.refresh().records == 0


def test_a_name_that_is_no_text_hinders_nothing(team: Team) -> None:
    record = team.build("support:tone", {"a": b"1"})
    odd = os.fsencode(team.root / git_record("support", "odd")) + b"\xff.json"
    Path(os.fsdecode(odd)).write_text("{")
    team.commit("Build")
    with Index.open(team.repository) as index:
        assert index.refresh().problems == ()
        assert len(index.by_artifact(record.artifact.digest)) == 3


# Damage


@pytest.mark.parametrize("damage", [b"not a database at all", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_made_again(team: Team, damage: bytes) -> None:
    record = team.build("support:tone", {"a": b"1"})
    Index.open(team.repository).close()
    (team.root / ".varietal" / "index.sqlite").write_bytes(damage)
    with Index.open(team.repository) as index:
        assert len(index.by_artifact(record.artifact.digest)) == 2


def test_a_page_that_is_damaged_in_the_middle_is_found_when_it_is_asked_for(team: Team) -> None:
    records = [team.build(f"support:s{place}", {"a": bytes([place])}) for place in range(20)]
    Index.open(team.repository).close()
    path = team.root / ".varietal" / "index.sqlite"
    data = bytearray(path.read_bytes())
    for page in range(3 * 4096, len(data), 4096):
        data[page : page + 200] = b"\xa5" * len(data[page : page + 200])
    path.write_bytes(data)
    with Index.open(team.repository) as index:
        for record in records:
            assert len(index.by_artifact(record.artifact.digest)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "update records set body = x'00'",
        "update records set body = 7",
        "update records set body = (select body from records order by id desc limit 1)",
        "update records set artifact = zeroblob(32)",
        "update records set artifact = 'text'",
        "update records set weights = null",
        "update records set variant = cast(x'ff' as text)",
        "update state set value = '{' where key = 'tips'",
        "update state set value = '[1]' where key = 'tips'",
        "update state set value = x'ff' where key = 'tips'",
        "update commits set path = cast(x'ff' as text)",
        "update files set artifact = x'00' where path = 'model.safetensors'",
    ],
)
def test_content_that_is_damaged_is_found_and_made_again(team: Team, damage: str) -> None:
    first, second = (
        team.build(f"support:{stage}", {"a": stage.encode()}, settings={"stage": stage}) for stage in ("tone", "final")
    )
    team.commit("Build")
    Index.open(team.repository).close()
    path = team.root / ".varietal" / "index.sqlite"
    with sqlite3.connect(path) as database:
        database.execute(damage)
    database.close()
    team.build("support:more", {"a": b"more"})
    team.commit("Build more")
    for _ in range(2):
        with Index.open(team.repository) as index:
            assert index.refresh().records == 3
            for record in (first, second):
                digest = record.artifact.digest
                assert index.artifacts(digest.hex) == (digest,)
                assert [sighting.record for sighting in index.by_artifact(digest)] == [record] * 3
                assert len(index.by_action(record.action.digest)) == 3
                model = next(one.digest for one in record.artifact.files if one.path == "model.safetensors")
                assert [holder.artifact for holder in index.holders_of_file(model.hex)] == [digest]


def test_a_record_that_would_fill_the_memory_is_not_decompressed(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    record = team.build("support:tone", {"a": b"1"})
    Index.open(team.repository).close()
    with sqlite3.connect(team.root / ".varietal" / "index.sqlite") as database:
        database.execute("update records set body = ?", (zlib.compress(bytes(1 << 24)),))
    database.close()
    monkeypatch.setattr("registry.database.MAX_BYTES", 1 << 20)
    tracemalloc.start()
    with Index.open(team.repository) as index:
        assert len(index.by_artifact(record.artifact.digest)) == 2
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most_bytes < 1 << 23


def test_an_index_of_another_layout_is_made_again(team: Team) -> None:
    record = team.build("support:tone", {"a": b"1"})
    Index.open(team.repository).close()
    with sqlite3.connect(team.root / ".varietal" / "index.sqlite") as database:
        database.execute("pragma user_version = 77")
        database.execute("drop table inputs")
    database.close()
    with Index.open(team.repository) as index:
        assert len(index.by_artifact(record.artifact.digest)) == 2
        assert index.by_input(DATA.digest) == ()


def test_a_file_in_the_place_of_the_folder_costs_only_time(team: Team) -> None:
    record = team.build("support:tone", {"a": b"1"})
    (team.root / ".varietal").write_text("")
    with Index.open(team.repository) as index:
        assert len(index.by_artifact(record.artifact.digest)) == 2


def test_a_folder_in_the_place_of_the_file_costs_only_time(team: Team) -> None:
    record = team.build("support:tone", {"a": b"1"})
    (team.root / ".varietal" / "index.sqlite").mkdir(parents=True)
    with Index.open(team.repository) as index:
        assert len(index.by_artifact(record.artifact.digest)) == 2


def test_an_index_that_another_process_holds(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.build("support:tone", {"a": b"1"})
    Index.open(team.repository).close()
    team.build("support:tone", {"a": b"2"})
    monkeypatch.setattr("registry.database._WAIT_S", 0.1)
    holder = sqlite3.connect(team.root / ".varietal" / "index.sqlite", isolation_level=None)
    holder.execute("begin immediate")
    try:
        with pytest.raises(MachineError) as caught:
            Index.open(team.repository)
    finally:
        holder.close()
    assert str(caught.value) == (
        "the index cannot be used: database is locked\n"
        f"  where: {team.root / '.varietal' / 'index.sqlite'}\n"
        "  mend: see to the disk and to other processes; the file can be removed at any time"
    )


COUNT = """
import sys
from pathlib import Path
from registry.history import Repository
from registry.index import Index
with Index.open(Repository(Path(sys.argv[1]))) as index:
    print(index.refresh().records, len(index.refresh().problems))
"""


def test_two_processes_at_once_on_a_damaged_index(team: Team) -> None:
    for place in range(30):
        team.build(f"support:s{place}", {"a": bytes([place])})
    team.commit("Build")
    (team.root / ".varietal").mkdir()
    (team.root / ".varietal" / "index.sqlite").write_bytes(b"damaged" * 1000)
    source = Path(__file__).resolve().parents[3]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, str(team.root)],
            cwd=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert outputs == [("30 0\n", "")] * 4
    with Index.open(team.repository) as index:
        assert index.refresh().records == 30


def test_a_record_with_other_names_is_another_record_of_the_same_artifact(team: Team) -> None:
    record = team.build("support:tone", {"a": b"1"})
    team.build("support:tone", {"a": b"1"}, notes=("again",))
    with Index.open(team.repository) as index:
        found = index.by_artifact(record.artifact.digest)
    assert {sighting.record.digest for sighting in found} == {replace(record, notes=("again",)).digest}
