"""The ``varietal`` command: builder verbs beside registry verbs, and the one place where errors end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from builder.terminal import Json, answer, repository_root, say
from registry import cli as registry_cli
from registry.errors import DigestMismatchError, Error, InvalidError, MachineError, NotFoundError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from builder.recompute import Recomputed
    from registry.artifact import Artifact
    from registry.canonical import JSON
    from registry.digest import Digest
    from registry.history import Repository
    from registry.record import Record

__all__ = ["app", "main"]

_USAGE_EXIT_CODE = 4
_INTERRUPTED_EXIT_CODE = 130

app = typer.Typer(
    name="varietal",
    help="GitOps for language-model variants: declare, rebuild what changed, release, pull what is proven.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=registry_cli.Group,
)
registry_cli.register(app)

Variant = Annotated[str, typer.Argument(help="Name of a variant: a folder under models/.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,  # noqa: FBT002
) -> None:
    """Options before the verb; ``main`` reads ``--debug`` where it catches."""
    del debug


@app.command("init")
def _init(
    folder: Annotated[Path, typer.Argument(help="Folder of the repository; made if it is not there.")] = Path(),
    *,
    base: Annotated[list[str], typer.Option(help="A base model in that folder, as NAME=PATH; may be repeated.")] = [],  # noqa: B006 - read only
    json: Json = False,
) -> None:
    """Make a repository for variants: git, DVC, pipelines, params.yaml."""
    from builder.init import init

    bases = [_parse_base(folder, text) for text in base]
    if twice := sorted({name for name, _ in bases if [one for one, _ in bases].count(name) > 1}):
        raise InvalidError(f"{twice[0]} is given twice", where="--base", mend="give each base a name of its own")
    written = init(folder, dict(bases))
    answer(json, {"written": list(written)}, [f"wrote {path}" for path in written])
    say("next: write models/<name>/model.yaml, then `varietal compile` and `dvc repro`")


@app.command("new")
def _new(
    variant: Annotated[str, typer.Argument(help="Name of the variant: its folder under models/.")],
    *,
    base: Annotated[str, typer.Option(help="What it starts from: a name under bases:, or VARIANT:STAGE.")] = "",
    from_mergekit: Annotated[Path | None, typer.Option(help="A file of mergekit to translate.")] = None,
    json: Json = False,
) -> None:
    """Write a variant's first manifest, to go on from or out of a mergekit file."""
    from builder.new import new, new_from_mergekit

    if from_mergekit is not None and base:
        raise InvalidError("--base together with --from-mergekit", where="varietal new", mend="keep one of them")
    if from_mergekit is not None:
        started = new_from_mergekit(repository_root(), variant, from_mergekit)
    else:
        started = new(repository_root(), variant, base=base)
    answer(json, started.to_json(), started.lines())
    for line in started.advice():
        say(line)
    say("next: `varietal lint`, then `varietal compile` and `dvc repro`")


@app.command("lint")
def _lint(*, json: Json = False) -> None:
    """Check every manifest; all faults are listed at once."""
    from builder.graph import build_graph
    from builder.load import load

    workspace = load(repository_root())
    stages = len(build_graph(workspace))
    variants = sorted(workspace.manifests)
    answer(json, {"variants": [*variants], "stages": stages}, [f"{len(variants)} variants, {stages} stages: no fault"])


@app.command("compile")
def _compile(
    *,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if a file is stale.")] = False,
    json: Json = False,
) -> None:
    """Write each variant's dvc.yaml from its manifest."""
    from builder.compiled import stale_files, write_pipelines

    root = repository_root()
    if check:
        stale = stale_files(root)
        answer(json, {"stale": list(stale)}, stale or ["every pipeline is what its manifest says"])
        if stale:
            raise RefusedError(f"{len(stale)} files are stale", where=", ".join(stale), mend="run `varietal compile`")
        return
    changes = write_pipelines(root)
    lines = [f"wrote {path}" for path in changes.written] + [f"removed {path}" for path in changes.removed]
    value: JSON = {"written": [*changes.written], "removed": [*changes.removed]}
    answer(json, value, lines or ["nothing to write"])


@app.command("run")
def _run(
    variant: Annotated[str, typer.Argument(help="Name of a variant, or `bases`.")],
    stage: Annotated[str, typer.Argument(help="Name of a stage, or `records`.")],
    only: Annotated[list[str], typer.Argument(help="With `records`: the stages to copy; all if none.")] = [],  # noqa: B006 - read only
) -> None:
    """Build one stage: what DVC calls; `dvc repro` is what you want."""
    from builder.graph import Address
    from builder.pipeline import RECORDS
    from registry.index import Index

    root = repository_root()
    if stage == RECORDS:
        _run_records(root, variant, only)
        return
    if only:
        raise InvalidError(f"unexpected {' '.join(only)}", where="varietal run", mend="name one stage")
    from builder.run import run_stage
    from registry.history import Repository

    with Index.open(Repository(root)) as index:
        run_stage(root, Address(variant=variant, stage=stage), index=index, store=registry_cli.open_store(), say=say)


@app.command("components")
def _components(
    ref: Annotated[str, typer.Argument(help="A stage (name:stage) in this tree, or a folder.")],
    *,
    select: Annotated[str, typer.Option(help="A selector as YAML, such as '[attention, mlp.up]'.")] = "",
    json: Json = False,
) -> None:
    """Print the components of a network, their sizes, and what a selector matches."""
    from builder.inspect import tensors_of
    from registry import yaml12
    from registry.component_tree import describe, tabulate
    from registry.selector import Selector

    selector = Selector.parse(yaml12.load(select, "--select").value, where="--select") if select else None
    tensors = tensors_of(repository_root, ref)
    if json:
        answer(json, [row.to_json() for row in tabulate(tensors, selector)], ())
    else:
        answer(json, None, describe(tensors, selector))


@app.command("pin")
def _pin(
    source: Annotated[str, typer.Argument(help="A folder of this repository, or hub:organisation/name[@revision].")],
    *,
    json: Json = False,
) -> None:
    """Print the entry that pins a model or an adapter, for params.yaml or a manifest."""
    from builder.pin import pin

    entry = pin(repository_root(), source)
    answer(json, dict(entry), [f'{key}: "{value}"' if key != "path" else f"{key}: {value}" for key, value in entry])


@app.command("verify")
def _verify(
    ref: registry_cli.RefText,
    folder: Annotated[Path | None, typer.Argument(help="A folder that should hold the artifact.")] = None,
    *,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Compute every fold, blend and the like of its lineage again.")
    ] = False,
    json: Json = False,
) -> None:
    """Prove what a ref names, step by step; with a folder, that it holds these very bytes."""
    from registry.history import Repository
    from registry.refs import parse
    from registry.report import Report, report_proof
    from registry.resolve import resolve
    from registry.verify import prove_folder

    repository = Repository.open(Path.cwd())
    found = resolve(repository, parse(ref))
    steps = prove_folder(found.record, folder) if folder is not None else ()
    signed = repository.check_signature(f"{found.record.variant}@{found.version}") if found.version else None
    report = report_proof(found, str(folder or ""), steps, signed=signed)
    again = _recompute(repository, found.record) if recompute else ()
    value: JSON = {**cast("dict[str, JSON]", report.json), "recomputed": [one.to_json() for one in again]}
    registry_cli.print_report(Report(value, [*report.lines, *map(str, again)]), json=json)
    if wrong := [one for one in again if not one.holds and not one.depends_on]:
        raise DigestMismatchError(
            f"{len(wrong)} of {len(again)} stages give other bytes than their records say",
            where=", ".join(one.ref for one in wrong),
            mend="do not use it; find out who changed the records or the inputs, and build it again",
        )


def _recompute(repository: Repository, record: Record) -> Sequence[Recomputed]:
    from builder.recompute import recompute
    from registry.index import Index

    with Index.open(repository) as index:
        return recompute(repository.root, record, index=index, store=registry_cli.open_store(), say=say)


@app.command("diff")
def _diff(
    before: Annotated[str, typer.Argument(help="A ref, or a folder.")],
    after: Annotated[str, typer.Argument(help="Another ref, or a folder.")],
    *,
    svg: Annotated[Path | None, typer.Option(help="File to draw a heat map into, layers by components.")] = None,
    json: Json = False,
) -> None:
    """Measure what changed between two artifacts: which components and layers, how far, in how many directions."""
    from builder.inspect import open_artifact
    from builder.weights.diff import diff, draw, tabulate

    def opened(ref: str) -> AbstractContextManager[tuple[Path, Artifact]]:
        return open_artifact(repository_root, ref, registry_cli.open_store, say)

    with opened(before) as (old_folder, old), opened(after) as (new_folder, new):
        rows = diff(old_folder, old, new_folder, new, threads=len(os.sched_getaffinity(0)))
    if svg is not None:
        svg.write_text(draw(rows, f"{before} -> {after}"), encoding="utf-8")
        say(f"wrote {svg}")
    value: JSON = {"before": str(old.digest), "after": str(new.digest), "rows": [row.to_json() for row in rows]}
    answer(json, value, tabulate(rows))


@app.command("gate")
def _gate(variant: Variant, *, json: Json = False) -> None:
    """Judge a variant's checks from its records, and whether its lock is fresh. No GPU, no evaluation."""
    from builder.release import judge_variant

    verdict = judge_variant(repository_root(), variant)
    lines = [f"{'pass' if one.passed else 'FAIL'}  {one.reason}" for one in verdict.judgements]
    lines += [f"FAIL  {reason}" for reason in verdict.stale]
    answer(json, verdict.to_json(), lines or ["no checks, on purpose; the lock is fresh"])
    if not verdict.passed:
        raise RefusedError(
            "the gate says no", where=f"models/{variant}", mend="mend each FAIL above: `dvc repro`, or another manifest"
        )


@app.command("release")
def _release(
    ref: Annotated[str, typer.Argument(help="Variant and version: name@v1.0.0.")],
    *,
    remote: Annotated[str, typer.Option(help="DVC remote that must have the bytes; the default one if none.")] = "",
    json: Json = False,
) -> None:
    """Tag a version: on the main branch, checks passed, lock fresh, bytes on the remote."""
    from builder.release import release_variant

    tag = release_variant(repository_root(), ref, remote, store=registry_cli.open_store(), say=say)
    answer(json, {"tag": tag.name, "commit": tag.commit}, [f"{tag.name} is commit {tag.commit}"])
    say(f"next: `git push origin {tag.name}`, and `varietal promote {tag.name} CHANNEL`")


def main() -> None:
    """Run the command; an error of ours ends here, with its message and its exit code."""
    debug = "--debug" in sys.argv[1:]
    try:
        code = app(standalone_mode=False)
    except Error as error:
        if debug:
            raise
        say(str(error))
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        say(
            str(
                InvalidError(error.format_message(), where="the command line", mend="`varietal --help`, or VERB --help")
            )
        )
        sys.exit(_USAGE_EXIT_CODE)
    except (typer.Abort, KeyboardInterrupt):
        say("interrupted")
        sys.exit(_INTERRUPTED_EXIT_CODE)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # a place that this user cannot read or write: the machine's, not a mistake of ours
        if debug:
            raise
        failed = _failed(error)
        say(str(failed))
        sys.exit(failed.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _failed(error: OSError) -> MachineError:
    return MachineError(
        f"cannot read or write: {error.strerror or error}",
        where=str(error.filename or "the operating system"),
        mend="check that it is what it should be, a file or a folder, its permissions and the disk",
    )


def _run_records(root: Path, variant: str, only: Sequence[str]) -> None:
    from builder.graph import build_graph
    from builder.load import load
    from builder.pipeline import RECORDS
    from builder.records import copy_records
    from registry.record import manifest_file

    graph = build_graph(load(root, only=variant))
    stages = [address.stage for address in graph if address.variant == variant]
    if unknown := sorted(set(only) - set(stages)) or ([] if stages else [RECORDS]):
        raise NotFoundError(
            f"there is no stage {variant}:{unknown[0]}",
            where=str(manifest_file(variant)),
            mend="declare it there, or name another; `varietal lint` says what is wrong",
        )
    for path in copy_records(root, variant, only or stages, prune=not only):
        say(f"{variant}: {path}")


def _parse_base(root: Path, text: str) -> tuple[str, tuple[str, Digest]]:
    from builder.manifest import parse_project
    from builder.sources import folder_pin

    name, _, path = text.partition("=")
    if not name or not path:
        raise InvalidError(f"{text!r} is not NAME=PATH", where="--base", mend="write --base tiny=sources/tiny")
    pin = folder_pin(root / path)
    parse_project({"bases": {name: {"path": path, "sha256": pin.hex}}})  # what is written must be read again
    return name, (path, pin)
