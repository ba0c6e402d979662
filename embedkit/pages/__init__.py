"""Pages that open from disk: markup that escapes by itself, documents that load nothing and run our code alone."""

from __future__ import annotations

from embedkit.pages.document import asset, document, library
from embedkit.pages.markup import Content, Html, escaped, quoted, table, tag

__all__ = ["Content", "Html", "asset", "document", "escaped", "library", "quoted", "table", "tag"]
