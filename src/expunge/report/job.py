"""A report as it is asked for: of one run or two, in a format, to a file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from expunge.errors import OutputError, RecipeError
from expunge.files import require_writable, write_text, write_with
from expunge.report.filing import CaseFacts
from expunge.report.run import AuditRun, read_run
from expunge.report.verdicts import edited

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Format = Literal["html", "md", "csv", "json", "latex", "png", "svg"]
NAMES: dict[Format, str] = {
    "html": "report.html",
    "md": "report.md",
    "csv": "estimates.csv",
    "json": "report.json",
    "latex": "tables.tex",
    "png": "figures-png",
    "svg": "figures-svg",
}
"""What a report is called in the audit's folder."""
REVEALED = "report-revealed.html"
"""The page that shows texts has another name, so that it never takes the place of the one to share."""
SIDE_BY_SIDE = "side-by-side.html"


@dataclass(frozen=True, kw_only=True)
class ReportJob:
    """A report of one run, or of two side by side (HTML only).

    ``output``: a file, or a folder to put it in; default: the (first) audit's folder, where an earlier
    report is replaced and nothing else without ``overwrite``. ``reveal`` puts the texts of the items into
    the HTML file, which then only its owner can read, and which must not be shared with those who may not
    read the forget set. ``case`` puts the page on file; ``names`` are what models are to be called in it,
    by their names in the audit.
    """

    runs: tuple[Path, ...]
    format: Format = "html"
    output: Path | None = None
    reveal: bool = False
    overwrite: bool = False
    case: CaseFacts = field(default_factory=CaseFacts)
    names: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> Path:
        """Write the report; returns where.

        Raises:
            DataError: a folder holds no finished audit.
            OutputError: the output exists, or cannot be written.
            RecipeError: the format cannot show two runs.
        """
        self._check()
        target = self._target()
        runs = [read_run(folder, self.names) for folder in self.runs]
        target = target or self._default(runs[0].folder)
        if self.format in ("png", "svg"):
            return _figures(runs[0], target, self.format)
        text = self._text(runs)
        # A revealed page holds the texts: nobody but its owner may read it.
        write_text(target, text, private=self.reveal)
        return target

    def warnings(self) -> list[str]:
        """What a reader of the report must know of the files it was drawn from: those that were edited."""
        return [text for folder in self.runs for text in edited(read_run(folder))]

    @property
    def _name(self) -> str:
        if self.reveal:
            return REVEALED
        return NAMES[self.format] if len(self.runs) == 1 else SIDE_BY_SIDE

    def _default(self, folder: Path) -> Path:
        """Where the report goes if nothing else is asked: never over what no report is."""
        from expunge.report.ours import is_report

        target = folder / self._name
        if os.path.lexists(target) and not self.overwrite and not is_report(target, self.format):
            raise OutputError(
                f"{target} already exists",
                why="it is not a report as expunge wrote it, and is not written over unless you say so.",
                fix="Move it away, choose another --output, or pass --overwrite to replace it.",
            )
        return target

    def _check(self) -> None:
        if len(self.runs) > 2:
            raise RecipeError(
                f"a report of {len(self.runs)} runs",
                why="a page holds one run or two side by side.",
                fix="Audit the models together ('expunge audit A B C ...') for one report of all.",
            )
        if len(self.runs) == 2 and (self.format != "html" or self.reveal):
            raise RecipeError(
                "two runs side by side" + (" with --reveal" if self.reveal else f" as {self.format}"),
                why="they are shown as an HTML page of numbers, without texts.",
                fix="Leave the option out, or write a report of each run.",
            )
        if self.case.rows and (self.format != "html" or len(self.runs) == 2):
            raise RecipeError(
                "--case, --by, --for, --basis or --note",
                why="they stand on the HTML page of one run, and nowhere else.",
                fix="Leave them out, or write the page.",
            )
        if self.reveal and self.format != "html":
            raise RecipeError(
                f"--reveal with --format {self.format}",
                why="only the HTML page shows texts; the other formats never do.",
                fix="Leave --reveal out.",
            )

    def _target(self) -> Path | None:
        """The file asked for, if any; refused before anything is read."""
        if self.output is None:
            return None
        target = self.output / self._name if self.output.is_dir() else self.output
        require_writable(target)
        if target.exists() and not self.overwrite:
            raise OutputError(
                f"{target} already exists",
                why="nothing is written over unless told to.",
                fix="Choose another --output, or pass --overwrite to replace it.",
            )
        return target

    def _text(self, runs: list[AuditRun]) -> str:
        from expunge.report.document import document, to_csv, to_markdown
        from expunge.report.latex import to_latex
        from expunge.report.ours import signed
        from expunge.report.page import render, render_two

        if len(runs) == 2:
            return render_two(*runs)
        writers: dict[str, Callable[[AuditRun], str]] = {
            "html": lambda run: render(run, reveal=self.reveal, case=self.case),
            "md": lambda run: signed(to_markdown(run), "md"),
            "csv": to_csv,
            "latex": lambda run: signed(to_latex(run), "latex"),
            "json": lambda run: json.dumps(document(run).model_dump(mode="json"), indent=2) + "\n",
        }
        return writers[self.format](runs[0])


def write_page(folder: Path) -> Path:
    """The masked page of a finished audit, in its folder: what the audit and the demo leave."""
    return ReportJob(runs=(folder,)).run()


def _figures(run: AuditRun, folder: Path, suffix: str) -> Path:
    from expunge.report.figures import write_figures

    write_with(folder, lambda scratch: write_figures(run, scratch, suffix))
    return folder
