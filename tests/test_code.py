"""Code digests: what an edit of the source makes stale, in a small package laid out like ours."""

import pytest

from workflow_scripts.common import code

LOSS = '''"""A loss."""

from workflow_scripts.common import maths
from workflow_scripts.common.names import BETA


def loss(margin):
    """Return the loss (pairs,)."""
    return maths.softplus(-BETA * margin)  # equation 7
'''
FILES = {
    "__init__.py": '"""Ours."""\n',
    "common/__init__.py": "",
    "common/maths.py": "import math\n\n\ndef softplus(x):\n    return math.log1p(math.exp(x))\n",
    "common/names.py": "BETA = 0.1\n",
    "common/unused.py": "ALPHA = 1\n",
    "align/__init__.py": "",
    "align/loss.py": LOSS,
    "align/train.py": "import workflow_scripts.align.loss as method\n\n\ndef main():\n    return method.loss(1)\n",
    "align/near.py": "from . import loss\nfrom .train import main\nfrom ..common.names import BETA\n",
    "align/round.py": "import workflow_scripts.align.trip\n",
    "align/trip.py": "import workflow_scripts.align.round\n",
    "align/lazy.py": "def main():\n    from workflow_scripts.common import names\n    return names.BETA\n",
}
TRAIN = "workflow_scripts.align.train"


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / "workflow_scripts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    code.read_module.cache_clear()
    yield tmp_path / "workflow_scripts"
    code.read_module.cache_clear()


def digests(*modules):
    code.read_module.cache_clear()
    return code.code_of(*modules)


def test_the_closure_is_what_is_imported_and_nothing_else(package):
    names = ["align.loss", "align.train", "common", "common.maths", "common.names"]
    assert list(digests(TRAIN)) == [f"workflow_scripts.{name}" for name in names]


def test_imports_inside_functions_and_of_relative_names_count(package):
    assert "workflow_scripts.common.names" in digests("workflow_scripts.align.lazy")
    near = digests("workflow_scripts.align.near")
    assert near | digests(TRAIN) == near
    assert "workflow_scripts.align.loss" in near


def test_modules_that_import_each_other_end(package):
    assert {"workflow_scripts.align.round", "workflow_scripts.align.trip"} <= set(
        digests("workflow_scripts.align.round")
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # equation 7", ""),
        ("  # equation 7", "  # equation 8, without the mean"),
        ('    """Return the loss (pairs,)."""\n', ""),
        ('"""A loss."""', '"""Another word for it."""'),
        ("maths.softplus(-BETA * margin)", "maths.softplus(\n        -BETA*margin,\n    )"),
        ("\n\n\ndef", "\n\n\n\n\ndef"),
    ],
    ids=["comment gone", "comment", "docstring gone", "module docstring", "format", "blank lines"],
)
def test_editing_a_comment_a_docstring_or_the_format_changes_nothing(package, old, new):
    before = digests(TRAIN)
    assert old in LOSS
    (package / "align" / "loss.py").write_text(LOSS.replace(old, new))
    assert digests(TRAIN) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("align/loss.py", "-BETA", "BETA"),
        ("common/names.py", "0.1", "0.2"),
        ("common/maths.py", "math.exp(x)", "math.exp(2 * x)"),
    ],
)
def test_editing_a_function_changes_exactly_its_module(package, file, old, new):
    before = digests(TRAIN)
    path = package / file
    path.write_text(path.read_text().replace(old, new))
    after = digests(TRAIN)
    module = "workflow_scripts." + file.removesuffix(".py").replace("/", ".")
    assert {name for name in before if before[name] != after[name]} == {module}


def test_editing_what_is_not_imported_changes_nothing(package):
    before = digests(TRAIN)
    (package / "common" / "unused.py").write_text("ALPHA = 2\n")
    assert digests(TRAIN) == before


def test_a_string_that_is_a_value_is_not_a_docstring(package):
    path = package / "common" / "names.py"
    path.write_text('BETA = "a"\n')
    before = digests(TRAIN)
    path.write_text('BETA = "b"\n')
    assert digests(TRAIN) != before


def test_a_function_of_nothing_but_its_docstring_can_be_read(package):
    (package / "common" / "names.py").write_text('def BETA():\n    """One day."""\n')
    assert "workflow_scripts.common.names" in digests(TRAIN)


def test_the_closures_of_our_own_stages_hold_what_decides_their_output():
    code.read_module.cache_clear()
    found = code.code_of("workflow_scripts.sft.tokenise")
    assert {"workflow_scripts.common.templates", "workflow_scripts.common.turns"} <= set(found)
    assert "workflow_scripts.study.checking" not in found


def test_pins_are_the_versions_of_the_lock(tmp_path, monkeypatch):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "requirements.txt").write_text(
        "# torch==0.0\ntorch==2.1\ntorch-geometric==3.0\ntrl==1.2\n"
    )
    monkeypatch.setattr(code, "ROOT", tmp_path)
    code.locked_versions.cache_clear()
    try:
        assert code.pins("trl", "torch") == {"trl": "1.2", "torch": "2.1"}
    finally:
        code.locked_versions.cache_clear()
