from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.load import artifact_type, load
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

HEX = "ab" * 32
COMMIT = "ab" * 20
RECIPES = "recipes: {import: 1, pretrain: 1, sft: 1, dpo: 1, fold: 1, evaluate: 1}\n"
PARAMS = f"bases: {{tiny: {{path: source/tiny, sha256: {HEX}}}}}\n{RECIPES}"
HEAD = """
base: tiny
data:
  chat: {path: data/chat.jsonl, format: messages}
  prose: {path: data/prose.jsonl, format: text}
  pairs: {path: data/pairs.jsonl, format: preference}
"""
TONE = "tone: {kind: sft, from: base, data: chat, adapter: {}}"
TONED = "toned: {kind: fold, from: base, adapters: {tone: 1}}"
SCORE = "score: {kind: evaluate, from: toned, metrics: {loss: chat}}"
GOOD = f"{HEAD}stages:\n  {TONE}\n  {TONED}\n  {SCORE}\nrelease: toned\n"
GPT2 = "{architecture: gpt2, layers: 1, hidden_size: 64, heads: 4, kv_heads: 2}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for name in ("chat", "prose", "pairs"):
        (tmp_path / "data" / f"{name}.jsonl").write_text("{}\n", encoding="utf-8")
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    return tmp_path


def write(root: Path, variant: str, text: str) -> None:
    folder = root / "models" / variant
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(text, encoding="utf-8")


def faults(root: Path) -> list[str]:
    with pytest.raises(InvalidError) as caught:
        load(root)
    return [str(one).replace("\n  mend: ", " / ").removeprefix("models/") for one in caught.value.faults]


def stage_faults(root: Path, *stages: str, rest: str = "") -> list[str]:
    """Faults of a manifest with these stages and the good ones; each stage stands in a line of its own from line 8."""
    lines = "".join(f"  {one}\n" for one in (*stages, TONE, TONED, SCORE))
    write(root, "a", f"{HEAD}stages:\n{lines}release: toned\n{rest}")
    return [one.removeprefix("a/model.yaml:") for one in faults(root)]


def test_good_manifests_become_a_workspace(root: Path) -> None:
    write(root, "b", GOOD)
    write(root, "a", GOOD.replace("base: tiny", "base: {variant: b, stage: toned}"))
    workspace = load(root)
    assert list(workspace.manifests) == ["a", "b"]
    assert list(workspace.project.bases) == ["tiny"]
    types = [artifact_type(workspace, "a", name) for name in ("base", "tone", "toned", "score")]
    assert types == ["model", "adapter", "model", "report"]
    with pytest.raises(KeyError, match="nothing"):
        artifact_type(workspace, "a", "nothing")


def test_a_folder_without_manifest_is_no_variant(root: Path) -> None:
    (root / "models" / "left-over").mkdir(parents=True)
    assert load(root).manifests == {}


def test_faults_of_every_file_come_at_once(root: Path) -> None:
    (root / "params.yaml").write_text("bases: {tiny: {path: ../x}}\nrecepies: {}\n", encoding="utf-8")
    write(root, "a", "base: [\n")
    write(root, "b", GOOD.replace("kind: fold", "kind: fld"))
    write(root, "Bad", GOOD.replace("release: toned", "release: tone2"))
    assert [one.partition(": ")[0] for one in faults(root)] == [
        "Bad/model.yaml",
        "Bad/model.yaml:11",
        "a/model.yaml:2",
        "b/model.yaml:9",
        "params.yaml:1",
        "params.yaml:1",
        "params.yaml:2",
    ]


def test_a_missing_file_and_what_is_no_file(root: Path) -> None:
    (root / "params.yaml").unlink()
    assert faults(root) == [
        "params.yaml: cannot be read: No such file or directory / write it; `varietal init` does in a new repository"
    ]


def test_a_folder_where_a_file_should_be(root: Path) -> None:
    (root / "params.yaml").unlink()
    (root / "params.yaml").mkdir()
    (root / "models/b/model.yaml").mkdir(parents=True)
    assert faults(root) == [
        "b/model.yaml: cannot be read: Is a directory / make it a file that you can read",
        "params.yaml: cannot be read: Is a directory / make it a file that you can read",
    ]


def test_a_file_that_is_too_long_is_not_read(root: Path) -> None:
    write(root, "a", "#" * ((1 << 20) + 1))
    assert faults(root) == ["a/model.yaml: a file of 1048577 bytes, at most 1048576 are read / split or shorten it"]


def test_linked_manifests_are_refused(root: Path) -> None:
    write(root, "a", GOOD)
    (root / "models" / "b").symlink_to(root / "models" / "a")
    (root / "models" / "c").mkdir()
    (root / "models" / "c" / "model.yaml").symlink_to(root / "models" / "a" / "model.yaml")
    mend = "make it a {} of its own: a link can lead out of the repository"
    assert faults(root) == [
        f"b/model.yaml: a linked folder / {mend.format('folder')}",
        f"c/model.yaml: a link / {mend.format('file')}",
    ]


def test_a_variant_has_a_plain_name(root: Path) -> None:
    write(root, "bases", GOOD)
    write(root, "My Model", GOOD)
    rename = "rename it: small letters, digits and hyphens, a letter first, no hyphen last"
    assert faults(root) == [
        f"My Model/model.yaml: expected a name, got text 'My Model' / {rename}",
        "bases/model.yaml: 'bases' is reserved / choose another name",
    ]


DATA_MEND = "write the path of a file of rows, or of a folder of such files, within the repository"


def test_data_must_be_there_or_be_known_to_dvc(root: Path) -> None:
    (root / "data" / "chat.jsonl").unlink()
    (root / "data" / "prose.jsonl").unlink()
    (root / "data" / "prose.jsonl").mkdir()  # a folder of files is data, too
    (root / "data" / "pairs.jsonl").unlink()
    (root / "data" / "pairs.jsonl.dvc").write_text("outs: []\n", encoding="utf-8")
    assert stage_faults(root) == [
        f"4: data.chat.path: data/chat.jsonl does not exist / {DATA_MEND}",
    ]


def test_data_in_a_folder_that_dvc_tracks_may_be_away(root: Path) -> None:
    write(root, "a", GOOD.replace("data/chat", "sets/chat"))
    (root / "sets.dvc").write_text("outs: []\n", encoding="utf-8")
    assert list(load(root).manifests) == ["a"]


def test_data_behind_a_link_out_of_the_repository_is_refused(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "chat.jsonl").write_text("{}\n", encoding="utf-8")
    (root / "data" / "chat.jsonl").unlink()
    (root / "data" / "chat.jsonl").symlink_to(outside / "chat.jsonl")
    (root / "data" / "prose.jsonl").unlink()
    (root / "data" / "prose.jsonl").symlink_to(root / "data" / "pairs.jsonl")
    (root / "data" / "circle.jsonl").symlink_to(root / "data" / "circle.jsonl")
    long = "x" * 300
    rest = f"  circle: {{path: data/circle.jsonl, format: text}}\n  long: {{path: {long}, format: text}}\n"
    write(root, "b", GOOD.replace("stages:", f"{rest}stages:"))
    assert stage_faults(root) == [
        f"4: data.chat.path: data/chat.jsonl is a link that leads out of the repository / {DATA_MEND}",
        f"b/model.yaml:4: data.chat.path: data/chat.jsonl is a link that leads out of the repository / {DATA_MEND}",
        f"b/model.yaml:7: data.circle.path: data/circle.jsonl leads nowhere / {DATA_MEND}",
        f"b/model.yaml:8: data.long.path: {long} leads nowhere / {DATA_MEND}",
    ]


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (
            "x: {kind: sft, from: tned, data: chat}",
            "stages.x.from: unknown stage or adapter 'tned' / did you mean 'toned'?",
        ),
        (
            "x: {kind: sft, from: toned, data: chta}",
            "stages.x.data: unknown data set 'chta' / did you mean 'chat'?",
        ),
        (
            "x: {kind: sft, from: score, data: chat}",
            "stages.x.from: 'score' gives a report, not a model or an adapter / name a model or an adapter",
        ),
        (
            "x: {kind: sft, from: toned, data: pairs}",
            (
                "stages.x.data: 'pairs' holds preference, sft needs messages or completion or text "
                "/ name a data set of that format"
            ),
        ),
        (
            "x: {kind: dpo, from: toned, data: chat}",
            "stages.x.data: 'chat' holds messages, dpo needs preference / name a data set of that format",
        ),
        (
            "x: {kind: sft, from: tone, data: chat, adapter: {}}",
            (
                "stages.x.adapter: a new adapter on 'tone', which is an adapter itself / take `adapter` out to go on "
                "training 'tone'; or fold 'tone' into a model in a stage of its own, and start from that"
            ),
        ),
        (
            "x: {kind: sft, from: tone, data: chat, targets: mlp}",
            (
                "stages.x.targets: 'tone' is an adapter, and has targets of its own / "
                "take `targets` out; its own targets are trained"
            ),
        ),
        (
            "x: {kind: sft, from: toned, data: prose}",
            (
                "stages.x.train.loss_on: rows of text have no assistant's turns to learn / "
                "write `train: {loss_on: all}` in the stage"
            ),
        ),
        (
            "x: {kind: fold, from: tone, adapters: {tone: 1}}",
            "stages.x.from: 'tone' gives an adapter, not a model / name a model",
        ),
        (
            "x: {kind: fold, from: base, adapters: {toned: 1}}",
            "stages.x.adapters.toned: 'toned' gives a model, not an adapter / name an adapter",
        ),
        (
            "x: {kind: fold, from: base, adapters: {tne: 1}}",
            "stages.x.adapters.tne: unknown stage or adapter 'tne' / did you mean 'tone'?",
        ),
        (
            "x: {kind: evaluate, from: tone, against: score, metrics: {loss: chat}}",
            "stages.x.against: 'score' gives a report, not a model or an adapter / name a model or an adapter",
        ),
        (
            "x: {kind: evaluate, from: tone, metrics: {kl: chat}}",
            "stages.x.metrics.kl: kl compares with `against`, which is missing / add `against` to the stage",
        ),
        (
            "x: {kind: evaluate, from: tone, metrics: {preference_accuracy: prose}}",
            (
                "stages.x.metrics.preference_accuracy: 'prose' holds text, preference_accuracy needs preference / "
                "name a data set of that format"
            ),
        ),
        (
            "x: {kind: evaluate, from: tone, metrics: {bits_per_byte: chat}}",
            (
                "stages.x.metrics.bits_per_byte: 'chat' holds messages, bits_per_byte needs text / "
                "name a data set of that format"
            ),
        ),
        (
            "x: {kind: evaluate, from: tone, metrics: {loss: {data: prose, turns: all}}}",
            "stages.x.metrics.loss.turns: rows of text have no turns to choose from / take `turns` out",
        ),
        (
            "x: {kind: pretrain, data: chat, network: {layers: 1, hidden_size: 64, heads: 4}}",
            "stages.x.data: 'chat' holds messages, pretrain needs text / name a data set of that format",
        ),
        (
            "x: {kind: pretrain, data: prose, network: {layers: 1, hidden_size: 64, heads: 5}}",
            (
                "stages.x.network.heads: 5 heads do not divide a hidden size of 64 / "
                "make the hidden size a multiple of the heads"
            ),
        ),
        (
            "x: {kind: pretrain, data: prose, network: {layers: 1, hidden_size: 64, heads: 4, kv_heads: 3}}",
            "stages.x.network.kv_heads: 3 key and value heads do not divide 4 heads / choose a divisor of `heads`",
        ),
        (
            f"x: {{kind: pretrain, data: prose, network: {GPT2}}}",
            "stages.x.network.kv_heads: gpt2 has as many key and value heads as heads / leave `kv_heads` out",
        ),
        (
            "x: {kind: pretrain, data: prose, network: {layers: 1, hidden_size: 64, heads: 4, context: 256}}",
            (
                "stages.x.train.max_length: sequences of 512 tokens, the network reads 256 / "
                "write 256 or less, or raise `context`"
            ),
        ),
        (
            "x: {kind: sft, from: x, data: chat}",
            "stages.x: a cycle: a:x -> a:x / let one of them start from something else",
        ),
    ],
)
def test_a_stage_that_cannot_run_is_refused(root: Path, stage: str, expected: str) -> None:
    assert stage_faults(root, stage) == [f"8: {expected}"]


@pytest.mark.parametrize(
    "stage",
    [
        "x: {kind: sft, from: tone, data: chat}",
        "x: {kind: sft, from: toned, data: chat, targets: mlp}",
        "x: {kind: sft, from: toned, data: prose, train: {loss_on: all}}",
        "x: {kind: evaluate, from: tone, against: base, metrics: {kl: chat, reward_margin: pairs}}",
        "x: {kind: evaluate, from: base, metrics: {m: {metric: loss, data: chat, turns: user}}}",
        "x: {kind: pretrain, data: prose, network: {layers: 1, hidden_size: 64, heads: 4}}",
    ],
)
def test_a_stage_that_can_run_is_taken(root: Path, stage: str) -> None:
    write(root, "a", GOOD.replace(f"  {TONE}", f"  {stage}\n  {TONE}"))
    assert list(load(root).manifests) == ["a"]


def test_settings_are_judged_with_their_defaults(root: Path) -> None:
    stage = "x: {kind: sft, from: toned, data: prose}"
    write(root, "a", GOOD.replace(f"  {TONE}", f"  {stage}\n  {TONE}"))
    (root / "params.yaml").write_text(f"{PARAMS}defaults: {{sft: {{train: {{loss_on: all}}}}}}\n", encoding="utf-8")
    assert list(load(root).manifests) == ["a"]


def test_one_fault_does_not_cause_another(root: Path) -> None:
    """Defaults that cannot be read, or a stage that cannot, say nothing on what is built on them."""
    stage = "x: {kind: sft, from: toned, data: prose}"
    broken = "y: {kind: sfd, from: x, data: chat}"
    user = "z: {kind: fold, from: base, adapters: {y: 1}}"
    rest = "defaults: {sft: {train: {loss_on: al}}}\n"
    assert stage_faults(root, stage, broken, user, rest=rest) == [
        "9: stages.y.kind: unknown kind 'sfd' / did you mean 'sft'?",
        "15: defaults.sft.train.loss_on: expected assistant or all, got text 'al' / did you mean 'all'?",
    ]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("tny", "base: unknown base 'tny' / did you mean 'tiny'?"),
        (
            "{variant: b, stage: tone}",
            "base: b:tone gives an adapter, not a model / name a stage of b that gives a model",
        ),
        ("{variant: b, stage: tned}", "base.stage: unknown stage 'tned' of b / did you mean 'toned'?"),
        ("{variant: c, stage: tone}", "base.variant: unknown variant 'c' / variants here: a, b"),
        (
            "{variant: a, stage: toned}",
            "base: a stage of this variant itself / name 'toned' where it is used; it needs no entry",
        ),
    ],
)
def test_a_base_must_exist_and_be_a_model(root: Path, base: str, expected: str) -> None:
    write(root, "b", GOOD)
    write(root, "a", GOOD.replace("base: tiny", f"base: {base}"))
    assert faults(root) == [f"a/model.yaml:2: {expected}"]


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (
            "{variant: b, stage: toned}",
            ": b:toned gives a model, not an adapter / name a stage of b that gives an adapter",
        ),
        (f"{{hub: a/b, revision: '{COMMIT}', base: big}}", ".base: unknown base 'big' / bases here: tiny"),
        (f"{{path: a, sha256: {HEX}, base: tinny}}", ".base: unknown base 'tinny' / did you mean 'tiny'?"),
    ],
)
def test_an_adapter_must_exist_and_be_one(root: Path, adapter: str, expected: str) -> None:
    write(root, "b", GOOD)
    write(root, "a", f"adapters: {{voice: {adapter}}}{GOOD}")
    assert faults(root) == [f"a/model.yaml:1: adapters.voice{expected}"]


def test_stages_and_adapters_share_one_set_of_names(root: Path) -> None:
    write(root, "a", f"adapters: {{tone: {{hub: a/b, revision: '{COMMIT}', base: tiny}}}}{GOOD}")
    assert faults(root) == [
        "a/model.yaml:1: adapters.tone: 'tone' is a stage, too / rename one of them: they share one set of names"
    ]


def test_a_manifest_without_base_has_no_base_to_start_from(root: Path) -> None:
    write(root, "a", GOOD.replace("base: tiny\n", "\n"))
    mend = "declare it, or start from a pretrain stage"
    assert faults(root) == [
        f"a/model.yaml:8: stages.tone.from: the manifest has no `base` / {mend}",
        f"a/model.yaml:9: stages.toned.from: the manifest has no `base` / {mend}",
    ]


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("{stage: scr, metric: loss, max: 1}", "[0].stage: unknown stage 'scr' / did you mean 'score'?"),
        (
            "{stage: toned, metric: loss, max: 1}",
            (
                "[0].stage: 'toned' is a fold stage, and measures nothing / "
                "name a stage of kind evaluate, fuse, extract or cast"
            ),
        ),
        ("{stage: score, metric: lss, max: 1}", "[0].metric: unknown label 'lss' of score / did you mean 'loss'?"),
        ("{stage: score, metric: zz, max: 1}", "[0].metric: unknown label 'zz' of score / labels of score: loss"),
        (
            "{stage: score, metric: loss, min: 2, max: 1}",
            "[0]: nothing is from 2 to 1 / write the lower bound as `min`",
        ),
        (
            "{stage: score, metric: loss, max_increase: 1}",
            "[0].max_increase: 'score' compares with nothing / add `against` to 'score', or write `min` or `max`",
        ),
        (
            "{stage: x, metric: kl, max_decrease: 1}",
            "[0].max_decrease: 'kl' is a comparison itself / write `min` or `max`",
        ),
    ],
)
def test_a_check_that_cannot_be_judged_is_refused(root: Path, rest: str, expected: str) -> None:
    stage = "x: {kind: evaluate, from: toned, against: base, metrics: {kl: chat}}"
    assert stage_faults(root, stage, rest=f"checks: [{rest}]\n") == [f"13: checks{expected}"]


def test_a_report_is_not_released(root: Path) -> None:
    write(root, "a", GOOD.replace("release: toned", "release: score"))
    mend = "name the stage that is to be published"
    assert faults(root) == [f"a/model.yaml:11: release: 'score' gives a report, not a model or an adapter / {mend}"]


def test_cycles_are_found_within_and_across_variants(root: Path) -> None:
    loop = "one: {kind: sft, from: two, data: chat}\n  two: {kind: sft, from: one, data: chat}"
    write(root, "c", GOOD.replace(f"  {TONE}", f"  {loop}\n  {TONE}"))
    write(root, "a", GOOD.replace("base: tiny", "base: {variant: b, stage: toned}"))
    write(root, "b", GOOD.replace("base: tiny", "base: {variant: a, stage: toned}"))
    mend = "let one of them start from something else"
    found = faults(root)
    assert f"c/model.yaml:8: stages.one: a cycle: c:one -> c:two -> c:one / {mend}" in found
    assert f"a/model.yaml:9: stages.toned: a cycle: a:toned -> b:toned -> a:toned / {mend}" in found
    assert all("cycle" in one for one in found)


def test_many_variants_load_in_seconds(root: Path) -> None:
    """Twenty a second would be too slow for a plan; the bound leaves room for a busy machine."""
    import time  # noqa: PLC0415

    for number in range(100):
        write(root, f"v{number}", GOOD)
    start = time.process_time()
    assert len(load(root).manifests) == 100
    assert time.process_time() - start < 5


def test_one_variant_brings_those_that_it_is_made_from_and_no_others(tmp_path: Path) -> None:
    def declare(name: str, base: str) -> None:
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.yaml").write_text(
            f"schema: 1\nbase: {base}\nstages: {{out: {{kind: fold, from: base, adapters: {{extra: 1.0}}}}}}\n"
            "adapters: {extra: {path: extra, sha256: '" + "0" * 64 + "', base: tiny}}\nrelease: out\n"
        )

    pin = "0" * 64
    (tmp_path / "params.yaml").write_text(f"bases: {{tiny: {{path: tiny, sha256: '{pin}'}}}}\nrecipes: {{fold: 1}}\n")
    declare("first", "tiny")
    declare("second", "{variant: first, stage: out}")
    declare("third", "{variant: second, stage: out}")
    declare("broken", "nowhere")
    assert list(load(tmp_path, only="third").manifests) == ["first", "second", "third"]
    assert list(load(tmp_path, only="first").manifests) == ["first"]
    assert list(load(tmp_path, only="bases").manifests) == []
    with pytest.raises(InvalidError, match="nowhere"):
        load(tmp_path)
