"""The files in an audit's folder, validated when read, because they may have been edited since.

A file that no audit could have written is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from expunge.audit.run.plan import Role
from expunge.errors import DataError
from expunge.files import RECORD
from expunge.record import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SUMMARY, SCORES, SOURCES = "summary.json", "scores.parquet", "sources.json"
"""The files an audit writes to its folder in addition to its record."""
FILES = "files"
"""The field of a record that holds the hashes of the other files."""
REPEAT = (
    "It was edited, or written by another version. Repeat the audit's command to write it again from the "
    "stored scores."
)
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
M = TypeVar("M", bound=BaseModel)


class _Loose(BaseModel):
    """Checks the fields that are read; other fields are kept as they are."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Hardware(_Loose):
    """The hardware of a run."""

    cores: Count = 0
    accelerator: str = ""


class SavedCost(_Loose):
    """The fields that every record of a run has."""

    seconds: Amount = 0.0
    started: str = ""
    versions: dict[str, str] = {}
    hardware: Hardware = Hardware()


class SavedParts(_Loose):
    """How many parts an audit measured, and of how many."""

    measured: Count = 0


class EarlierRun(SavedCost):
    """A run that measured a part of the audit before the last one."""

    parts: SavedParts = SavedParts()


class AuditRecord(EarlierRun):
    """``record.json`` of an audit; ``files`` are the SHA-256 of the other files, by their paths."""

    command: str = ""
    typed: list[str] = []
    earlier: list[EarlierRun] = []
    probes: str = ""
    max_length: Count | str = ""
    batch_tokens: Count | str = ""
    peak_memory_mib: Amount = 0.0
    files: dict[str, str] = {}
    measured_again: list[str] = []


class SavedTexts(_Loose):
    """A set of texts that a run was given."""

    examples: Count
    sha256: str


class SavedStage(_Loose):
    """One stage of a run that trained."""

    steps: Count = 0
    weights_that_may_change: Count = 0
    history: list[dict[str, Any]] | None = None


class SavedRecipe(_Loose):
    """The recipe of a run that trained."""

    title: str = ""
    stages: list[dict[str, Any]] = []


class RunRecord(SavedCost):
    """The record in a checkpoint's folder."""

    command: str
    typed: list[str]
    peak_memory_mib: Amount = 0.0
    forget: SavedTexts | None = None
    retain: SavedTexts | None = None
    recipe: SavedRecipe | None = None
    stages: list[SavedStage] = []


class ModelOrigin(_Loose):
    """Where a model of the audit came from."""

    name: str
    role: Role
    path: str
    record: dict[str, Any] | None = None


class SplitOrigin(_Loose):
    """Where a split came from, and how much is in it."""

    file: str
    asked: Count
    documents: Count
    groups: Count
    sha256: str = ""


class AuditSources(_Loose):
    """``sources.json``."""

    models: list[ModelOrigin] = []
    splits: dict[str, SplitOrigin] = {}


class CoverageGroup(_Loose):
    """Tensors that a condition treated alike (``coverage.condense``)."""

    changed: bool
    what: str
    tensors: Count
    weights: Count
    names: list[str] = []


class UpdateTotal(_Loose):
    """How far unlearning moved the weights of a model, over all its tensors."""

    changed: Count | None = None
    shifts: list[Count] | None = None
    surviving: float | None = None
    surviving_error: float | None = None


class Diagnosis(_Loose):
    """The diagnostics of a model under a condition (``diagnose``)."""

    shift_edges: list[float] | None = None
    prediction: str | None = None
    total: UpdateTotal | None = None

    @model_validator(mode="after")
    def _bars_fit_their_edges(self) -> Self:
        shifts = self.total.shifts if self.total is not None else None
        if shifts and len(shifts) != len(self.shift_edges or ()) + 1:
            raise ValueError("total.shifts: one more number is needed than shift_edges has")
        return self


class CalibrationFacts(_Loose):
    """The text a quantizer was calibrated on (``CalibrationSource.facts``)."""

    name: str
    samples: Count
    length: Count
    seed: int


COVERAGE = TypeAdapter(list[CoverageGroup])
DIAGNOSIS = TypeAdapter(Diagnosis)


def read_record(path: Path) -> dict[str, Any]:
    """The record of an audit; empty if there is none.

    Raises:
        DataError: it is no record of an audit.
    """
    return _read(path, AuditRecord)


def read_sources(path: Path) -> dict[str, Any]:
    """Where an audit's models and splits came from; empty if unknown.

    Raises:
        DataError: the file says something else.
    """
    return _read(path, AuditSources)


def is_run_record(record: dict[str, Any]) -> bool:
    """Whether the record of a checkpoint is valid: its fields have the right types."""
    try:
        RunRecord.model_validate(record)
    except ValidationError:
        return False
    return True


def file_hashes(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of files below ``folder``, by their paths from there."""
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}


def last_record(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The record of an audit that is resumed, and its problems; empty if it cannot be read."""
    try:
        return read_record(folder / RECORD), []
    except DataError as error:
        return {}, [f"{RECORD} ({error.why.rstrip('.')})"]


def edited_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the named files of an audit whose hashes differ from its record.

    Missing files are not listed, nor are any if the record has no hashes.

    Raises:
        DataError: the record is none of an audit.
    """
    kept = read_record(folder / RECORD).get(FILES, {})
    paths = {name: folder / name for name in names if name in kept}
    return [name for name, path in paths.items() if path.is_file() and hash_file(path) != kept[name]]


def invalid(path: Path, error: ValueError) -> DataError:
    """The refusal of a file of an audit that does not hold what an audit writes."""
    why = str(error).splitlines()[0]
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        where = ".".join(map(str, problems[0]["loc"]))
        message = problems[0]["msg"].removeprefix("Value error, ")
        more = f" ({len(problems) - 1} more of the kind)" if len(problems) > 1 else ""
        why = f"{where + ': ' if where else ''}{message}{more}"
    return DataError(
        f"{path} cannot be read",
        why=f"{why[:300].rstrip('.')}.",
        fix=REPEAT,
    )


def _read(path: Path, model: type[M]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise invalid(path, error) from error
    return found.model_dump(mode="json", exclude_unset=True)
