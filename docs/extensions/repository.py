"""
mkdocs hook: pages link to files of the repository as they do on a code host, and the site shows those files.

A page of `docs/` links to `../hf_iomt/race.py`. On the site this leads to the reference of that module, or of the
object that the text of the link names. Other files become pages of the site: Markdown as it is, with what it links to
in turn, sources as listings. Modules that no page of the reference names are added to `reference/internals.md`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PACKAGE = "hf_iomt"
INTERNALS = "reference/internals.md"
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_BLOCK = re.compile(r"(^```.*?^```[^\n]*$)", re.DOTALL | re.MULTILINE)
_DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
_IDENTIFIER = re.compile(r"`(?P<name>\w+(?:\.\w+)?)(?:\(\))?`")
_LISTINGS = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".cff": "yaml", ".toml": "toml"}
_ASSETS = {".png", ".svg", ".json"}
# mkdocs takes a README for the first page of its folder; the site has one of its own.
_RENAMED = {"README.md": "overview.md"}


def on_files(files: Files, config: MkDocsConfig, **kwargs: Any) -> Files:
    """Add the files of the repository that pages link to."""
    root = _root(config)
    queue = [file.src_uri for file in files.documentation_pages()]
    # The navigation may name a file of the repository that no page links to.
    for uri in _nav_files(config.nav):
        if files.get_file_from_path(uri) is None and (root / uri).is_file():
            files.append(_add(root, uri, config))
            queue.append(uri)
    while queue:
        source = queue.pop()
        file = files.get_file_from_path(source)
        assert file is not None
        for match in _links(file.content_string):
            target = repository_path(source, match["target"], root)
            if target is None or (target.endswith(".py") and target.startswith(f"{PACKAGE}/")):
                continue
            uri = site_path(target)
            if files.get_file_from_path(uri) is None:
                files.append(_add(root, target, config))
                if target.endswith(".md"):
                    queue.append(uri)
    internals = files.get_file_from_path(INTERNALS)
    if internals is not None:
        internals.content_string += "\n\n".join(["", *(f"::: {name}" for name in undocumented(root, files))])
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **kwargs: Any) -> str:
    """Lead links to files of the repository to where the site shows them."""
    root, source = _root(config), page.file.src_uri

    def replace(match: re.Match[str]) -> str:
        target = repository_path(source, match["target"], root)
        if target is None:
            return match[0]
        if target.startswith(f"{PACKAGE}/") and target.endswith(".py"):
            return f"[{match['text']}][{reference_of(target, match['text'])}]"
        anchor = match["target"].partition("#")[2]
        uri = posixpath.relpath(site_path(target), posixpath.dirname(source) or ".")
        return f"{match['image']}[{match['text']}]({uri}{'#' + anchor if anchor else ''})"

    return "".join(part if part.startswith("```") else _LINK.sub(replace, part) for part in _BLOCK.split(markdown))


def repository_path(source: str, target: str, root: Path) -> str | None:
    """
    The file that a page links to, if it lies outside of `docs/`.

    Args:
        source (`str`): The page: its path in `docs/`, or in the repository if it was added from there.
        target (`str`): What it links to.
        root (`Path`): The repository.

    Returns:
        `str` or `None`: Path in the repository; `None` for pages of the site, anchors and addresses.
    """
    path = target.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    folder = "docs" if (root / "docs" / source).is_file() else ""
    found = posixpath.normpath(posixpath.join(folder, posixpath.dirname(source), path))
    if found.startswith("docs/") and folder:
        return None
    return found if (root / found).is_file() else None


def site_path(path: str) -> str:
    """Where the site shows a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in _RENAMED:
        return _RENAMED[path]
    if path.endswith(".md") or Path(path).suffix in _ASSETS:
        return path
    return f"{path}.md"


def reference_of(path: str, text: str) -> str:
    """The object that a link to a file of the package means: the one that its text names, else the module."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    match = _IDENTIFIER.fullmatch(text)
    # `trainer.py` and `hf_iomt.trl` are the module itself.
    is_module = match is None or match["name"].endswith(".py") or match["name"] == module
    return module if match is None or is_module else f"{module}.{match['name']}"


def undocumented(root: Path, files: Files) -> list[str]:
    """Modules of the package that no page of the reference names."""
    pages = [file for file in files.documentation_pages() if file.src_uri.startswith("reference/")]
    named = {name for file in pages for name in _DIRECTIVE.findall(file.content_string)}
    modules = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        # Packages only export what their modules hold.
        if not name.endswith("__init__") and not any(name == other or other.startswith(f"{name}.") for other in named):
            modules.append(name)
    return modules


def _add(root: Path, path: str, config: MkDocsConfig) -> File:
    uri = site_path(path)
    if uri == path:
        return File(path, str(root), config.site_dir, config.use_directory_urls)
    text = (root / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return File.generated(config, uri, content=text)
    fence, language = "`" * 4, _LISTINGS.get(Path(path).suffix, "text")
    # The search is for prose.
    header = "---\nsearch:\n  exclude: true\n---\n\n"
    listing = f"{header}# `{path}`\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"
    return File.generated(config, uri, content=listing)


def _links(markdown: str) -> list[re.Match[str]]:
    blocks = [block for block in _BLOCK.split(markdown) if not block.startswith("```")]
    return [match for block in blocks for match in _LINK.finditer(block)]


def _nav_files(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav or []
    return [uri for item in items for uri in _nav_files(item)]


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent
