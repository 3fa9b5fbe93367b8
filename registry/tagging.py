"""Makes tags, and pushes them where that is asked for: all of them, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.origin import push_tags

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from registry.history import Repository
    from registry.releases import NewTag

__all__ = ["make_tags"]


def make_tags(
    repository: Repository, tags: Sequence[NewTag], *, push: bool, create: Callable[[NewTag], None] | None = None
) -> None:
    """Make tags; where one cannot be made, or the origin does not take them, those that were made are removed again.

    Args:
        repository: Where they are made.
        tags: What is made, in this order.
        push: Whether the origin must have them too.
        create: Makes one of them; plain annotated tags are made where it is left out.

    Raises:
        ConflictError: One exists, here or at the origin.
        DeniedError: One may not be made with the key that git signs with, or the origin lets you push none.
        MachineError: git cannot make or sign one.
        TransportError: The origin does not answer.
    """
    made: list[NewTag] = []
    try:
        for tag in tags:
            if create is None:
                repository.create_tag(tag.name, tag.commit, tag.message)
            else:
                create(tag)
            made.append(tag)
        if push:
            push_tags(repository, [tag.name for tag in made])
    except BaseException:  # Ctrl-C too: half of a release is none
        for tag in made:
            repository.remove_tag(tag.name)
        raise
