"""A hook of mkdocs: links out of docs/ lead to the repository, where these files are read as they are."""

from __future__ import annotations

REPOSITORY = "https://github.com/expunge/expunge/blob/main/"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace ``](../x)`` by a link to the repository."""
    return markdown.replace("](../", f"]({REPOSITORY}")
