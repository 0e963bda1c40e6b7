"""The program in an answer of a policy that chats: fenced or bare, the whole function or its body, with prose around.

Covers fences with any tag, indented, unclosed, or several; helpers and imports in a block before; a repeated signature;
a body alone, also where its indentation was lost; the same in bare text. Not covered: a function by another name, or
inside a class that was not asked for.
"""

import ast
import functools
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence

FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([^`\n]*)")
CODE = re.compile(r"(?:async\s+def|def|class|import|from)\s|@|[A-Za-z_]\w*\s*=[^=]")
FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
EXAMPLES = (ast.Expr, ast.Assert, ast.For, ast.While, ast.If, ast.With, ast.Try)
PURE = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
)
STARTS, CUTS = (
    200,
    50,
)  # so many lines are tried as a start of code, and so often it is cut where it stops to be


def lines_of(text: str) -> list[str]:
    """Return the lines of a text as Python counts them; `splitlines` parts them at what a string may hold, too."""
    return re.split(r"\r\n|\r|\n", text)


@functools.lru_cache(maxsize=16)
def parse(code: str) -> ast.Module | SyntaxError | None:
    """Return a text's syntax tree, the error where it is no Python, or None where it cannot even be tried."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as "\d" in a text
            return ast.parse(code)
    except SyntaxError as error:
        return error
    except (ValueError, MemoryError, RecursionError):  # null bytes; nested too deep
        return None


def bound_names(node: ast.stmt) -> set[str]:
    """Return the names that a top-level statement defines: a function, a class, or what it assigns."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {
        name.id for target in targets if target for name in ast.walk(target) if isinstance(name, ast.Name)
    }


def defined(code: str) -> set[str]:
    """Return the names that a program defines at its top level; none if it is no Python."""
    tree = parse(code)
    return set().union(*map(bound_names, tree.body)) if isinstance(tree, ast.Module) else set()


def fenced_blocks(text: str) -> list[str]:
    """Return what stands in each Markdown fence, without its indentation; one that is never closed goes to the end."""
    blocks: list[list[str]] = []
    fence = ""
    for line in lines_of(text):
        found = FENCE.fullmatch(line.rstrip())
        if found and (not fence or found[1].startswith(fence)):
            if fence and not found[2]:
                fence = ""
                continue
            fence = found[1]
            blocks.append([found[2]] if CODE.match(found[2]) else [])
        elif fence and line.rstrip().endswith(fence):
            blocks[-1].append(line.rstrip().removesuffix(fence))
            fence = ""
        elif fence:
            blocks[-1].append(line)
    return [textwrap.dedent("\n".join(lines)) for lines in blocks]


def block_from(lines: list[str]) -> list[str]:
    """Return the first line and those after it that are indented like it, or empty, without that indentation."""
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    rest = itertools.takewhile(lambda line: not line.strip() or line.startswith(indent), lines)
    return [line.removeprefix(indent) for line in rest]


def stretches(text: str) -> Iterator[str]:
    """Yield each stretch of Python in a text with other words: from a line like code, as far as it parses."""
    lines = lines_of(text)
    starts = [place for place, line in enumerate(lines) if CODE.match(line.lstrip())]
    past = 0
    for start in starts[:STARTS]:
        if start < past:
            continue
        part = block_from(lines[start:])
        for _ in range(CUTS):
            tree = parse("\n".join(part))
            if isinstance(tree, ast.Module) and tree.body:
                past = start + len(part)
                yield "\n".join(part)
                break
            if not isinstance(tree, SyntaxError) or not part:
                break
            del part[max(0, min(tree.lineno or 1, len(part)) - 1) :]


def without_examples(code: str, names: Sequence[str]) -> str:
    """Return a program without what follows its definitions of `names` and defines nothing: calls, tests, prints."""
    tree = parse(code)
    if not isinstance(tree, ast.Module):
        return code
    lines = lines_of(code)
    places = [place for place, node in enumerate(tree.body) if bound_names(node) & set(names)]
    for node in tree.body[max(places, default=len(tree.body)) + 1 :]:
        if isinstance(node, EXAMPLES):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(lines)


def find_program(text: str, names: Sequence[str]) -> str | None:
    """Return the part of an answer that defines most of `names`, of equals the last; None if none does.

    Of fenced blocks before it, those that only define or import something stand before it, too.
    """
    blocks = fenced_blocks(text)
    parts = []
    for block in blocks or [text]:
        found = [block] if defined(block) & set(names) else stretches(block)
        parts.append(max(found, key=lambda part: len(defined(part) & set(names)), default=""))
    counts = [len(defined(part) & set(names)) for part in parts]
    if not max(counts, default=0):
        return None
    chosen = max(range(len(parts)), key=lambda place: (counts[place], place))
    before = [
        block
        for block in blocks[:chosen]
        if isinstance(tree := parse(block), ast.Module)
        and all(isinstance(node, PURE) for node in tree.body)
        and not defined(block) & defined(parts[chosen])
    ]
    return "\n".join([*before, without_examples(parts[chosen], names)])


def closed(prompt: str) -> str:
    """Return a prompt that ends within a function as a program: its imports and helpers, and the function as a stub."""
    program = f"{prompt}\n    pass\n"
    return program if isinstance(parse(program), ast.Module) else ""


def has_body(program: str, name: str) -> bool:
    """Return whether a program defines a function with more in it than a docstring."""
    tree = parse(program)
    if not isinstance(tree, ast.Module):
        return False
    made = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return bool(made) and len(made[-1].body) > (ast.get_docstring(made[-1]) is not None)


def read_program(text: str, names: Sequence[str], prompt: str = "") -> str:
    """Return the program of an answer that is to define `names`.

    A `prompt` of code, which ends within the function asked for, goes before it: with the stub where the answer
    defines the function anew, else with its body. What can be neither is returned as it is, and will fail.
    """
    found = find_program(text, names)
    if found is not None:
        future = "".join(part if part.endswith("\n") else f"{part}\n" for part in FUTURE.findall(found))
        return f"{future}{closed(prompt)}\n{FUTURE.sub('', found)}\n" if prompt else f"{found}\n"
    bodies = [*reversed(fenced_blocks(text)), text]
    if not prompt:
        return next((body for body in bodies if isinstance(parse(body), ast.Module)), text) + "\n"
    for body in bodies:
        body = body.strip("\n").rstrip()
        own = lines_of(textwrap.dedent(body))
        indented = "\n".join(f"    {line}" if line.strip() else line for line in own)
        for program in (f"{prompt}{body}\n", f"{prompt}{indented}\n", f"{prompt}    {body.lstrip()}\n"):
            if has_body(program, names[0]):
                return program
    return f"{prompt}{text}\n"


def looks_like_chat(answer: dict, kept: str, name: str, prompt: str = "") -> bool:
    """Return whether a completion is none: fenced, the function begun anew, or ended before its first word.

    `answer` is its row of the generations, `kept` what the stop strings leave of its text after `prompt`.
    """
    text = answer["text"]
    if prompt and has_body(prompt + kept, name):
        return False
    near = [*lines_of(kept), text[len(kept) :].lstrip("\n")]
    if any(map(FENCE.match, near)) and not isinstance(parse(prompt + kept), ast.Module):
        return True
    if re.search(rf"^[ \t]*(?:async )?(?:def|class) {re.escape(name)}\b", text, re.MULTILINE):
        return True
    return not kept.strip() and (bool(text.strip()) or answer.get("completion_tokens", 0) > 1)
