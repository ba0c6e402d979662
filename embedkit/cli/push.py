"""``embedkit push``: a trained classifier or an exported folder, with its card, on the hub."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.cli import options
from embedkit.cli.output import emit, show, tell_notes

if TYPE_CHECKING:
    from embedkit.hub import Uploaded


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(
        subparsers, "push", run, "upload a trained classifier or an exported folder, with its card, to the hub"
    )
    parser.add_argument("folder", metavar="DIR", help="what fit-head or export-onnx wrote")
    parser.add_argument("repository", metavar="REPO", help="owner/name on the hub; made where there is none")
    parser.add_argument("--private", action="store_true", help="a repository that only you and yours can see")
    parser.add_argument("--revision", metavar="BRANCH", help="default: main; made where there is none")
    parser.add_argument("--message", metavar="TEXT", default="Upload with embedkit", help="of the commit")
    group = parser.add_argument_group("what is held back otherwise")
    group.add_argument(
        "--with-report", action="store_true", help="upload report/ too, which holds texts of your data"
    )
    group.add_argument(
        "--with-vectors", action="store_true", help="upload a head, such as knn, that holds vectors of your texts"
    )


def run(args: argparse.Namespace) -> int:
    """Choose, upload, say where it is."""
    from embedkit.hub import upload
    from embedkit.sharing import shareable

    chosen = shareable(Path(args.folder), with_report=args.with_report, with_vectors=args.with_vectors)
    tell_notes(args, chosen.notes)
    done = upload(
        chosen.files, args.repository, private=args.private, revision=args.revision, message=args.message
    )
    tell_notes(args, _about_the_repository(done))
    if args.json:
        facts = {"repository": done.repository, "url": done.url, "commit": done.commit, "private": done.private}
        emit(
            {
                **facts,
                "files": sorted(chosen.files),
                "replaced": done.replaced,
                "removed": done.removed,
                "kept": done.kept,
            }
        )
        return 0
    who = "private" if done.private else "public"
    show(f"{len(chosen.files)} files in {done.url} ({who}), commit {done.commit}")
    return 0


def _about_the_repository(done: Uploaded) -> Iterator[str]:
    """Say what became of files that were there before."""
    from embedkit.sharing import CARD

    if done.removed:
        yield (
            f"removed there, because this upload has them no more: {', '.join(done.removed)}; earlier commits of "
            "the repository still hold them"
        )
    if CARD in done.replaced:
        yield f"the {CARD} there was replaced; to keep one of your own, put it into the folder before a push"
    if done.kept:
        others = "1 other file" if len(done.kept) == 1 else f"{len(done.kept)} other files"
        yield f"{others} of the repository: left unchanged"
