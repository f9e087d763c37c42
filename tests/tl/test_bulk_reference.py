"""Bulk profiles as reference: planted types, files, tables, streaming, and bad input."""

import gzip
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from sklearn.metrics import roc_auc_score

import epifoundation as ep
from epifoundation._keys import Keys
from epifoundation.tl._references import KINDS, ReferenceOptions, fit_reference

COLUMNS = ["chrom", "start", "end"]


@pytest.fixture(scope="module")
def planted():
    """Sums over the cells of each type in two batches, cells of a third, and a model."""
    mdata = ep.datasets.simulate_multiome(
        1500, 800, 20, n_types=4, n_batches=3, median_fragments=30, rng=5
    )
    is_query = (mdata.obs["batch"] == "batch2").to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ep.tl.pretrain(
            mdata[~is_query].copy(), config=ep.ModelConfig(dim=16), genome="hg38"
        )
    cells, query = mdata[~is_query]["atac"].copy(), mdata[is_query]["atac"].copy()
    types = cells.obs["cell_type"].astype(str)
    names = sorted(types.unique())
    sums = np.stack(
        [np.asarray(cells.X[(types == name).to_numpy()].sum(axis=0))[0] for name in names]
    )
    return AnnData(sp.csr_matrix(sums), pd.DataFrame(index=names), cells.var), query, model


def bed_files(table, folder, *, signal=True, suffix=".narrowPeak.gz"):
    """The peaks of each type of a table, with their values as signal."""
    intervals = ep.genome.read_intervals(table.var)
    files = {}
    for name, row in zip(table.obs_names, np.asarray(table.to_df()), strict=True):
        rows = intervals[row > 0].assign(name=".", score=0, strand=".", fc=row[row > 0])
        rows = rows.assign(p=-1, q=-1, summit=50) if signal else rows[COLUMNS]
        files[name] = folder / f"{name}{suffix}"
        text = rows.to_csv(sep="\t", header=False, index=False).encode()
        files[name].write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    return files


def annotated(query, model, reference, **options):
    return ep.tl.annotate(query, model, reference=reference, copy=True, **{"unknown": 0} | options)


def accuracy(found):
    true = found.obs["cell_type"].astype(str)
    return ep.metrics.accuracy(true, found.obs["epifoundation_cell_type"].astype(str))


def same(one, other):
    for key in ("epifoundation_cell_type", "epifoundation_set", "epifoundation_novelty"):
        if not np.array_equal(one.obs[key].astype(str), other.obs[key].astype(str)):
            return False
    first, second = ep.get.probabilities(one), ep.get.probabilities(other)
    return list(first) == list(second) and np.array_equal(first, second, equal_nan=True)


def test_types_of_a_table(planted):
    table, query, model = planted
    before = table.copy()
    found = annotated(query, model, table)
    assert accuracy(found) > 0.85
    true = found.obs["cell_type"].astype(str)
    covered, size = ep.metrics.conformal_coverage(true, found.obs["epifoundation_set"])
    assert covered > 0.85
    assert size < 3
    assert list(ep.get.probabilities(found)) == list(table.obs_names)
    np.testing.assert_allclose(ep.get.probabilities(found).sum(axis=1), 1, atol=1e-5)
    report = found.uns["epifoundation_annotation"]
    assert report["reference"] == "bulk profiles"
    assert report["calibrated_on"] == "cells simulated from the profiles"
    assert report["labels"] == list(table.obs_names)
    assert "epifoundation_in_reference" not in found.obs
    assert not table.uns
    assert (table.X != before.X).nnz == 0


def test_labels_follow_the_profiles(planted):
    """The names of two profiles swapped: their labels are swapped too."""
    table, query, model = planted
    first = annotated(query, model, table)
    order = [1, 0, 2, 3]
    swapped = AnnData(table.X[order], table.obs, table.var)
    second = annotated(query, model, swapped)
    renamed = first.obs["epifoundation_cell_type"].map(
        dict(zip(table.obs_names[order], table.obs_names, strict=True))
    )
    agree = renamed.astype(str) == second.obs["epifoundation_cell_type"].astype(str)
    assert agree.mean() > 0.98  # other simulated cells, of the same profiles


def test_files_are_as_good_as_the_table(planted, tmp_path):
    table, query, model = planted
    files = bed_files(table, tmp_path)
    found = annotated(query, model, files)
    assert same(found, annotated(query, model, table))
    several = annotated(query, model, {name: [path, path] for name, path in files.items()})
    assert same(found, several)
    as_text = {name: str(path) for name, path in files.items()}
    assert same(found, annotated(query, model, as_text))


def test_open_and_closed_peaks_are_enough_for_distinct_types(planted, tmp_path):
    table, query, model = planted
    values = table.X.toarray()
    top = AnnData(
        sp.csr_matrix(values * (values >= np.quantile(values, 0.7, axis=1)[:, None])),
        table.obs,
        table.var,
    )
    files = bed_files(top, tmp_path, signal=False, suffix=".bed")
    assert accuracy(annotated(query, model, files)) > 0.75


def test_depth_and_scale_of_a_profile_do_not_matter(planted):
    table, query, model = planted
    values = np.log1p(table.X.toarray() * np.array([[1.0], [10], [0.1], [7]]))
    scaled = AnnData(values.astype(np.float32), table.obs, table.var)
    assert same(annotated(query, model, table), annotated(query, model, scaled))


def test_a_label_depends_on_no_other_cell(planted):
    table, query, model = planted
    whole = annotated(query, model, table)
    some = [7, 3, 50]
    part = annotated(query[some].copy(), model, table)
    assert same(whole[some].copy(), part)


def test_cells_in_a_file(planted, tmp_path):
    table, query, model = planted
    query.write_h5ad(tmp_path / "query.h5ad")
    table.write_h5ad(tmp_path / "table.h5ad")
    output = tmp_path / "labels.h5ad"
    options = {"reference": tmp_path / "table.h5ad", "output": output, "unknown": 0}
    ep.tl.annotate(tmp_path / "query.h5ad", model, **options)
    found = annotated(query, model, table)
    written = anndata.read_h5ad(output)
    assert same(found, written)
    time = output.stat().st_mtime_ns
    ep.tl.annotate(tmp_path / "query.h5ad", model, **options)  # the same run
    assert output.stat().st_mtime_ns == time
    values = table.X.toarray()
    values[0, values[0].argmax()] = 0
    options["reference"] = AnnData(values, table.obs, table.var)
    with pytest.raises(FileExistsError):  # another run
        ep.tl.annotate(tmp_path / "query.h5ad", model, **options)


def test_the_revision_is_that_of_the_content(planted):
    table, _, model = planted

    def revision(reference):
        options = ReferenceOptions(
            None, None, None, "atac", Keys.of(None), np.random.default_rng(0)
        )
        return fit_reference(reference, model, options)[0].revision

    changed, renamed = table.copy(), table.copy()
    changed.X = table.X.toarray()
    changed.X[2] = changed.X[2][::-1]
    renamed.obs_names = [f"{name} cells" for name in table.obs_names]
    assert revision(table) == revision(table.copy())
    assert len({revision(each) for each in (table, changed, renamed)}) == 3


def test_a_type_without_a_profile_is_novel(planted):
    table, query, model = planted
    found = []
    for name in table.obs_names:
        others = table[table.obs_names != name].copy()
        marked = annotated(query, model, others, unknown=0.05)
        novelty = marked.obs["epifoundation_novelty"]
        found.append(roc_auc_score(marked.obs["cell_type"] == name, novelty))
        is_unknown = marked.obs["epifoundation_cell_type"] == "unknown"
        report = marked.uns["epifoundation_annotation"]
        assert (is_unknown == (novelty > report["novelty_threshold"])).all()
    assert np.mean(found) > 0.7, found


def test_cells_without_a_peak_of_a_profile_have_no_label(planted):
    table, query, model = planted
    half = table[:, :500].copy()
    some = query[:20].copy()
    values = some.X.toarray()
    values[0, :500] = 0
    some.X = sp.csr_matrix(values)
    found = annotated(some, model, half)
    is_missing = found.obs["epifoundation_cell_type"].isna()
    assert is_missing.tolist() == [True] + [False] * 19
    assert found.obs["epifoundation_set"].iloc[0] == ""
    assert ep.get.probabilities(found).iloc[0].isna().all()


def moved(table, shift):
    """The peaks of a table at other positions."""
    intervals = ep.genome.read_intervals(table.var)
    for side in ("start", "end"):
        intervals[side] += shift
    names = [f"{c}:{s}-{e}" for c, s, e in intervals.itertuples(index=False)]
    return AnnData(table.X, table.obs, intervals.set_index(pd.Index(names, dtype=object)))


@pytest.fixture
def chain(planted, tmp_path):
    """A chain file that moves all peaks back by a million bases."""
    intervals, shift = ep.genome.read_intervals(planted[0].var), 1_000_000
    path, text = tmp_path / "back.chain", ""
    for i, name in enumerate(intervals["chrom"].unique()):
        size = 150_000_000
        text += f"chain 1 {name} {size} + {shift} {size} {name} {size} + 0 {size - shift} {i + 1}\n"
        text += f"{size - shift}\n\n"
    path.write_text(text)
    return path, shift


def test_files_are_lifted_over_as_the_data_are(planted, chain, tmp_path):
    table, query, model = planted
    path, shift = chain
    expected = annotated(query, model, table)
    files = bed_files(moved(table, shift), tmp_path)
    mapping = ep.PeakMapping(liftover=path)
    found = annotated(moved(query, shift), model, files, mapping=mapping)
    assert same(expected, found)


def test_a_table_is_lifted_over_with_its_recorded_options(planted, chain):
    table, query, model = planted
    path, shift = chain
    reference = moved(table, shift)
    ep.pp.map_peaks(reference, model, liftover=path)
    assert same(annotated(query, model, table), annotated(query, model, reference))


def test_real_profiles_of_blood(shared_data):
    """Sorted populations on hg19: refused, and with the chain PBMC are annotated."""
    shared = shared_data.parent
    path = shared / "atlas" / "heme18_bulk_atac_hg19.h5ad"
    reference = anndata.read_h5ad(path)[["Mono", "B", "CD4", "NK"]].copy()
    query = ep.datasets.pbmc_multiome()["atac"]
    with pytest.raises(
        ValueError, match=r"of hg19, the model is of hg38.*for this reference.*`ep.pp.map_peaks"
    ):
        ep.tl.annotate(query, "pbmc-51loci", reference=reference)
    chain = shared / "annotation" / "hg19ToHg38.over.chain.gz"
    with pytest.warns(UserWarning, match="1,478 of the 5,724 peaks of the model"):
        ep.pp.map_peaks(reference, "pbmc-51loci", liftover=chain)
    with pytest.warns(UserWarning, match="the reference.*1,478 of the 5,724 peaks"):
        found = annotated(query, "pbmc-51loci", reference)
    true = query.obs["cell_type"].astype(str)
    is_mono = true.str.contains("Mono").to_numpy()
    likely = ep.get.probabilities(found)["Mono"].fillna(0.25)
    assert roc_auc_score(is_mono, likely) > 0.9


NARROW = "{0}\t.\t0\t.\t{1}\t-1\t-1\t50\n"
MOUSE = "".join(f"chr19\t{x}\t{x + 500}\n" for x in range(60_000_000, 61_400_000, 2000))


def bad_files(planted, folder, name):
    """Files by type of which one is wrong in this way."""
    files = bed_files(planted[0], folder)
    wrong = folder / "wrong.bed"
    first = "chr1\t{}\t{}".format(*ep.genome.read_intervals(planted[0].var).iloc[0, 1:])
    content = {
        "text": "monocytes are here\nno peaks\n",
        "empty": "# no peaks\n",
        "fragments": "chr1\t100\t300\tAAACGAAAGAAACGCC-1\t2\n",
        "reversed": "chr1\t300\t100\n",
        "negative": NARROW.format(first, -3),
        "nan": NARROW.format(first, "nan"),
        "elsewhere": "chr1\t1\t2\n" * 20,
        "few": first + "\n",
        "mouse": MOUSE,
    }
    wrong.write_text(content.get(name, ""))
    if name == "same":
        return files | {"type1": files["type0"]}
    if name == "one":
        return {"type0": files["type0"]}
    if name == "missing":
        return files | {"type1": folder / "absent.bed"}
    if name == "unnamed":
        return list(files.values())
    if name == "alike":
        return files | {1: files["type0"], "1": files["type1"]}
    if name == "mixed":
        planted[0].write_h5ad(folder / "table.h5ad")
        return files | {"type1": folder / "table.h5ad"}
    return files | {"type1": wrong}


BAD_FILES = {
    "text": "wrong.bed.*line 1: 1 of 3 tab-separated columns",
    "empty": "wrong.bed.*no peaks: leave the type out",
    "fragments": "is a fragments file.*Call peaks first",
    "reversed": "wrong.bed.*empty, reversed, negative",
    "negative": r"wrong.bed.*signal \(column 7\) of chr1:.* is '-3', expected a number",
    "nan": r"wrong.bed.*signal \(column 7\) of chr1:.* is 'nan', expected a number",
    "elsewhere": "wrong.bed.*None of the 20 peaks of the data overlaps",
    "few": "'type1' has 1 peaks of the model, and at least 10 are needed: leave it out",
    "mouse": "wrong.bed.*the model is of hg38",
    "same": "'type0' and 'type1' are the same in the peaks of the model: leave one out",
    "one": r"1 type \['type0'\]: pass two types or more",
    "missing": "absent.bed' does not exist",
    "unnamed": "BED files without names of types: pass a mapping",
    "alike": "Two names of types are the same as text",
    "mixed": "BED files, and files of cells such as that of 'type1': pass one kind",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused(planted, tmp_path, name):
    _, query, model = planted
    before = query.copy()
    with pytest.raises((ValueError, FileNotFoundError), match=BAD_FILES[name]) as caught:
        ep.tl.annotate(query, model, reference=bad_files(planted, tmp_path, name))
    assert "\n" not in str(caught.value)
    assert set(query.obs) == set(before.obs)
    assert not query.obsm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_key": "cell_type"}, "`label_key='cell_type'` is for a reference of cells"),
        ({"batch_key": "batch"}, "`batch_key` and `calibration` are for a reference of cells"),
        ({"calibration": 0.3}, "`batch_key` and `calibration` are for a reference of cells"),
    ],
)
def test_options_for_cells_are_refused(planted, tmp_path, options, message):
    table, query, model = planted
    with pytest.raises(ValueError, match=message):
        annotated(query, model, bed_files(table, tmp_path), **options)
    if "label_key" not in options:
        with pytest.raises(ValueError, match=message):
            annotated(query, model, table, **options)


def bad_table(table, name):
    """A table that is wrong in this way."""
    values = table.X.toarray().astype(np.float32)
    obs = table.obs
    if name == "nan":
        values[1, 3] = np.nan
    elif name == "negative":
        values[1, 3] = -1
    elif name == "closed":
        values[1] = 0
    elif name == "same":
        values[:] = values[0]
    elif name == "duplicate":
        obs = pd.DataFrame(index=["a", "b", "a", "c"])
    elif name == "barcodes":
        obs = pd.DataFrame(index=[f"AAACGAAAGAAACGC{x}-1" for x in "ACGT"])
    elif name == "one":
        values, obs = values[:1], obs[:1]
    return AnnData(values, obs, table.var)


BAD_TABLES = {
    "nan": "`X` of the bulk profiles has nan in the type 'type1': pass counts",
    "negative": "`X` of the bulk profiles has -1.0 in the type 'type1': pass counts",
    "closed": "The type 'type1' has 0 peaks of the model",
    "same": "'type0' and 'type1' are the same in the peaks of the model",
    "duplicate": "Duplicate names of types: 1 of 4, first 'a'; rename or merge",
    "barcodes": "`reference` needs `label_key`",
    "one": r"1 type \['type0'\]: pass two types or more",
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_are_refused(planted, name):
    table, query, model = planted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong = bad_table(table, name)
    with pytest.raises(ValueError, match=BAD_TABLES[name]):
        ep.tl.annotate(query, model, reference=wrong)
    assert not query.obsm


@pytest.mark.parametrize(
    ("reference", "is_files"),
    [
        ({"B": ["MS4A1", "CD79A"], "T": ["CD3D"]}, False),
        ({"B": ["b.bed"], "T": ["t1.narrowPeak.gz", "t2.bed"]}, True),
        ({"B": "b.bed", "T": "t.bed.gz"}, True),
        ({"B": [Path("b.txt")], "T": [Path("t.txt")]}, True),
    ],
)
def test_lists_of_genes_are_markers_and_lists_of_paths_are_files(reference, is_files):
    kind = next(kind for kind in KINDS if kind.matches(reference, None, None))
    assert kind.name == ("BED files of types" if is_files else "markers")
