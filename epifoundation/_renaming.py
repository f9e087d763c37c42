"""Changes of the names of cells, such as removing a suffix, after which two sets of names agree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from typing import NamedTuple

import numpy as np
import pandas as pd

N_TRIED, N_KNOWN = 1000, 50_000  # names with which changes are tried, of the fewer and of the more
N_COMMON = 3  # prefixes and suffixes that are tried, the most frequent ones
MIN_COMMON = 0.25  # fraction of the names that have them
N_CHECKED = 20  # changes that are checked on all names
SEPARATORS = "#:_|/+.-"
# Where a prefix may end and a suffix may begin: at a separator, or at a barcode of bases
PREFIX_END = re.compile(r"[#:_|/+.-]|(?<![ACGTN])(?=[ACGTN]{8})")
SUFFIX_START = re.compile(r"[#:_|/+.-]|(?<=[ACGTN]{8})(?![ACGTN])")
BARCODE = re.compile(r"(^|[^A-Z])[ACGTN]{16}($|[^A-Z])")
COMPLEMENT = str.maketrans("ACGT", "TGCA")
REVERSE_COMPLEMENT = (
    '.str.replace("[ACGT]{10,}", '
    'lambda m: m[0][::-1].translate(str.maketrans("ACGT", "TGCA")), regex=True)'
)


class Renaming(NamedTuple):
    """Python code that follows either names, empty if unchanged, and the names then in both."""

    codes: tuple[str, str]
    n_both: int


@dataclass(frozen=True)
class Change:
    """A change of names, and its code."""

    code: str
    apply: Callable[[pd.Index], pd.Index]
    n_steps: int = 1

    def then(self, other: Change) -> Change:
        """Both changes, one after the other."""
        n_steps = self.n_steps + other.n_steps
        return Change(self.code + other.code, lambda n: other.apply(self.apply(n)), n_steps)


UNCHANGED = Change("", lambda names: names, 0)


def find_renaming(
    names: pd.Index, others: pd.Index, rest: pd.Index, other_rest: pd.Index, *, fixed: bool = False
) -> Renaming | None:
    """The simplest changes after which most of the `rest` agree; None if there are none.

    `rest` and `other_rest` are the names that are not in both `names` and `others`. After the
    changes, names are unique and more of all agree than before. If `fixed`, `names` are not
    changed.
    """
    if min(len(rest), len(other_rest)) < 2:
        return None
    few, more = (_sample(each, N_TRIED) for each in (rest, other_rest))
    one, other = _changes(few, _separators(more)), _changes(more, _separators(few))
    same = [UNCHANGED]
    # Both are changed only if need be, as a MuData then loses the columns of its `obs`
    tries = [(one, same), (same, other), ([*_additions(one, more)], same), (one, other)]
    if fixed:
        tries = [(same, other), (same, [*_additions(other, few)])]
    for changes in tries:
        if found := _best(names, others, rest, other_rest, *changes):
            return found
    return None


def _best(
    names: pd.Index,
    others: pd.Index,
    rest: pd.Index,
    other_rest: pd.Index,
    changes: list[Change],
    other_changes: list[Change],
) -> Renaming | None:
    """The changes after which most agree, the simplest of equal ones."""
    if len(rest) > len(other_rest):  # the fewer names are looked up among the more
        found = _best(others, names, other_rest, rest, other_changes, changes)
        return None if found is None else Renaming(found.codes[::-1], found.n_both)
    tried, known = _sample(rest, N_TRIED), _sample(other_rest, N_KNOWN)
    least = max(1, len(tried) / 2 * len(known) / len(other_rest))
    looked_up = [(i, set(change.apply(tried))) for i, change in enumerate(changes)]
    candidates = []
    for j, change in enumerate(other_changes):
        table = set(change.apply(known))
        for i, values in looked_up:
            n_hits = len(table & values)
            if n_hits > least:
                candidates.append((-n_hits, changes[i].n_steps + change.n_steps, i, j))
    n_before = int(names.isin(others).sum())
    for _, _, i, j in sorted(candidates)[:N_CHECKED]:
        one, other = changes[i].apply(names), other_changes[j].apply(others)
        if one.is_unique and other.is_unique:
            n_both = int(one.isin(other).sum())
            if n_both > n_before:
                return Renaming((changes[i].code, other_changes[j].code), n_both)
    return None


def advice(rest: pd.Index, other_rest: pd.Index) -> str:
    """Sentence for names that no simple change makes equal."""
    if min(_fraction_of_barcodes(rest), _fraction_of_barcodes(other_rest)) > 0.9:
        return (
            "If these are barcodes of a 10x multiome: those of ATAC and RNA are from two "
            "whitelists. Cell Ranger ARC gives both the barcode of RNA; so do the lines of its two "
            "files `737K-arc-v1.txt.gz`, which correspond."
        )
    return "Rename the cells so that each has the same name in both, then call `mdata.update()`."


def _fraction_of_barcodes(names: pd.Index) -> float:
    is_barcode = [BARCODE.search(name) is not None for name in _sample(names, N_TRIED)]
    return float(np.mean(is_barcode)) if is_barcode else 0.0


def _changes(names: pd.Index, separators: str) -> list[Change]:
    """Changes of names to try; `separators` are those of the names to be matched."""
    heads = [_remove("prefix", text) for text in _prefixes(names)]
    tails = [_remove("suffix", text) for text in _suffixes(names)]
    heads = [UNCHANGED, *heads, _replace(r"^.*[#:_|/]", "")]
    tails = [UNCHANGED, *tails, _replace(r"-\d+$", ""), _replace(r"[#:_|/].*$", "")]
    found = [head.then(tail) for head, tail in product(heads, tails)]
    for old, new in product(_separators(names), separators):
        if old != new:
            found.append(_replace(re.escape(old), new))
        found.append(_replace(rf"^(.+){re.escape(old)}(.+)$", rf"\2{new}\1"))
    found.append(Change(".str.upper()", lambda n: n.str.upper()))
    found.append(Change(".str.strip()", lambda n: n.str.strip()))
    flipped = Change(REVERSE_COMPLEMENT, _reverse_complement)
    return [*found, *(flipped.then(tail) for tail in tails)]


def _additions(changes: list[Change], others: pd.Index) -> Iterator[Change]:
    """Changes after which a prefix or suffix of other names is added, or both."""
    after = [_append(text) for text in _suffixes(others)]
    before = [_prepend(text) for text in _prefixes(others)]
    for change, head, tail in product(changes, [UNCHANGED, *before], [UNCHANGED, *after]):
        if head.code or tail.code:
            yield change.then(head).then(tail)


def _append(text: str) -> Change:
    return Change(f" + {text!r}", lambda names: names + text)


def _prepend(text: str) -> Change:
    code = f'.str.replace(r"^", {text!r}, regex=True)'
    return Change(code, lambda names: text + names)


def _remove(part: str, text: str) -> Change:
    method = f"remove{part}"
    return Change(f".str.{method}({text!r})", lambda names: getattr(names.str, method)(text))


def _replace(pattern: str, new: str) -> Change:
    code = f'.str.replace(r"{pattern}", r"{new}", regex=True)'
    return Change(code, lambda names: names.str.replace(pattern, new, regex=True))


def _reverse_complement(names: pd.Index) -> pd.Index:
    def flip(match: re.Match[str]) -> str:
        return match[0][::-1].translate(COMPLEMENT)

    return names.str.replace("[ACGT]{10,}", flip, regex=True)


def _prefixes(names: pd.Index) -> list[str]:
    parts = [[n[: at.end()] for at in PREFIX_END.finditer(n)] for n in names]
    return _common(parts, _shared_prefix(names))


def _suffixes(names: pd.Index) -> list[str]:
    parts = [[n[at.start() :] for at in SUFFIX_START.finditer(n)] for n in names]
    return _common(parts, _shared_prefix([n[::-1] for n in names])[::-1])


def _common(parts: list[list[str]], of_all: str) -> list[str]:
    """The most frequent parts that enough names have, and the one that all have."""
    counts = Counter(chain.from_iterable(parts))
    least = max(2, MIN_COMMON * len(parts))
    found = [part for part, count in counts.most_common(N_COMMON) if count >= least]
    return list(dict.fromkeys(part for part in [*found, of_all] if part))


def _shared_prefix(names: Iterable[str]) -> str:
    """The longest prefix of all names."""
    low, high = min(names), max(names)
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[:n]


def _separators(names: pd.Index) -> str:
    text = "".join(names)
    return "".join(each for each in SEPARATORS if each in text)


def _sample(names: pd.Index, n: int) -> pd.Index:
    """At most `n` of the names, spread over all, as strings."""
    return names[:: -(-len(names) // n) or 1].astype(str)
