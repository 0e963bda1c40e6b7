"""Every link of the pages leads to a file that is there, and to a heading that it has."""

import re
from pathlib import Path

import pytest

from tests.workflow import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("contrib/**/*.md")])
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.S | re.M)


def text_of(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def slug(heading: str) -> str:
    """A heading as an address has it: small letters, hyphens for blanks, nothing else but letters, digits, _ and -."""
    bare = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", bare))


def headings(page: Path) -> set[str]:
    return {slug(line.lstrip("#")) for line in text_of(page).splitlines() if re.match(r"#+ ", line)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in headings(target), f"{page.name}: {link}"


def test_every_page_is_linked_from_the_readme_or_from_a_page_that_is():
    reached, due = set(), [ROOT / "README.md"]
    while due:
        page = due.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(text_of(page)) if ":" not in link)
        due += [(page.parent / link).resolve() for link in links if link]
    assert {page.name for page in ROOT.glob("docs/*.md")} <= {page.name for page in reached}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 900
