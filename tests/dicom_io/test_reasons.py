"""docs/PIXELS.md lists every reason for which an image is not analysed, and no other."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RAISED = {"NoPixels", "UnsupportedPixels"}  # an UnreadableDicom is a failure, not a rejection


def _documented() -> set[str]:
    text = (ROOT / "docs/PIXELS.md").read_text()
    table = text.split("| reason |", 1)[1].split("\n\n", 1)[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {reason for cell in cells for reason in re.findall("`([^`]+)`", cell)}


def _given() -> set[str]:
    """The fixed part of every reason that the code returns or raises."""
    found = {_text(node) for node in _returned() if not isinstance(node, ast.IfExp)}
    found |= {_text(side) for it in _returned() if isinstance(it, ast.IfExp)
              for side in (it.body, it.orelse)}  # fmt: skip
    for name in ("pixels", "preprocess"):
        for node in ast.walk(ast.parse((ROOT / f"dicom_io/{name}.py").read_text())):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in RAISED:
                found.add(_text(call.args[0]))
    return found - {""}


def _returned() -> list[ast.expr]:
    """What the functions of eligibility return that return a reason, down to each choice."""
    tree = ast.parse((ROOT / "dicom_io/eligibility.py").read_text())
    functions = [
        it
        for it in ast.walk(tree)
        if isinstance(it, ast.FunctionDef) and it.name != "_coded" and it.returns
        and ast.unparse(it.returns) == "str | None"
    ]  # fmt: skip
    returns = [it for function in functions for it in ast.walk(function)
               if isinstance(it, ast.Return) and it.value]  # fmt: skip
    values = [it.value for it in returns if it.value]
    nested = [it for value in values for it in ast.walk(value) if isinstance(it, ast.IfExp)]
    return [*values, *nested]


def _text(node: ast.expr | None) -> str:
    if isinstance(node, ast.JoinedStr):
        parts = [it.value for it in node.values if isinstance(it, ast.Constant)]
        return max((str(part).strip(" (") for part in parts), key=len, default="")
    return str(node.value) if isinstance(node, ast.Constant) and node.value else ""


def test_the_table_of_reasons_is_the_codes() -> None:
    documented = {reason.removesuffix(" …") for reason in _documented()}
    given = {re.sub(" for transfer syntax$", "", reason) for reason in _given()}
    assert documented == given
