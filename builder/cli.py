"""The ``varietal`` command: builder verbs beside registry verbs, and the one place where errors end."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from builder.terminal import Json, answer, repository_root, say
from builder.verbs import (
    build,
    diff,
    doctor,
    gate,
    init,
    lint,
    matrix,
    new,
    pin,
    plan,
    publish,
    release,
    sample,
    upgrade,
    variants,
    verify,
)
from registry import cli as registry_cli
from registry.conflict_markers import left_markers
from registry.counted import counted
from registry.errors import Error, InvalidError, MachineError, NotFoundError, RefusedError
from registry.terminal import Group, open_store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.canonical import JSON

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
    cls=Group,
)
registry_cli.register(app)
build.register(app)
diff.register(app)
doctor.register(app)
gate.register(app)
init.register(app)
lint.register(app)
matrix.register(app)
new.register(app)
pin.register(app)
plan.register(app)
publish.register(app)
release.register(app)
sample.register(app)
upgrade.register(app)
variants.register(app)
verify.register(app)

Variant = Annotated[str, typer.Argument(help="Name of a variant: a folder under models/.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,  # noqa: FBT002
) -> None:
    """Options before the verb; ``main`` reads ``--debug`` where it catches."""
    del debug


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
            said = counted(len(stale), "file is stale", "files are stale") + left_markers(root, stale)
            raise RefusedError(said, where=", ".join(stale), mend="run `varietal compile`")
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
    from builder.share import take_share
    from registry.history import Repository

    take_share(os.environ)  # before torch counts its threads
    with Index.open(Repository(root)) as index:
        run_stage(root, Address(variant=variant, stage=stage), index=index, store=open_store(), say=say)


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
