"""The pages in docs/ that show code: the code runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"


def python_in(page):
    text = (DOCS / page).read_text("utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_extending_the_trainer_runs_as_written(tmp_path):
    code = "\n".join(python_in("extending.md"))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    assert str(metrics["test"]["accuracy"] * 100)[:4] in done.stdout


def test_the_page_on_the_notebook_shows_its_cells():
    notebook = nbformat.read(DOCS / "from-a-notebook.ipynb", as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert cells == [code.strip() for code in python_in("from-a-notebook.md")]
    assert sum(len(cell.split("\n")) for cell in cells) <= 45


def test_the_notebook_runs():
    notebook = nbformat.read(DOCS / "from-a-notebook.ipynb", as_version=4)
    resources = {"metadata": {"path": str(DOCS)}}
    NotebookClient(notebook, timeout=120, resources=resources).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells
        for output in cell.get("outputs", ())
    )  # fmt: skip
    accuracy = re.search(r"accuracy (\d+\.\d+)%", printed)
    assert float(accuracy[1]) > 90


def test_every_path_in_the_docs_exists():
    root = DOCS.parent
    for page in DOCS.glob("*.md"):
        text = page.read_text("utf-8")
        for path in re.findall(r"`((?:mnist_tf|tests|benchmarks|docs)/[\w/.]+)`", text):
            assert (root / path).exists(), f"{page.name}: {path}"
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (DOCS / link).exists(), f"{page.name}: {link}"
