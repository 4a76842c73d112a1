"""What a job says about its files. What it does not say is detected."""

from __future__ import annotations

from dataclasses import dataclass, fields

from distsent.job.schema import DataSection


@dataclass(frozen=True)
class FileOptions:
    """The keys of [data] that describe a file, under their names there. "auto": detected."""

    format: str = "auto"
    names: tuple[str, ...] | None = None
    header: str | bool = "auto"
    delimiter: str = "auto"
    quoting: str = "auto"
    escapechar: str | None = None
    encoding: str = "auto"
    encoding_errors: str = "strict"
    compression: str = "auto"
    sheet_name: str | None = None

    @classmethod
    def of(cls, data: DataSection) -> FileOptions:
        """Those of a job."""
        return cls(**{key.name: getattr(data, key.name) for key in fields(cls)})
