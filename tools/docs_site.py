"""Extend the docs site with a MkDocs hook and a Griffe extension.

The hook rewrites links to files outside ``docs/`` (``../../lua/README.md``) to the repository. One link then works in a
checkout, on GitHub and on the site.

The extension converts the reStructuredText in docstrings to Markdown: ``::`` before a literal block, and the name of a
public object in backticks, which becomes a link.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

import griffe

import pyregistry

PUBLIC = {name: f"{getattr(pyregistry, name).__module__}.{name}" for name in pyregistry.__all__}
LINK = re.compile(r"(\]\()(\.\./[^)\s#]+)((?:#[^)\s]*)?\))")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page that point outside ``docs/``."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def rewrite(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        if path.startswith("docs/"):
            return match[0]
        kind = "blob" if "." in posixpath.basename(path) else "tree"
        return f"{match[1]}{config.repo_url}/{kind}/main/{path}{match[3]}"

    return LINK.sub(rewrite, markdown)


class MarkdownDocstrings(griffe.Extension):
    """Converts docstrings to Markdown before they are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """Return a docstring as Markdown."""
    text = re.sub(r"(?m)^( *)::$", "", text)
    text = re.sub(r"(?m)(?<=\S)::$", ":", text)
    return re.sub(
        r"(?<!`)`(\w+)`(?!`)",
        lambda match: f"[`{match[1]}`][{PUBLIC[match[1]]}]" if match[1] in PUBLIC else match[0],
        text,
    )
