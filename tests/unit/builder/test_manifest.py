from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.manifest import (
    BaseName,
    Check,
    DataSet,
    DpoStage,
    DpoTraining,
    EvaluateStage,
    FolderAdapter,
    FolderBase,
    FoldStage,
    HubAdapter,
    HubBase,
    LoraSettings,
    Manifest,
    Metric,
    NetworkSettings,
    PinnedRef,
    PretrainStage,
    PretrainTraining,
    Project,
    SftStage,
    SftTraining,
    StageRef,
    effective,
    parse_manifest,
    parse_project,
    references,
    type_of,
)
from builder.weighting import Weighting
from registry import yaml12
from registry.digest import Digest
from registry.errors import InvalidError
from registry.selector import Selector

if TYPE_CHECKING:
    from registry.canonical import JSON

COMMIT = "0123456789abcdef" * 2 + "01234567"
HEX = "ab" * 32
FOLD = "stages: {x: {kind: fold, from: base, adapters: {a: 1}}}\nrelease: x\n"


def manifest(text: str) -> Manifest:
    return parse_manifest("support", yaml12.load(text, "models/support/model.yaml").value)


def project(text: str) -> Project:
    return parse_project(yaml12.load(text, "params.yaml").value)


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidError) as caught:
        manifest(text)
    return [f"{one.key}: {one.problem} / {one.mend}" for one in caught.value.faults]


def stage_faults(table: str) -> list[str]:
    return faults(f"stages:\n  x: {table}\nrelease: x\n")


FULL = f"""
schema: 1
description: Support assistant.
license: apache-2.0
base: tiny
adapters:
  concise: {{hub: acme/concise-lora, revision: "{COMMIT}", base: tiny}}
  local: {{path: adapters/local, sha256: {HEX}, base: tiny}}
  other: {{variant: voice, stage: tone}}
  pinned: {{variant: voice@v1.2.0, digest: "sha256:{HEX}"}}
data:
  tickets: {{path: data/tickets.jsonl, format: messages}}
stages:
  tone: {{kind: sft, from: base, data: tickets, adapter: {{rank: 8, targets: attention}}, train: {{epochs: 2}}}}
  toned: {{kind: fold, from: base, adapters: {{tone: 1, concise: 0.5}}}}
  pref: {{kind: dpo, from: toned, data: tickets, targets: mlp, train: {{beta: 0.2}}}}
  score: {{kind: evaluate, from: pref, against: base, metrics: {{kl: tickets, mine: {{metric: loss, data: tickets}}}}}}
release: toned
checks:
  - {{stage: score, metric: kl, max: 1}}
"""


def test_a_manifest_becomes_values() -> None:
    found = manifest(FULL)
    assert found.variant == "support"
    assert found.base == BaseName(name="tiny")
    assert found.adapters == {
        "concise": HubAdapter(hub="acme/concise-lora", revision=COMMIT, base="tiny"),
        "local": FolderAdapter(path="adapters/local", sha256=Digest(HEX), base="tiny"),
        "other": StageRef(variant="voice", stage="tone"),
        "pinned": PinnedRef(release="voice@v1.2.0", digest=Digest(HEX)),
    }
    assert found.data == {"tickets": DataSet(path="data/tickets.jsonl", format="messages")}
    assert found.stages == {
        "tone": SftStage(
            from_="base",
            data={"tickets": 1.0},
            adapter=LoraSettings(rank=Weighting.of(8), targets=Selector.parse("attention")),
            train=SftTraining(epochs=2.0),
        ),
        "toned": FoldStage(from_="base", adapters={"tone": Weighting.of(1.0), "concise": Weighting.of(0.5)}),
        "pref": DpoStage(
            from_="toned", data={"tickets": 1.0}, targets=Selector.parse("mlp"), train=DpoTraining(beta=0.2)
        ),
        "score": EvaluateStage(
            from_="pref",
            against="base",
            metrics={"kl": Metric(metric="kl", data="tickets"), "mine": Metric(metric="loss", data="tickets")},
        ),
    }
    assert found.checks == (Check(stage="score", metric="kl", max=1.0),)


def test_a_pinned_release_has_a_variant_and_a_version() -> None:
    pinned = PinnedRef(release="voice@v1.2.0-rc.1", digest=Digest(HEX))
    assert (pinned.variant, pinned.version) == ("voice", "v1.2.0-rc.1")


def test_a_pretrain_stage_has_a_network_and_a_tokenizer() -> None:
    found = manifest(
        "data: {t: {path: t.jsonl, format: text}}\n"
        "stages:\n"
        "  made: {kind: pretrain, data: t, network: {layers: 2, hidden_size: 64, heads: 4},"
        " tokenizer: {vocabulary: 300}}\n"
        "release: made\n"
    )
    stage = found.stages["made"]
    assert isinstance(stage, PretrainStage)
    assert stage.network == NetworkSettings(layers=2, hidden_size=64, heads=4)
    assert stage.tokenizer.vocabulary == 300
    assert stage.train == PretrainTraining(learning_rate=1e-3, max_length=512)


def test_no_checks_and_none_on_purpose_differ() -> None:
    text = "stages: {x: {kind: fold, from: base, adapters: {y: 1}}}\nrelease: x\n"
    assert manifest(text).checks is None
    assert manifest(f"{text}checks: []\n").checks == ()


def test_params_become_values() -> None:
    found = project(
        f"bases:\n  tiny: {{path: bases-src/tiny, sha256: {HEX}}}\n  big: {{hub: org/big, revision: '{COMMIT}'}}\n"
        "recipes: {import: 1, sft: 2.0}\n"
        "defaults: {sft: {train: {batch: 4}}}\n"
    )
    assert found.bases == {
        "tiny": FolderBase(path="bases-src/tiny", sha256=Digest(HEX)),
        "big": HubBase(hub="org/big", revision=COMMIT),
    }
    assert found.recipes == {"import": 1, "sft": 2}
    assert found.defaults == {"sft": {"train": {"batch": 4}}}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("{kind: stf, from: base, data: t}", "stages.x.kind: unknown kind 'stf' / did you mean 'sft'?"),
        (
            "{from: base}",
            (
                "stages.x: missing key 'kind' / add it: pretrain or sft or dpo or kto or orpo or cpo or reward or "
                "grpo or rloo or distill or fold or fuse or blend or extract or graft or cast or evaluate"
            ),
        ),
        (
            "{kind: 1}",
            (
                "stages.x.kind: unknown kind 1 / kinds: blend, cast, cpo, distill, dpo, evaluate, extract, fold, fuse, "
                "graft, grpo, kto, orpo, pretrain, reward, rloo, sft"
            ),
        ),
        (
            "{kind: import, hub: a/b}",
            (
                "stages.x.kind: kind 'import' is not written by hand / "
                "declare it under `adapters:`, or as the `base:`; its import is a stage of its own"
            ),
        ),
        (
            "{kind: sft, from: base, data: t, adapter: {}, targets: mlp}",
            "stages.x.targets: 'targets' together with 'adapter' / move `targets` into `adapter`",
        ),
        (
            "{kind: sft, from: base, data: t, train: {epochs: 1, steps: 5}}",
            (
                "stages.x.train.steps: 'steps' together with 'epochs' / "
                "keep one: `epochs` or `steps` says how long to train"
            ),
        ),
        (
            "{kind: dpo, from: base, data: t, train: {learning-rate: 1}}",
            "stages.x.train.learning-rate: unknown key 'learning-rate' / did you mean 'learning_rate'?",
        ),
        (
            "{kind: pretrain, data: t, network: {layers: 1, hidden_size: 8, heads: 1}, tokenizer: {vocabulary: 260}}",
            (
                "stages.x.tokenizer.vocabulary: expected an integer from 261 to 1048576, got 260 / "
                "write an integer from 261 to 1048576"
            ),
        ),
        (
            "{kind: fold, from: base, adapters: {}}",
            "stages.x.adapters: expected at least one entry, got none / add one, or leave the table out",
        ),
        (
            "{kind: evaluate, from: base, metrics: {klx: t}}",
            (
                "stages.x.metrics.klx.metric: expected bits_per_byte or loss or preference_accuracy or "
                "preference_margin or reward_accuracy or reward_margin or kl or top1_agreement or pair_accuracy or "
                "pair_margin, "
                "got text 'klx' / did you mean 'kl'?"
            ),
        ),
        (
            "{kind: evaluate, from: base, metrics: {kl: {turns: all}}}",
            "stages.x.metrics.kl: missing key 'data' / add it: a name",
        ),
    ],
)
def test_a_stage_that_cannot_be_is_refused(table: str, expected: str) -> None:
    assert stage_faults(table) == [expected]


PLAIN = "rename it: small letters, digits and hyphens, a letter first, no hyphen last"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base", "'base' is reserved / choose another name"),
        ("records", "'records' is reserved / choose another name"),
        (
            "Tone",
            f"expected a name, got text 'Tone' / {PLAIN}",
        ),
        (
            "a.b",
            f"expected a name, got text 'a.b' / {PLAIN}",
        ),
    ],
)
def test_names_of_stages_and_adapters_are_kept_plain(name: str, expected: str) -> None:
    stage = "{kind: fold, from: base, adapters: {y: 1}}"
    assert faults(f"stages: {{{name}: {stage}}}\nrelease: x\n") == [f"stages.{name}: {expected}"]
    adapter = "{variant: voice, stage: tone}"
    text = f"adapters: {{{name}: {adapter}}}\nstages: {{x: {stage}}}\nrelease: x\n"
    assert faults(text) == [f"adapters.{name}: {expected}"]


PIN = "a branch or a tag can move: run `varietal pin`, or write the commit that it points at"
FOLDER = "run `varietal pin`, which writes the folder's digest"
FORMS = "{hub, revision, base} or {path, sha256, base} or {variant, stage} or {variant, digest}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "{hub: a/b, revision: main, base: tiny}",
            [f".revision: expected a commit of 40 hexadecimal digits, got text 'main' / {PIN}"],
        ),
        (
            f"{{hub: a/b, revision: {'1' * 40}, base: tiny}}",
            [f".revision: expected a commit of 40 hexadecimal digits, got {'1' * 40} / put it in quotes"],
        ),
        (
            "{hub: b, revision: '" + COMMIT + "', base: tiny}",
            [".hub: expected organisation/name, got text 'b' / write organisation/name"],
        ),
        (
            "{path: a, sha256: 12, base: tiny}",
            [".sha256: expected a SHA-256 of 64 lower-case hexadecimal digits, got 12 / put it in quotes"],
        ),
        (
            f"{{path: a, sha256: 'sha256:{HEX}', base: tiny}}",
            [
                (
                    ".sha256: expected a SHA-256 of 64 lower-case hexadecimal digits, got text "
                    f"'sha256:{'ab' * 25}...' / {FOLDER}"
                )
            ],
        ),
        (
            f"{{variant: voice@1.0, digest: 'sha256:{HEX}'}}",
            [
                (
                    ".variant: expected a release such as support@v1.2.0, got text 'voice@1.0' / write the variant, @ "
                    "and the version; or name a stage of it with `stage`"
                )
            ],
        ),
        ("{variant: bases, stage: x}", [".variant: 'bases' is reserved / choose another name"]),
        ("{variant: voice}", [f": expected {FORMS}, got a table with variant / write {FORMS}"]),
        ("{hub: a/b, stage: x}", [f": expected {FORMS}, got a table with hub, stage / write {FORMS}"]),
        ("tiny", [f": expected {FORMS}, got text 'tiny' / write {FORMS}"]),
        (
            f"{{path: a, sha256: {HEX}}}",
            [": missing key 'base' / add it: a name"],
        ),
    ],
)
def test_a_source_that_is_not_pinned_is_refused(source: str, expected: list[str]) -> None:
    text = f"adapters: {{a: {source}}}\n{FOLD}"
    assert faults(text) == [f"adapters.a{one}" for one in expected]


@pytest.mark.parametrize(
    "path",
    [
        *["../x", "a/../b", "/etc/passwd", "a//b", "./a", "a/", "a/.", "", "a\\b", "${x}"],
        *[".git/config", "a/.dvc/x", ".varietal/x"],
        *["bases", "bases/tiny", "models/a/artifacts/b", "models/a/records/b.json"],  # DVC would remove it
    ],
)
def test_a_path_that_leaves_the_repository_or_that_a_pipeline_makes_is_refused(path: str) -> None:
    data = f"data: {{t: {{path: '{path}', format: text}}}}"
    expected = f"expected a path within the repository, from its root, got text {path!r}"
    mend = "put it into the repository, outside of bases/ and models/*/artifacts/, and write its path from the root"
    assert faults(f"{data}\n{FOLD}") == [f"data.t.path: {expected} / {mend}"]


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("{stage: s, metric: kl}", "checks[0]: none of min, max, max_increase, max_decrease / add one of them"),
        (
            "{stage: s, metric: kl, min: 1, max_decrease: 2}",
            "checks[0].max_decrease: 'max_decrease' together with 'min' / write two checks",
        ),
        ("{stage: s, metric: kl, min: .nan}", "checks[0].min: expected a number, got nan / write a number"),
    ],
)
def test_a_check_has_one_kind_of_bound(check: str, expected: str) -> None:
    text = f"{FOLD}checks: [{check}]"
    assert faults(text) == [expected]


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        ("{stf: {}}", "defaults.stf: unknown key 'stf' / did you mean 'sft'?"),
        ("{sft: {data: t}}", "defaults.sft.data: unknown key 'data' / keys here: adapter, train"),
        ("{sft: {targets: mlp}}", "defaults.sft.targets: unknown key 'targets' / keys here: adapter, train"),
        ("{sft: {train: {beta: 1}}}", None),
        ("{dpo: {train: {batch: 0}}}", None),
        ("{fold: {from: base}}", "defaults.fold.from: unknown key 'from' / there are no keys here"),
    ],
)
def test_defaults_hold_settings_only(defaults: str, expected: str | None) -> None:
    text = f"{FOLD}defaults: {defaults}"
    found = faults(text)
    assert len(found) == 1
    assert found[0].startswith("defaults.")
    assert expected is None or found == [expected]


def test_a_faulty_manifest_is_read_to_its_end() -> None:
    found = faults("schema: 2\nbase: {x: 1}\nstages: {x: {kind: stf}, y: 4}\nchecks: {}\n")
    keys = [one.partition(":")[0] for one in found]
    assert keys == ["", "base", "checks", "schema", "stages.x.kind", "stages.y"]


PARAMS = "{bases: {}, defaults: {sft: {train: {batch: 4, epochs: 3, seed: 7}, adapter: {rank: 4, alpha: 8}}}}"
LAYERED = """
data: {t: {path: t.jsonl, format: messages}}
defaults: {sft: {train: {batch: 2}, adapter: {rank: 2}}}
stages:
  plain: {kind: sft, from: base, data: t}
  own: {kind: sft, from: base, data: t, train: {batch: 1, steps: 9}, adapter: {dropout: 0.5}}
  other: {kind: dpo, from: base, data: t}
release: plain
"""


def test_a_stage_has_its_own_settings_over_the_manifests_over_the_projects() -> None:
    found = manifest(LAYERED)
    shared = project(PARAMS)
    assert effective(shared, found, "plain") == SftStage(
        from_="base", data={"t": 1.0}, train=SftTraining(batch=2, epochs=3.0, seed=7)
    )
    assert effective(shared, found, "own") == SftStage(
        from_="base",
        data={"t": 1.0},
        train=SftTraining(batch=1, steps=9, seed=7),
        adapter=LoraSettings(rank=Weighting.of(2), alpha=Weighting.of(8), dropout=0.5),
    )
    assert effective(shared, found, "other") is found.stages["other"]
    assert effective(Project(), manifest(LAYERED.replace("defaults", "description: x #")), "own").kind == "sft"


def test_references_are_names_by_role() -> None:
    stages = manifest(FULL).stages
    assert references(stages["tone"]) == [("from", "base"), ("data", "tickets")]
    assert references(stages["toned"]) == [("from", "base"), ("adapter", "tone"), ("adapter", "concise")]
    assert references(stages["score"]) == [
        ("from", "pref"),
        ("against", "base"),
        ("data", "tickets"),
        ("data", "tickets"),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base", "model"),
        ("tone", "adapter"),
        ("toned", "model"),
        ("pref", "model"),
        ("score", "report"),
        ("concise", "adapter"),
        ("pinned", "adapter"),
        ("nothing", None),
    ],
)
def test_the_type_of_an_artifact_is_told_from_the_manifest(name: str, expected: str | None) -> None:
    assert type_of(manifest(FULL), name) == expected


def test_training_an_adapter_on_gives_an_adapter_and_a_cycle_gives_none() -> None:
    found = manifest(
        f"""
base: tiny
adapters: {{voice: {{hub: a/b, revision: "{COMMIT}", base: tiny}}}}
data: {{t: {{path: t.jsonl, format: messages}}}}
stages:
  more: {{kind: sft, from: voice, data: t}}
  most: {{kind: dpo, from: more, data: t}}
  one: {{kind: sft, from: two, data: t}}
  two: {{kind: sft, from: one, data: t}}
release: most
"""
    )
    assert [type_of(found, name) for name in ("more", "most", "one", "two")] == ["adapter", "adapter", None, None]


def test_a_manifest_that_is_no_table_is_refused() -> None:
    value: JSON = ["a"]
    with pytest.raises(InvalidError) as caught:
        parse_manifest("support", value)
    assert str(caught.value.faults[0]).startswith(
        "models/support/model.yaml: expected a table with schema, description, license, deprecated, formerly, base, "
        "adapters, models, data"
    )


def test_bases_are_declared_even_where_there_are_none() -> None:
    """The static pipeline of the bases reads the key, and DVC ends where it is missing."""
    with pytest.raises(InvalidError) as caught:
        project("recipes: {}\n")
    assert [(one.problem, one.mend) for one in caught.value.faults] == [
        ("missing key 'bases'", "add it: a table of names")
    ]
