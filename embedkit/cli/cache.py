"""``embedkit cache``: the care of the feature store."""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from embedkit.cli import options
from embedkit.cli.output import emit, show, table
from embedkit.errors import StoreError, UsageError, require

if TYPE_CHECKING:
    from embedkit.store import CareReport, FeatureStore

_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "cache", help="look after the feature store: info, verify, gc, purge", allow_abbrev=False
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _action(actions, "info", _info, "show where the store is and what it holds")
    _action(actions, "verify", _verify, "read every byte and check it; damaged files are set aside")
    gc = _action(actions, "gc", _gc, "remove what nobody needs and merge small files (a dry run unless --delete)")
    gc.add_argument("--max-size", metavar="SIZE", help="evict the longest unused spaces down to it, such as 5G")
    gc.add_argument("--older-than", metavar="AGE", help="evict spaces unused for so long, such as 30d")
    gc.add_argument("--space", metavar="ID", help="only this space: its id or the beginning of it")
    gc.add_argument("--delete", action="store_true", help="do it")
    purge = _action(actions, "purge", _purge, "remove all features, or those of one space")
    purge.add_argument("--space", metavar="ID", help="only this space: its id or the beginning of it")
    purge.add_argument("--yes", action="store_true", help="needed: all of it goes at once")


def _action(actions: options.Subparsers, name: str, run: options.Command, what: str) -> argparse.ArgumentParser:
    parser = options.command(actions, name, run, what)
    parser.add_argument("--store", metavar="DIR", help="default: $EMBEDKIT_STORE, else the user's cache folder")
    return parser


def _store(args: argparse.Namespace) -> FeatureStore:
    require("pyarrow", extra="train", purpose="embedkit cache")
    from embedkit.store import FeatureStore, resolve_root

    return FeatureStore(resolve_root(args.store))


def _info(args: argparse.Namespace) -> int:
    info = _store(args).info()
    if args.json:
        emit(info)
        return 0
    show(f"{info['root']}: {info['rows']:,} rows, {_size(info['bytes'])}, "
         f"{'writable' if info['writable'] else 'read-only or not made yet'}")  # fmt: skip
    if info["spaces"]:
        rows: list[list[object]] = [
            ["space", "layer", "pooling", "tokens", "precision", "kept as", "rows", "size", "used"]
        ]
        for space in info["spaces"]:
            told = space["descriptor"] or {}
            what = [told.get(key, "?") for key in ("layer", "pooling", "max_length", "precision", "stored_dtype")]
            used = time.strftime("%Y-%m-%d", time.localtime(space["last_used"]))
            rows.append([space["id"][:12], *what, f"{space['rows']:,}", _size(space["bytes"]), used])
        show(table(rows))
    if info["engines"]:
        size = sum(engine["bytes"] for engine in info["engines"])
        show(f"{len(info['engines'])} encoders kept as ONNX graphs, {_size(size)}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    report = _store(args).verify()
    if args.json:
        emit({**asdict(report), "ok": report.ok})
    else:
        graphs = f", {report.engines:,} graphs" if report.engines else ""
        show(
            f"{report.spaces:,} spaces, {report.shards:,} files, {report.rows:,} rows{graphs}, "
            f"{_size(report.bytes)} read"
        )
        for damage in report.damaged:
            show(f"damaged: {damage.path} ({damage.reason}, {damage.rows:,} rows)")
    if not report.ok:
        raise StoreError(
            f"{len(report.damaged)} damaged files are set aside; what was in them is made again when needed"
        )
    return 0


def _gc(args: argparse.Namespace) -> int:
    report = _store(args).gc(
        None if args.max_size is None else int(_number(args.max_size, _UNITS, "--max-size")),
        None if args.older_than is None else _number(args.older_than, _SECONDS, "--older-than"),
        args.space,
        args.delete,
    )
    _care(args, report)
    if not (args.json or args.delete):
        show("nothing was changed; add --delete to do it")
    return 0


def _purge(args: argparse.Namespace) -> int:
    store = _store(args)
    if not args.yes:
        what = f"space {args.space}" if args.space else "all features"
        raise UsageError(f"this removes {what} in {store.root}; add --yes to do it")
    _care(args, store.purge(args.space))
    return 0


def _care(args: argparse.Namespace, report: CareReport) -> None:
    if args.json:
        emit({**asdict(report), "bytes": report.bytes})
        return
    verb = "removed" if report.deleted else "would remove"
    for removal in report.removed:
        show(f"{verb} {removal.path} ({removal.why}, {_size(removal.bytes)})")
    merged = f", {report.merged} small files merged" if report.merged else ""
    show(f"{verb} {_size(report.bytes)} in {len(report.removed)} places{merged}")


def _number(text: str, units: dict[str, int], flag: str) -> float:
    """Read a number with a unit."""
    digits = text.rstrip("".join(units))
    unit = text[len(digits) :]
    if unit in units and _NUMBER.fullmatch(digits):
        return float(digits) * units[unit]
    allowed = ", ".join(f"1{unit}" for unit in units)
    raise UsageError(f"{flag} is {text!r}; write it as {allowed}")


def _size(count: float) -> str:
    for unit, limit in (("B", 10**3), ("kB", 10**6), ("MB", 10**9)):
        if count < limit:
            return (
                f"{count / (limit / 1000):.0f} {unit}" if unit == "B" else f"{count / (limit / 1000):.1f} {unit}"
            )
    return f"{count / 10**9:.2f} GB"
