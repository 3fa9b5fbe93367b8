"""Releases and channels: what may be tagged, what a channel points at, what a rollback goes back to."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from registry.changelog import changelog_json, changelog_text
from registry.digest import digest_bytes
from registry.errors import ConflictError, InvalidError, NotFoundError, RefusedError
from registry.gate import Judgement
from registry.git_output import Tag
from registry.published import Published, Release, version_order
from registry.refs import Channel, Version
from registry.releases import Proposal, disagreements, promote, release, release_all, rollback, withdraw
from registry.report import report_log
from registry.tag_message import Promise, release_message
from tests.repositories import input_from, make_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.published import Assignment
    from registry.releases import NewTag

RECORD = make_record("support:final")
START = datetime(2026, 1, 1, tzinfo=UTC)


class Tags:
    """Tags as git would keep them."""

    def __init__(self) -> None:
        self.made: list[Tag] = []

    @property
    def published(self) -> Published:
        return Published.read(self.made)

    def add(self, tag: NewTag) -> None:
        self.add_named(tag.name, tag.commit, tag.message)

    def add_named(self, name: str, commit: str, message: str = "", *, annotated: bool = True) -> None:
        created = START + timedelta(minutes=len(self.made))
        self.made.append(Tag(name=name, target=commit, message=message, created=created, annotated=annotated))

    def release(self, version: str) -> None:
        self.add(release(proposal(version), self.published))

    def promote(self, version: str, channel: str = "prod") -> str:
        tag = promote(Version("support", version), channel, self.published)
        self.add(tag)
        return tag.name

    def rollback(self) -> str:
        """Version that the channel points at afterwards."""
        self.add(rollback(Channel("support", "prod"), self.published))
        return self.published.channel(Channel("support", "prod")).version


def proposal(version: str, **facts: object) -> Proposal:
    sound = Proposal(
        ref=Version("support", version),
        commit=f"commit of {version}",
        records={"final": RECORD},
        stage="final",
        judgements=(),
        on_main=True,
        changes=(),
        stale=(),
        missing=(),
    )
    return replace(sound, **facts)


@pytest.fixture
def tags() -> Tags:
    made = Tags()
    for version in ("v1.0.0", "v1.1.0", "v2.0.0"):
        made.release(version)
    return made


def test_a_release_says_what_its_bytes_are() -> None:
    tag = release(proposal("v1.0.0"), Published.read([]))
    assert (tag.name, tag.commit) == ("support@v1.0.0", "commit of v1.0.0")
    assert tag.message == (
        "support v1.0.0\n\n"
        "{\n"
        f'  "artifact_digest": "{RECORD.artifact.digest}",\n'
        f'  "record_digest": "{RECORD.digest}",\n'
        '  "schema": "varietal/release/1",\n'
        '  "stage": "final",\n'
        '  "type": "report",\n'
        '  "variant": "support",\n'
        '  "version": "v1.0.0",\n'
        '  "weights_digest": null\n'
        "}\n"
    )


def test_a_release_reads_back(tags: Tags) -> None:
    found = tags.published.release(Version("support", "v1.1.0"))
    assert found.promise() == Promise.of(RECORD)
    assert [one.version for one in tags.published.releases["support"]] == ["v1.0.0", "v1.1.0", "v2.0.0"]


def test_a_version_that_exists(tags: Tags) -> None:
    with pytest.raises(ConflictError) as caught:
        release(proposal("v1.1.0"), tags.published)
    assert str(caught.value) == (
        "support@v1.1.0 exists\n  where: commit commit of v1\n  mend: a release never moves: take the next version"
    )


def test_a_second_version_on_one_commit(tags: Tags) -> None:
    with pytest.raises(ConflictError) as caught:
        release(proposal("v3.0.0", commit="commit of v2.0.0"), tags.published)
    assert caught.value.what == "support@v2.0.0 is this commit already"
    assert caught.value.mend == (
        "promote it: `varietal promote support@v2.0.0 CHANNEL`; a commit has one version of a variant"
    )


def test_a_stage_that_was_not_built(tags: Tags) -> None:
    with pytest.raises(NotFoundError) as caught:
        release(proposal("v3.0.0", stage="other"), tags.published)
    assert caught.value.what == "the commit has no record of support:other"


def judgement(*, passed: bool, reason: str = "loss of score is 2; it must be at most 1") -> Judgement:
    return Judgement(stage="score", metric="loss", bound="", value=2, against=None, passed=passed, reason=reason)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (
            {"on_main": False},
            "the commit is not on the main branch (that of the origin, where there is one; fetch and push first)",
        ),
        ({"changes": ("a", "b")}, "the work tree differs from the commit: a, b"),
        ({"changes": tuple("abcdefg")}, "the work tree differs from the commit: a, b, c, d, e and 2 more"),
        ({"stale": ("final: beta is 0.2",)}, "the lock is stale: final: beta is 0.2"),
        ({"judgements": (judgement(passed=True), judgement(passed=False))}, "loss of score is 2; it must be at most 1"),
        ({"missing": ("config.json",)}, "the remote lacks config.json: run `dvc push`"),
        ({"ref": Version("support", "v1.0.1")}, "v1.0.1 comes before v2.0.0, which is out"),
        ({"ref": Version("support", "v2.0.0-rc.1")}, "v2.0.0-rc.1 comes before v2.0.0, which is out"),
    ],
)
def test_a_rule_that_is_broken(tags: Tags, facts: dict[str, Any], reason: str) -> None:
    version = str(facts.get("ref", Version("support", "v3.0.0")))
    with pytest.raises(RefusedError) as caught:
        release(proposal("v3.0.0", **facts), tags.published)
    assert str(caught.value) == (
        f"{version} is not released: {reason}\n"
        "  where: commit commit of v3\n"
        "  mend: mend each of these, commit, and release again; no tag was made"
    )


def test_all_rules_that_are_broken_are_told_at_once(tags: Tags) -> None:
    with pytest.raises(RefusedError) as caught:
        release(
            proposal("v3.0.0", on_main=False, changes=("a",), judgements=(judgement(passed=False),)), tags.published
        )
    assert caught.value.what == (
        "support@v3.0.0 is not released: the commit is not on the main branch (that of the origin, where there is one; "
        "fetch and push first); "
        "the work tree differs from the commit: a; loss of score is 2; it must be at most 1"
    )


def test_records_that_do_not_belong_together() -> None:
    tone = make_record("support:tone", kind="sft")
    final = make_record("support:final", inputs=(input_from(tone),))
    assert disagreements({"tone": tone, "final": final}) == ()
    other = replace(tone, artifact=replace(tone.artifact, digest=digest_bytes(b"other")))
    assert disagreements({"tone": other, "final": final}) == ("support:final was made from another support:tone",)
    with pytest.raises(RefusedError, match="support:final was made from another support:tone"):
        release(proposal("v1.0.0", records={"tone": other, "final": final}), Published.read([]))


def test_assignments_are_numbered_over_all_channels(tags: Tags) -> None:
    assert tags.promote("v1.0.0") == "support#prod#1"
    assert tags.promote("v1.1.0", "staging") == "support#staging#2"
    assert tags.promote("v1.1.0") == "support#prod#3"
    assert tags.published.channels("support") == {"prod": "v1.1.0", "staging": "v1.1.0"}
    assert tags.made[-1].message.startswith("support prod is v1.1.0\n\n{")


def test_a_promotion_that_changes_nothing(tags: Tags) -> None:
    tags.promote("v1.0.0")
    with pytest.raises(ConflictError) as caught:
        tags.promote("v1.0.0")
    assert str(caught.value) == (
        "support#prod points at v1.0.0 already\n  where: support#prod#1\n  mend: nothing needs to be done"
    )


def test_a_release_that_is_not_there(tags: Tags) -> None:
    with pytest.raises(NotFoundError) as caught:
        tags.promote("v9.0.0")
    assert str(caught.value) == (
        "there is no release support@v9.0.0\n"
        "  where: tags of the repository\n"
        "  mend: support has v1.0.0, v1.1.0, v2.0.0"
    )
    with pytest.raises(NotFoundError) as caught:
        tags.published.release(Version("other", "v1.0.0"))
    assert caught.value.mend == "`git fetch --tags`, or make it: `varietal release`"
    with pytest.raises(InvalidError) as bad:
        tags.promote("v1.0.0", "Pro d")
    assert bad.value.what == "'Pro d' is not a channel"


def test_a_rollback_goes_one_further_back_each_time(tags: Tags) -> None:
    for version in ("v1.0.0", "v1.1.0", "v2.0.0"):
        tags.promote(version)
    assert tags.rollback() == "v1.1.0"
    assert tags.rollback() == "v1.0.0"
    with pytest.raises(NotFoundError) as caught:
        tags.rollback()
    assert caught.value.what == "support#prod pointed at nothing before"
    assert [tag.name for tag in tags.made[-2:]] == ["support#prod#4", "support#prod#5"]
    assert tags.made[-1].message.startswith("support prod back to v1.0.0\n\n{")


def test_what_was_rolled_back_is_not_come_back_to(tags: Tags) -> None:
    tags.promote("v1.0.0")
    tags.promote("v1.1.0")
    assert tags.rollback() == "v1.0.0"
    tags.promote("v2.0.0")
    assert tags.rollback() == "v1.0.0"


def test_a_rollback_of_one_channel_leaves_the_others(tags: Tags) -> None:
    tags.promote("v1.0.0")
    tags.promote("v1.1.0", "staging")
    tags.promote("v2.0.0")
    assert tags.rollback() == "v1.0.0"
    assert tags.published.channels("support") == {"prod": "v1.0.0", "staging": "v1.1.0"}


def test_a_channel_that_points_at_nothing(tags: Tags) -> None:
    with pytest.raises(NotFoundError) as caught:
        tags.published.channel(Channel("support", "prod"))
    assert caught.value.mend == "`git fetch --tags`, or `varietal promote`"
    tags.promote("v1.0.0", "staging")
    with pytest.raises(NotFoundError) as caught:
        tags.published.channel(Channel("support", "prod"))
    assert str(caught.value) == (
        "support#prod points at nothing\n  where: tags of the repository\n  mend: support has the channels staging"
    )


def test_an_assignment_that_lies_on_another_commit_than_its_release(tags: Tags) -> None:
    moved = promote(Version("support", "v1.0.0"), "prod", tags.published)
    tags.add_named(moved.name, "commit of v2.0.0", moved.message)
    with pytest.raises(ConflictError) as caught:
        tags.published.channel(Channel("support", "prod"))
    assert str(caught.value) == (
        "support#prod#1 lies on another commit than support@v1.0.0\n"
        "  where: tags of the repository\n"
        "  mend: one of the two was moved: ask who did it, and promote again"
    )


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"version": "v1.1.0"', '"version": "latest"', "'latest' is not a version"),
        ('"version": "v1.1.0"', '"version": 1', "version: expected text, got a number"),
        ('"rollback": false,', "", "rollback: expected a value, got nothing"),
        ('"prod"', '"staging"', "channel: expected 'prod', got 'staging'"),
    ],
)
def test_an_assignment_that_cannot_be_read_stops_only_who_asks_for_it(
    tags: Tags, old: str, new: str, what: str
) -> None:
    prod = Channel("support", "prod")
    tags.promote("v1.0.0")
    tags.promote("v2.0.0", "staging")
    good = promote(Version("support", "v1.1.0"), "prod", tags.published)
    assert old in good.message
    tags.add_named(good.name, good.commit, good.message.replace(old, new))
    with pytest.raises(InvalidError) as caught:
        tags.published.channel(prod)
    assert caught.value.what == what
    assert caught.value.where == "tag support#prod#3"
    assert [problem.what for problem in tags.published.problems()] == [what]
    assert tags.published.channel(Channel("support", "staging")).version == "v2.0.0"
    assert tags.published.channels("support") == {"staging": "v2.0.0"}
    assert tags.rollback() == "v1.0.0"
    assert tags.promote("v1.1.0") == "support#prod#5"
    assert tags.published.channel(prod).version == "v1.1.0"
    assert tags.published.problems() == ()


def test_a_promotion_steps_over_what_cannot_be_read(tags: Tags) -> None:
    good = promote(Version("support", "v1.0.0"), "prod", tags.published)
    tags.add_named(good.name, good.commit, good.message.replace("{", "{{"))
    with pytest.raises(NotFoundError) as caught:
        tags.rollback()
    assert caught.value.what == "support#prod pointed at nothing before"
    assert tags.promote("v1.0.0") == "support#prod#2"
    assert tags.published.channels("support") == {"prod": "v1.0.0"}


def test_tags_that_gto_made(tags: Tags) -> None:
    tags.add_named("support@v3.0.0", "commit of v3.0.0", "Registering artifact support")
    tags.add_named("support#prod#1", "commit of v3.0.0", "Assigning stage")
    found = tags.published.channel(Channel("support", "prod"))
    assert found.version == "v3.0.0"
    with pytest.raises(InvalidError) as caught:
        found.promise()
    assert str(caught.value) == (
        "the tag's message does not say what was released\n"
        "  where: tag support@v3.0.0\n"
        "  mend: it was made by another tool; make releases with `varietal release` and `varietal promote`"
    )
    tags.add_named("support#prod!#2", "commit of v3.0.0", "Unassigning")
    assert tags.published.channels("support") == {}
    tags.add_named("support@v3.0.0!", "commit of v3.0.0", "Deregistering")
    with pytest.raises(NotFoundError) as gone:
        tags.published.release(Version("support", "v3.0.0"))
    assert gone.value.what == "support@v3.0.0 was withdrawn"


def test_tags_of_others_and_light_tags_do_not_count(tags: Tags) -> None:
    tags.add_named("v1.0.0", "x")
    tags.add_named("support@v9.0.0", "x", annotated=False)
    assert [one.version for one in tags.published.releases["support"]] == ["v1.0.0", "v1.1.0", "v2.0.0"]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"v1.0.0"', '"v1.0.1"', "version: expected 'v1.0.0', got 'v1.0.1'"),
        ('"support"', '"other"', "variant: expected 'support', got 'other'"),
        ("release/1", "release/2", "schema: expected 'varietal/release/1', got 'varietal/release/2'"),
        ('"stage"', '"more": 1, "stage"', "more: expected a key of this schema, got an unknown key"),
    ],
)
def test_a_message_that_was_written_by_hand(old: str, new: str, what: str) -> None:
    message = release_message(Version("support", "v1.0.0"), Promise.of(RECORD)).replace(old, new)
    made = Release(variant="support", version="v1.0.0", commit="x", created=START, message=message)
    with pytest.raises(InvalidError) as caught:
        made.promise()
    assert caught.value.what == what
    assert caught.value.where == "tag support@v1.0.0"


def test_a_signature_after_the_message_is_not_part_of_it() -> None:
    message = release_message(Version("support", "v1.0.0"), Promise.of(RECORD)) + "-----BEGIN SSH SIGNATURE-----\nU1N\n"
    made = Release(variant="support", version="v1.0.0", commit="x", created=START, message=message)
    assert made.promise() == Promise.of(RECORD)


def test_versions_are_ordered_as_semantic_versioning_orders_them() -> None:
    ordered = ["v1.0.0-alpha", "v1.0.0-alpha.1", "v1.0.0-alpha.beta", "v1.0.0-beta", "v1.0.0-beta.2"]
    ordered += ["v1.0.0-beta.11", "v1.0.0-rc.1", "v1.0.0", "v1.0.1", "v1.2.0", "v1.10.0", "v2.0.0"]
    assert ordered == sorted(set(ordered), key=version_order)
    assert version_order("v1.0.0-1") < version_order("v1.0.0-a")


class Refusing:
    """A judge that knows the names of those that do not count, and how often it was asked about each."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.asked: list[str] = []

    def refusals(self, assignments: Sequence[Assignment]) -> Sequence[str]:
        self.asked += [one.ref for one in assignments]
        return ["not signed" if one.ref in self.names else "" for one in assignments]


def test_what_a_judge_refuses_is_stepped_over(tags: Tags) -> None:
    prod = Channel("support", "prod")
    for version in ("v1.0.0", "v1.1.0", "v2.0.0"):
        tags.promote(version)
    published = Published.read(tags.made, Refusing("support#prod#3"))
    assert published.channel(prod).version == "v1.1.0"
    assert published.channels("support") == {"prod": "v1.1.0"}
    assert published.refused(prod) == ("support#prod#3 does not count: not signed",)
    assert published.warnings() == published.refused(prod)
    assert promote(Version("support", "v2.0.0"), "prod", published).name == "support#prod#4"
    assert '"version": "v1.0.0"' in rollback(prod, published).message
    nothing = Published.read(tags.made, Refusing("support#prod#1", "support#prod#2", "support#prod#3"))
    with pytest.raises(NotFoundError) as caught:
        nothing.channel(prod)
    assert caught.value.what.startswith("support#prod points at nothing; support#prod#3 does not count: not signed; ")


def test_a_judge_is_asked_of_no_more_than_is_needed(tags: Tags) -> None:
    for number in range(50):
        tags.promote("v1.0.0" if number % 2 else "v1.1.0")
    judge = Refusing()
    assert Published.read(tags.made, judge).channel(Channel("support", "prod")).version == "v1.0.0"
    assert judge.asked == ["support#prod#50"]
    judge = Refusing("support#prod#50", "support#prod#49")
    assert Published.read(tags.made, judge).channel(Channel("support", "prod")).version == "v1.0.0"
    assert judge.asked == [f"support#prod#{number}" for number in range(50, 41, -1)]


def test_the_number_decides_and_not_the_clock(tags: Tags) -> None:
    tags.promote("v1.0.0")
    tags.promote("v1.1.0")
    first, second = tags.made[-2:]
    tags.made[-2:] = [replace(second, created=START), replace(first, created=START + timedelta(days=9))]
    assert tags.published.channel(Channel("support", "prod")).version == "v1.1.0"
    log = report_log("support", tags.published, (), "prod")
    assert [row["number"] for row in cast("list[dict[str, Any]]", log.json)] == [2, 1]


def test_numbers_that_were_used_up(tags: Tags) -> None:
    tags.promote("v1.0.0")
    good = promote(Version("support", "v1.1.0"), "prod", tags.published)
    for name in (f"support#prod#{10**18 - 1}", "support#staging#2"):
        tags.add_named(name, good.commit, good.message)
    published = Published.read(tags.made, Refusing(f"support#prod#{10**18 - 1}"))
    assert promote(Version("support", "v1.1.0"), "prod", published).name == "support#prod#3"


def test_a_release_that_is_withdrawn(tags: Tags) -> None:
    tags.promote("v1.0.0")
    ref = Version("support", "v1.1.0")
    tag = withdraw(ref, " wrong\n tokenizer ", tags.published)
    assert (tag.name, tag.commit) == ("support@v1.1.0!", "commit of v1.1.0")
    assert tag.message == (
        'support v1.1.0 is withdrawn\n\n{\n  "reason": "wrong tokenizer",\n  "schema": "varietal/withdrawal/1",\n'
        '  "variant": "support",\n  "version": "v1.1.0"\n}\n'
    )
    tags.add(tag)
    for again in (
        lambda: tags.published.release(ref),
        lambda: promote(ref, "prod", tags.published),
    ):
        with pytest.raises(NotFoundError, match="support@v1\\.1\\.0 was withdrawn"):
            again()
    with pytest.raises(ConflictError, match="was withdrawn already"):
        withdraw(ref, "", tags.published)
    with pytest.raises(NotFoundError, match="there is no release support@v9"):
        withdraw(Version("support", "v9.0.0"), "", tags.published)


def test_a_release_that_a_channel_points_at_is_not_withdrawn_by_mistake(tags: Tags) -> None:
    tags.promote("v1.0.0")
    tags.promote("v1.1.0")
    ref = Version("support", "v1.1.0")
    with pytest.raises(RefusedError) as caught:
        withdraw(ref, "", tags.published)
    assert caught.value.what == "prod of support is v1.1.0"
    assert caught.value.mend.startswith("`varietal rollback support#prod`, or promote another version, first; ")
    assert withdraw(ref, "", tags.published, in_use=True).name == "support@v1.1.0!"
    tags.rollback()
    assert withdraw(ref, "", tags.published).name == "support@v1.1.0!"


def test_several_releases_are_made_or_none() -> None:
    one, two = proposal("v1.0.0"), proposal("v1.0.0", ref=Version("other", "v1.0.0"))
    tags = release_all([one, two], Published.read([]))
    assert [tag.name for tag in tags] == ["support@v1.0.0", "other@v1.0.0"]
    with pytest.raises(RefusedError) as caught:
        release_all([one, replace(two, changes=("a",))], Published.read([]))
    assert caught.value.what == "other@v1.0.0 is not released: the work tree differs from the commit: a"
    with pytest.raises(RefusedError) as caught:
        release_all([replace(one, stage="gone"), replace(two, on_main=False)], Published.read([]))
    assert caught.value.what == (
        "the commit has no record of support:gone; other@v1.0.0 is not released: the commit is not on the main branch "
        "(that of the origin, where there is one; fetch and push first)"
    )


def test_a_shallow_clone_is_told_how_to_mend_it() -> None:
    with pytest.raises(RefusedError) as caught:
        release(proposal("v1.0.0", shallow=True, on_main=False), Published.read([]))
    assert caught.value.what == (
        "support@v1.0.0 is not released: history is cut off here, so tags and ancestors are missing: "
        "`git fetch --unshallow --tags`"
    )


def test_notes_stand_after_what_is_read_by_machines(tags: Tags) -> None:
    tag = release(proposal("v3.0.0", notes=("Since v2.0.0", "- stage tone: train.steps 2 -> 4")), tags.published)
    assert tag.message.endswith("\n}\n\nSince v2.0.0\n- stage tone: train.steps 2 -> 4\n")
    tags.add(tag)
    found = tags.published.release(Version("support", "v3.0.0"))
    assert found.promise() == Promise.of(RECORD)
    assert found.notes() == ("Since v2.0.0", "- stage tone: train.steps 2 -> 4")
    assert tags.published.release(Version("support", "v2.0.0")).notes() == ()
    signed = replace(found, message=found.message + "-----BEGIN SSH SIGNATURE-----\nU1N\n")
    assert (signed.promise(), signed.notes()) == (found.promise(), found.notes())


def test_the_changelog_is_told_from_the_tags(tags: Tags) -> None:
    tags.add(release(proposal("v3.0.0", notes=("Since v2.0.0", "- weights: the same")), tags.published))
    tags.add(withdraw(Version("support", "v2.0.0"), "", tags.published))
    text = changelog_text("support", tags.published)
    assert text.startswith(
        "# support\n\nWritten from the tags of the releases by `varietal changelog support --write`.\n\n"
        "## v3.0.0, 2026-01-01\n\nSince v2.0.0\n\n- weights: the same\n\n"
        "## v2.0.0, 2026-01-01, withdrawn\n\nmade without notes\n"
    )
    rows = cast("list[dict[str, Any]]", changelog_json("support", tags.published))
    assert [(row["version"], row["withdrawn"]) for row in rows[:2]] == [("v3.0.0", False), ("v2.0.0", True)]


def test_an_assignment_that_means_other_bytes_than_its_release(tags: Tags) -> None:
    good = promote(Version("support", "v1.0.0"), "prod", tags.published)
    tags.add_named(good.name, good.commit, good.message.replace(str(RECORD.artifact.digest), f"sha256:{'0' * 64}"))
    with pytest.raises(ConflictError) as caught:
        tags.published.channel(Channel("support", "prod"))
    assert caught.value.what == "support#prod#1 means other bytes than support@v1.0.0"
