"""DICOM validators over many objects at once: each starts slowly, and some read several files."""

import os
import re
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.peers import tool

# PixelMed's templates are more XPath than Java 17 takes by default.
JAVA_TOOL_OPTIONS = " ".join(
    f"-Djdk.xml.{limit}=0"
    for limit in ("xpathExprOpLimit", "xpathTotalOpLimit", "xpathExprGrpLimit")
)


def _run(*command: object) -> str:
    environment = os.environ | {"JAVA_TOOL_OPTIONS": JAVA_TOOL_OPTIONS}
    said = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
        check=False,
    )
    return f"{said.stdout}{said.stderr}\nexit {said.returncode}\n"


def _each(program: str, files: Mapping[str, bytes], folder: Path, *options: str) -> dict[str, str]:
    """What a program says of each object, by name."""
    found = tool(program)
    paths = {}
    for number, (name, content) in enumerate(files.items()):
        paths[name] = folder / f"{program}-{number}.dcm"
        paths[name].write_bytes(content)
    with ThreadPoolExecutor(2) as executor:
        said = executor.map(lambda path: _run(found, *options, path), paths.values())
        return dict(zip(paths, said, strict=True))


def dciodvfy(files: Mapping[str, bytes], folder: Path) -> dict[str, dict[str, list[str]]]:
    """Its lines of the kinds Error and Warning, by the object's name."""
    said = _each("dciodvfy", files, folder)
    return {word: _lines(word, said) for word in ("Error", "Warning")}


def dsrdump(files: Mapping[str, bytes], folder: Path) -> dict[str, str]:
    return _each("dsrdump", files, folder, "+Pl")


def pixelmed(content: bytes, folder: Path) -> list[str]:
    """What PixelMed's validator says of an SR, line by line."""
    path = folder / "pixelmed.dcm"
    path.write_bytes(content)
    return _run(tool("DicomSRValidator"), path).splitlines()


def _lines(word: str, said: Mapping[str, str]) -> dict[str, list[str]]:
    lines = {
        name: [re.sub(r"\s+", " ", line) for line in text.splitlines() if word in line]
        for name, text in said.items()
    }
    return {name: found for name, found in lines.items() if found}
