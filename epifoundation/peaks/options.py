"""Options of mapping peaks, for all tools that read cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from .._validate import fraction
from .._warn import warn
from .mapping import MIN_COVERAGE, PeakMap, map_onto
from .vocabulary import PeakVocabulary

OPTIONS = ("min_overlap", "genome", "liftover", "min_coverage")


@dataclass(frozen=True)
class PeakMapping:
    """How the peaks of data are mapped onto those of a model.

    Pass it to tools as ``mapping=``. Without it, tools use the options that
    :func:`epifoundation.pp.map_peaks` or a tool recorded in the data for the same model (under the
    same `key_added`), else the defaults.

    Parameters
    ----------
    min_overlap
        Minimal overlap, as a fraction of the shorter of two peaks; 0: one base.
    genome
        Build of the data's peaks, if known.
    liftover
        UCSC chain file from the build of the data's peaks to that of the model.
    min_coverage
        Minimal fraction of the model's peaks that the data must reach.

    Attributes
    ----------
    report
        Coverage of each file, if :func:`epifoundation.pp.map_peaks` returned this for files.

    Examples
    --------
    >>> import epifoundation as ep
    >>> mdata = ep.datasets.pbmc_multiome()
    >>> ep.tl.embed(mdata, mapping=ep.PeakMapping(genome="hg38", min_overlap=0.1))
    """

    min_overlap: float = 0.0
    genome: str | None = None
    liftover: str | Path | None = None
    min_coverage: float = MIN_COVERAGE
    report: ClassVar[pd.DataFrame | None] = None  # set by `pp.map_peaks` for files

    def __post_init__(self) -> None:
        for name in ("min_overlap", "min_coverage"):
            fraction(getattr(self, name), name)

    @property
    def options(self) -> dict[str, Any]:
        """Options that differ from the default, as numbers and strings."""
        values = {name: getattr(self, name) for name in OPTIONS}
        if self.liftover is not None:
            values["liftover"] = str(Path(self.liftover).resolve())
        default = PeakMapping()
        return {key: value for key, value in values.items() if value != getattr(default, key)}

    def map(self, peaks: PeakVocabulary, var: pd.DataFrame) -> PeakMap:
        """Map the peaks of `var` onto a vocabulary; ValueError if they cover too little of it."""
        found = map_onto(
            peaks, var, min_overlap=self.min_overlap, genome=self.genome, liftover=self.liftover
        )
        found.check(self.min_coverage)
        if self.options:
            found.report["options"] = self.options
        return found


def takes_mapping[**P, R](tool: Callable[P, R]) -> Callable[P, R]:
    """Accept the four options of :class:`PeakMapping`, which version 0.1 had, in place of it."""

    @wraps(tool)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        options: dict[str, Any] = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        if options:
            given = ", ".join(f"{name}={value!r}" for name, value in options.items())
            if kwargs.get("mapping") is not None:
                msg = f"Both `mapping` and {given}: pass these options in `mapping`."
                raise TypeError(msg)
            msg = (
                f"`{tool.__name__}({given})` will be removed in version 0.3: pass "
                f"`mapping=ep.PeakMapping({given})`, or run `ep.pp.map_peaks` with it first."
            )
            warn(msg, FutureWarning)
            kwargs["mapping"] = PeakMapping(**options)
        return tool(*args, **kwargs)

    return wrapper
