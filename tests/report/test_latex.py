"""The numbers as LaTeX: every row has as many cells as columns, names are escaped, the best is bold."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.audit.run.plan import Role
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.summary import ModelRow
from expunge.report.job import ReportJob
from expunge.report.latex import escaped, to_latex
from expunge.report.run import AuditRun
from tests.report import hostile

WHOLE = r"""\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}
\begin{document}%s\end{document}"""


def tables(text: str) -> list[str]:
    return re.findall(r"\\begin{tabular}.*?\\end{tabular}", text, flags=re.DOTALL)


def check(text: str) -> None:
    """Balanced groups, and rows as wide as their table."""
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    for table in tables(text):
        (columns,) = re.findall(r"\\begin{tabular}{(.*?)}", table)
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert rows
        for row in rows:
            (spanned,) = re.findall(r"\\multicolumn{(\d+)}", row) or ["1"]
            assert len(re.findall(r"(?<!\\)&", row)) + int(spanned) == len(columns)


def test_a_row_for_each_model_and_a_block_for_each_condition(run: AuditRun) -> None:
    text = to_latex(run)
    check(text)
    (table,) = tables(text)
    assert r"knowmem\_forget $\downarrow$ & utility $\uparrow$ \\" in table  # PrivLeak has no number
    assert [line for line in table.splitlines() if "emph" in line] == [
        rf"\multicolumn{{3}}{{l}}{{\emph{{{label}}}}} \\" for label in ("full precision", "int8", "int4")
    ]
    robust = [line for line in table.splitlines() if line.startswith("robust")]
    fragile = [line for line in table.splitlines() if line.startswith("fragile")]
    assert r"\textbf{25.0} {\scriptsize [15.0, 35.0]}" in robust[2]
    assert r"100 {\scriptsize [90.0, 100]}" in fragile[2]
    assert r"\textbf" not in fragile[2].split("&")[1]
    assert r"\textbf" in robust[0].split("&")[1]  # both are best where they are equal
    assert r"\textbf" in fragile[0].split("&")[1]
    assert not any(r"\textbf" in line for line in table.splitlines() if line.startswith("retrained"))


def test_seeds_are_a_mean_and_a_standard_deviation(run: AuditRun) -> None:
    def cell_of(cell, value):  # type: ignore[no-untyped-def]
        return cell.model_copy(update={"value": replace(cell.value, value=value)})

    recipe = ModelRow(name="recipe", role=Role.UNLEARNED, hash="", seeds=("fragile", "robust"))
    models = (
        *(
            model.model_copy(update={"seed_of": "recipe"}) if model.name in recipe.seeds else model
            for model in run.summary.models
        ),
        recipe,
    )
    values = {"fragile": 20.0, "robust": 24.0}
    cells = tuple(
        cell_of(cell, values[cell.model]) if cell.model in values else cell for cell in run.summary.cells
    )
    means = tuple(
        cell.model_copy(update={"model": "recipe", "value": replace(cell.value, value=22.0)})
        for cell in run.summary.cells
        if cell.model == "fragile"
    )
    summary = run.summary.model_copy(update={"models": models, "cells": (*cells, *means)})
    text = to_latex(replace(run, summary=summary))
    check(text)
    row = next(line for line in text.splitlines() if line.startswith("recipe"))
    assert r"22.0 $\pm$ 2.8" in row  # the standard deviation of 20 and 24 is 2.83
    assert not any(line.startswith(("fragile", "robust")) for line in text.splitlines())


def test_the_parts_of_a_metric_are_a_table_of_their_own(run: AuditRun) -> None:
    cells = tuple(
        cell.model_copy(
            update={
                "value": Estimate(
                    0.7,
                    n=9,
                    by_split={"retain": 9, "real_authors": 9},
                    means={"retain": 0.5, "real_authors": 0.9},
                )
            }
        )
        if cell.metric == "utility" and cell.condition == "full" and cell.model == "robust"
        else cell
        for cell in run.summary.cells
    )
    text = to_latex(replace(run, summary=run.summary.model_copy(update={"cells": cells})))
    check(text)
    parts = tables(text)[1]
    assert r" & target & retrained & fragile & robust \\" in parts
    assert r"real\_authors & -- & -- & -- & 0.900 \\" in parts


@pytest.mark.parametrize("text", [*hostile.TEXTS, r"a_b & 5% \x {y} #1 ~ ^ $z$ <|>"])
def test_no_text_is_a_command(text: str) -> None:
    bare = escaped(text)
    for known in (r"\textasciitilde{}", r"\textasciicircum{}", r"\textbackslash{}", r"\textless{}"):
        bare = bare.replace(known, "")
    bare = bare.replace(r"\textgreater{}", "").replace(r"\textbar{}", "").replace("$-$", "")
    assert not re.search(r"(?<!\\)[&%$#_{}~^\\]", re.sub(r"\\[&%$#_{}]", "", bare))


def test_it_is_written_and_replaced_only_where_nobody_edited_it(run: AuditRun) -> None:
    path = ReportJob(runs=(run.folder,), format="latex").run()
    assert path.name == "tables.tex"
    ReportJob(runs=(run.folder,), format="latex").run()
    path.write_text(path.read_text().replace("robust", "mine"))
    with pytest.raises(Exception, match="already exists"):
        ReportJob(runs=(run.folder,), format="latex").run()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_compiles_it(run: AuditRun, tmp_path: Path) -> None:
    (tmp_path / "t.tex").write_text(WHOLE % to_latex(run))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
