"""Names of the package are the field's terms: none of version 0.1's own words is left."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "e0_lightning"

REPLACED = {
    "classes": "Contract ActionPort Draw Committed Plan Planner DemoFile Windows Decoded Blocks "
    "BlockShuffle Episode Layout Stage View Outcome Refusal Ledger Parts Recipe Tally Leg Limits "
    "Meters Reader Place ChunkWriter ActionError HalfPrecision",
    "functions": "meet require draw doubt counted settle converse fill filmed steer unmask decide "
    "recognises draw_normal draw_uniform draw_tokens",
    "arguments": "contract committed commits replan switches ordinal density told videos dialect "
    "lanes quota peak warmup rates following optimization val_episodes layout validation "
    "recomputes words asked",
}
"""Names of version 0.1, by what they named."""


def is_public(name: str) -> bool:
    return not name.startswith("_") or name == "__init__"


def names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Public names that a file defines, with their kind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield "classes", node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(node.name):
            yield "functions", node.name
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield from (("arguments", argument.arg) for argument in arguments)


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_replaced_name_is_left(path):
    found = {
        name for kind, name in names(ast.parse(path.read_text())) if name in REPLACED[kind].split()
    }
    assert not found
