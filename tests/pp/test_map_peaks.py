"""Mapping peaks: projection, build, liftover, coverage, and what bad input gets."""

import gzip
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import epifoundation as ep
from epifoundation.nn import Network, Sizes
from epifoundation.peaks.mapping import map_onto

UNS = "epifoundation"


def cells(names, n_cells=3, value=1.0, **var):
    X = sp.csr_matrix(np.full((n_cells, len(names)), value, dtype=np.float32))
    index = pd.Index([f"cell{i}" for i in range(n_cells)])
    return anndata.AnnData(
        X, obs=pd.DataFrame(index=index), var=pd.DataFrame(var, index=list(names))
    )


def tiny(names, genome="unknown"):
    """An untrained model of these peaks."""
    peaks = ep.PeakVocabulary.from_names(names, genome=genome)
    network = Network(ep.ModelConfig(dim=8), Sizes(len(peaks)))
    return ep.EpiFoundation(network, peaks, ep.GeneVocabulary([]))


MODEL = tiny(["chr1:100-200", "chr1:300-400", "chr2:100-200", "chr2:1000-2000"])
SETS = st.lists(
    st.tuples(st.sampled_from(["chr1", "chr2", "chr3"]), st.integers(0, 60), st.integers(1, 30)),
    min_size=1,
    max_size=15,
    unique=True,
)


def frame(triples):
    return pd.DataFrame([(c, s, s + w) for c, s, w in triples], columns=["chrom", "start", "end"])


@given(SETS, SETS, st.sampled_from([0.0, 0.5, 1.0]))
def test_a_peak_maps_to_one_that_overlaps_enough(data, model, fraction):
    a, b = frame(data), frame(model)
    found = ep.PeakVocabulary(b).projection(a, min_fraction=fraction).toarray()
    allowed = np.zeros((len(a), len(b)), dtype=bool)
    for i, (ca, sa, ea) in enumerate(a.itertuples(index=False)):
        for j, (cb, sb, eb) in enumerate(b.itertuples(index=False)):
            shared = min(ea, eb) - max(sa, sb)
            allowed[i, j] = ca == cb and shared > 0 and shared >= fraction * min(ea - sa, eb - sb)
    assert not found[~allowed].any()
    np.testing.assert_array_equal(found.sum(axis=1), allowed.any(axis=1))


def test_only_the_same_peaks_in_the_same_order_need_no_projection():
    vocabulary = ep.PeakVocabulary.from_names(["chr1:0-10", "chr1:20-30"])
    assert map_onto(vocabulary, cells(["chr1_0_10", "1:20-30"]).var).projection is None
    swapped = map_onto(vocabulary, cells(["chr1:20-30", "chr1:0-10"]).var).projection
    assert swapped.toarray().tolist() == [[0, 1], [1, 0]]


def test_no_overlap_is_refused():
    vocabulary = ep.PeakVocabulary.from_names(["chr1:0-10"], genome="mm10")
    with pytest.raises(
        ValueError,
        match=r"None of the 1 peaks of the data overlaps .*mm10.*chr2:0-10 against chr1:0-10",
    ):
        map_onto(vocabulary, cells(["chr2:0-10"]).var)


def test_results():
    atac = cells(["chr1:150-350", "chr1:390-450", "chr1:900-950", "chrUn_1:5-10"], value=2.0)
    atac.X[0, 0] = 0
    atac.X.eliminate_zeros()
    before = atac.X.copy()
    assert ep.pp.map_peaks(atac, MODEL) is None
    assert atac.var["epifoundation_matched"].tolist() == [1, 1, 0, 0]
    assert atac.obsm["epifoundation_peaks"].toarray().tolist() == [
        [0, 1, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 0, 0],
    ]
    np.testing.assert_allclose(atac.obs["epifoundation_coverage"], [1 / 3, 1 / 2, 1 / 2])
    report = atac.uns[UNS]["peaks"]
    assert (
        report["data"],
        report["matched"],
        report["vocabulary"],
        report["vocabulary_matched"],
    ) == (4, 2, 4, 2)
    assert report["unknown_contigs"] == 1
    assert report["counts_fraction_matched"] == report["open_fraction_matched"] == 5 / 11
    assert (before != atac.X).nnz == 0
    copy = ep.pp.map_peaks(atac, MODEL, key_added="mine", copy=True)
    assert "mine_peaks" in copy.obsm
    assert "mine_peaks" not in atac.obsm


def test_results_are_written_to_files(tmp_path):
    atac = cells(MODEL.peaks.names)
    ep.pp.map_peaks(atac, MODEL)
    atac.write_h5ad(tmp_path / "mapped.h5ad")
    again = anndata.read_h5ad(tmp_path / "mapped.h5ad")
    assert again.uns[UNS]["peaks"]["matched"] == 4
    assert (again.obsm["epifoundation_peaks"] != atac.obsm["epifoundation_peaks"]).nnz == 0


@pytest.mark.parametrize("kind", ["csc", "dense", "view", "int64", "backed"])
def test_every_format_gives_the_same(tmp_path, kind):
    atac = cells(["chr1:150-350", "chr2:90-120", "chr2:1500-3000"])
    ep.pp.map_peaks(expected := atac.copy(), MODEL)
    if kind == "csc":
        atac.X = atac.X.tocsc()
    elif kind == "dense":
        atac.X = atac.X.toarray()
    elif kind == "int64":
        atac.X = atac.X.astype(np.int64)
    elif kind == "view":
        atac = anndata.concat([atac, atac.copy()], index_unique="-", merge="same")[:3]
    else:
        atac.write_h5ad(tmp_path / "a.h5ad")
        atac = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", anndata.ImplicitModificationWarning)
        ep.pp.map_peaks(atac, MODEL)
    assert (atac.obsm["epifoundation_peaks"] != expected.obsm["epifoundation_peaks"]).nnz == 0


def test_no_cells_are_fine_and_no_peaks_are_an_error():
    atac = cells(MODEL.peaks.names)[:0].copy()
    ep.pp.map_peaks(atac, MODEL)
    assert atac.obsm["epifoundation_peaks"].shape == (0, 4)
    with pytest.raises(ValueError, match="The ATAC modality has no peaks"):
        ep.pp.map_peaks(cells([]), MODEL)


def test_a_minimal_overlap_excludes_peaks_that_barely_overlap():
    atac = cells(["chr1:190-290", "chr2:100-180", "chr1:310-390"])
    report = map_onto(MODEL.peaks, atac.var, min_overlap=0.5).report
    assert (report["matched"], report["vocabulary_matched"]) == (2, 2)
    with pytest.raises(ValueError, match="`min_overlap` must lie between 0 and 1, got 2"):
        ep.pp.map_peaks(atac, MODEL, min_overlap=2)


def test_low_coverage_warns_and_very_low_coverage_is_refused(simulated, model):
    atac = simulated["atac"][:, :200].copy()
    total, known = len(model.peaks), simulated["atac"].var_names.isin(model.peaks.names)
    reached, few_reached = int(known[:200].sum()), int(known[:5].sum())
    share = f"{reached / total:.1%}"
    with pytest.warns(
        UserWarning,
        match=rf"Little in common: the data's peaks reach {reached} of the {total} peaks.*"
        rf"\({share}\)",
    ):
        ep.tl.embed(atac, model)
    few = simulated["atac"][:, :5].copy()
    least = few_reached / total / 2
    with pytest.raises(
        ValueError,
        match=rf"Too little in common.*{few_reached} of the {total}.*at least 2%.*"
        rf"PeakMapping\(min_coverage={least:.2g}\)`",
    ):
        ep.tl.embed(few, model)
    assert not few.obsm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ep.tl.embed(few, model, mapping=ep.PeakMapping(min_coverage=least))
    assert few.uns[UNS]["peaks"]["vocabulary_matched"] == few_reached


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["CD3D", "MS4A1"], "2 of 2 peak names are not genomic intervals, first 'CD3D'"),
        (["chr1:200-200"], "empty, reversed"),
        (["chr1:300-200"], "empty, reversed"),
        (["chr1:-300-200"], "1 of 1 peak names are not genomic intervals, first 'chr1:-300-200'"),
        (["chr5:1-2"], "None of the 1 peaks of the data overlaps the 4 peaks of the model"),
    ],
)
def test_names_that_are_not_peaks_are_refused(names, message):
    atac = cells(names)
    with pytest.raises(ValueError, match=message):
        ep.pp.map_peaks(atac, MODEL)
    assert not atac.obsm
    assert UNS not in atac.uns


def test_negative_coordinates_in_columns_are_refused():
    atac = cells(["a", "b"], chrom="chr1", start=[5, -5], end=[9, 9])
    with pytest.raises(
        ValueError, match=r"1 of 2 intervals are empty, reversed, negative.*chr1:-5-9"
    ):
        ep.pp.map_peaks(atac, MODEL)


@pytest.mark.parametrize(
    ("chrom", "build", "found"),
    [("chrX", "hg38", "mm10 or mm39 or mm9"), ("chr22", "mm10", "hg38 or hg19")],
)
def test_peaks_of_another_organism_are_refused(chrom, build, found):
    """Mouse X is longer than human X, and mice have no chromosome 22."""
    start = 166_000_000 if chrom == "chrX" else 20_000_000
    model = tiny([f"chr1:{i}-{i + 50}" for i in range(0, 50_000, 500)], genome=build)
    data = [
        *model.peaks.names,
        *(f"{chrom}:{i}-{i + 50}" for i in range(start, start + 10_000, 500)),
    ]
    with pytest.raises(
        ValueError,
        match=rf"peaks are of {found}.*, the model is of {build}: 20 of 120.*another organism",
    ):
        ep.tl.embed(cells(data), model)


def test_duplicate_peaks_map_to_the_same_peak():
    atac = cells(["chr1:100-200", "chr1-100-200"])
    with pytest.warns(UserWarning, match="Little in common"):
        ep.pp.map_peaks(atac, MODEL)
    assert atac.obsm["epifoundation_peaks"].toarray().tolist() == [[1, 0, 0, 0]] * 3


@pytest.mark.parametrize("value", [-1, 2, float("nan"), "much"])
def test_fractions_are_checked(value):
    for option in ("min_coverage", "min_overlap"):
        with pytest.raises(ValueError, match=f"`{option}` must lie between 0 and 1, got {value!r}"):
            ep.pp.map_peaks(cells(MODEL.peaks.names), MODEL, **{option: value})


def test_genes_are_refused():
    atac = cells(
        ["a", "b"], feature_types="Gene Expression", interval=["chr1:100-200", "chr1:300-400"]
    )
    with pytest.raises(
        ValueError, match="contains Gene Expression: 2 of its 2 columns are genes, not peaks"
    ):
        ep.pp.map_peaks(atac, MODEL)


def test_results_are_of_one_model(simulated, model):
    """Results of another model are removed, and nothing is written if `uns` is in use."""
    atac = simulated["atac"].copy()
    other = tiny(atac.var_names)
    ep.tl.embed(atac, model)
    ep.pp.map_peaks(atac, model)
    assert "parameters" in atac.uns[UNS]
    ep.tl.embed(atac, model)
    assert "epifoundation_peaks" in atac.obsm
    ep.pp.map_peaks(atac, other)
    assert set(atac.uns[UNS]) == {"model", "peaks"}
    ep.tl.embed(atac, model)
    assert "epifoundation_peaks" not in atac.obsm
    assert "epifoundation_matched" not in atac.var
    atac.uns[UNS] = "something else"
    ep.pp.map_peaks(atac, model)
    assert atac.uns[UNS]["model"] == model.name


def test_a_model_used_for_its_peaks_stays_on_its_device(monkeypatch):
    monkeypatch.setattr(type(MODEL), "to", lambda *_: pytest.fail("moved"))
    ep.pp.map_peaks(cells(MODEL.peaks.names), MODEL)


def test_unsorted_overlapping_and_mixed_names_are_fine():
    atac = cells(["chr2_1500_1600", "chr1:150-350", "1:120-180", "chr1-160-170", "chr2:1000-2000"])
    ep.pp.map_peaks(atac, MODEL)
    assert atac.var["epifoundation_matched"].tolist() == [1, 1, 1, 1, 1]
    assert atac.obsm["epifoundation_peaks"].max() == 1


HG19 = ["chr1:249000000-249000500", "chr1:100000-100500", "chr20:5000-5500"]


def test_another_build_is_refused_by_name():
    model = tiny([f"chr1:{i}-{i + 400}" for i in range(100_000, 500_000, 1000)], genome="hg38")
    with pytest.raises(
        ValueError,
        match=r"The peaks are of hg19, the model is of hg38: 1 of 3.*"
        r"chr1:249000000-249000500.*PeakMapping\(liftover=",
    ):
        ep.tl.embed(cells(HG19), model)
    with pytest.raises(
        ValueError, match=r"The peaks are of hg19 \(`genome`\), the model is of hg38"
    ):
        ep.tl.embed(cells(HG19[1:]), model, mapping=ep.PeakMapping(genome="hg19"))


@pytest.fixture(scope="session")
def annotation(shared_data):
    return shared_data.parent / "annotation"


def test_bone_marrow_of_another_build_is_refused_and_with_the_chain_embedded(
    shared_data, annotation
):
    atac = anndata.read_h5ad(shared_data / "granja_bmmc_atac_hg19.h5ad")[:200].copy()
    lifted, _ = ep.genome.lift_over(
        ep.genome.read_intervals(atac.var), annotation / "hg19ToHg38.over.chain.gz"
    )
    model = tiny(
        [
            f"{c}:{s}-{e}"
            for c, s, e in lifted.drop_duplicates().iloc[:5000].itertuples(index=False)
        ],
        genome="hg38",
    )
    with pytest.raises(
        ValueError, match="The peaks are of hg19, the model is of hg38: 105 of 10,000"
    ):
        ep.tl.embed(atac, model)
    chain = annotation / "hg19ToHg38.over.chain.gz"
    ep.tl.embed(atac, model, mapping=ep.PeakMapping(liftover=chain))
    report = atac.uns[UNS]["peaks"]
    assert (report["lifted"], report["split"], report["lost"]) == (9999, 0, 1)
    assert report["vocabulary_matched"] == len(model.peaks)
    assert (report["genome"], report["data_genome"]) == ("hg38", "hg19")


def test_overlap_by_chance_reveals_another_build(shared_data, annotation):
    """Without peaks past the ends of hg38, the overlap with the same tissue reveals the build."""
    granja = ep.genome.read_intervals(
        anndata.read_h5ad(shared_data / "granja_bmmc_atac_hg19.h5ad", backed="r").var
    )
    inner = granja[~ep.genome.misplaced(granja, "hg38")].reset_index(drop=True)
    blood = ep.PeakVocabulary.read_bed(
        annotation / "pbmc_unsorted_10k_peaks_hg38.bed.gz", genome="hg38"
    )
    with pytest.raises(
        ValueError,
        match=r"peaks are of hg19, the model is of hg38: 665 of 9,895 overlap.*chance.*"
        r"PeakMapping\(liftover=.*PeakMapping\(genome='hg38'",
    ):
        map_onto(blood, inner)
    assert map_onto(blood, inner, genome="hg38").report["matched"] == 665
    chain = annotation / "hg19ToHg38.over.chain.gz"
    for options in ({}, {"genome": "hg19"}, {"genome": "GRCh37"}):
        assert map_onto(blood, granja, liftover=chain, **options).report["matched"] == 2517
    for options in ({}, {"genome": "GRCh38.p14"}):
        with pytest.raises(
            ValueError, match="The peaks are of hg38, like the model: omit `liftover`"
        ):
            map_onto(blood, blood.intervals, liftover=chain, **options)


@pytest.mark.parametrize("stated", [None, "hg19"])
def test_a_chain_to_another_build_is_refused(shared_data, annotation, tmp_path, stated):
    """From hg19 to hg19: the lifted peaks overlap by chance, whatever build is stated."""
    granja = ep.genome.read_intervals(
        anndata.read_h5ad(shared_data / "granja_bmmc_atac_hg19.h5ad", backed="r").var
    )
    inner = granja[~ep.genome.misplaced(granja, "hg38")].reset_index(drop=True)
    blood = ep.PeakVocabulary.read_bed(
        annotation / "pbmc_unsorted_10k_peaks_hg38.bed.gz", genome="hg38"
    )
    sizes = granja.groupby("chrom")["end"].max() + 1
    chain = tmp_path / "same.chain"
    chain.write_text(
        "".join(
            f"chain 1 {c} {n} + 0 {n} {c} {n} + 0 {n} {i}\n{n}\n\n"
            for i, (c, n) in enumerate(sizes.items(), 1)
        )
    )
    with pytest.raises(ValueError, match=r"chance\. The chain does not lead to hg38\.$"):
        map_onto(blood, inner, liftover=chain, genome=stated)


@pytest.mark.parametrize("name", ["hg38", "GRCh38", "grch38.p14", "HG38", "unknown"])
def test_builds_have_several_names(name):
    """An unknown build is detected if the model's peaks fit only one."""
    at_ends = ["chr1:248956000-248956400", "chr10:133797000-133797400", "chr17:83257000-83257400"]
    model = tiny([*at_ends, "chr19:58617000-58617600"], genome=name)
    with pytest.raises(ValueError, match="peaks are of hg19, the model is of hg38: 1 of 3"):
        ep.pp.map_peaks(cells(HG19), model)
    for stated in ("hg38", "GRCh38"):
        ep.pp.map_peaks(cells(at_ends), model, genome=stated)
    with pytest.raises(
        ValueError,
        match=r"peaks are of h38 \(`genome`\), the model is of hg38.*Known builds: \['hg38'",
    ):
        ep.pp.map_peaks(cells(at_ends), model, genome="h38")


@pytest.mark.parametrize("width", [500, 5000])
def test_bins_of_the_genome_pass_the_check_of_the_build(width):
    """They overlap peaks everywhere, also when shifted."""
    rng = np.random.default_rng(0)
    start = np.sort(rng.choice(1_000_000, 2000, replace=False)) * 100
    blood = ep.PeakVocabulary(
        pd.DataFrame({"chrom": "chr1", "start": start, "end": start + 300}), "hg38"
    )
    bins = np.arange(0, 100_000_000, width)
    frame = pd.DataFrame({"chrom": "chr1", "start": bins, "end": bins + width})
    report = map_onto(blood, frame).report
    starts, ends = start // width, (start + 299) // width
    assert report["matched"] == len(np.unique([starts, ends]))


CHAIN = """chain 1000 chr1 1000 + 100 300 chrA 5000 + 1000 1210 1
100 0 10
100

chain 900 chr2 1000 + 0 100 chrB 1000 - 0 100 2
100

"""


def test_lifting_by_hand(tmp_path):
    """A chain with an insertion of 10, and one to the other strand."""
    path = tmp_path / "a.chain.gz"
    path.write_bytes(gzip.compress(CHAIN.encode()))
    peaks = ep.genome.parse_intervals(
        ["chr1:110-150", "chr1:190-220", "chr1:50-120", "chr2:10-20", "chr9:1-5", "chr1:199-201"]
    )
    lifted, status = ep.genome.lift_over(peaks, path)
    assert status.tolist() == ["lifted", "lifted", "lost", "lifted", "lost", "split"]
    assert lifted.to_numpy().tolist() == [
        ["chrA", 1010, 1050],
        ["chrA", 1090, 1130],
        ["chrB", 980, 990],
    ]
    assert lifted.index.tolist() == [0, 1, 3]


@pytest.mark.parametrize("content", [b"", b"no chain", b"chr1\t1\t2\n"])
def test_files_that_are_not_chains_are_named(tmp_path, content):
    path = tmp_path / "a.chain"
    path.write_bytes(content)
    with pytest.raises(
        ValueError,
        match=r"a\.chain' is not a chain file, or is truncated|"
        "None of the 3 peaks could be lifted over",
    ):
        ep.tl.embed(cells(HG19), tiny(HG19, genome="hg38"), mapping=ep.PeakMapping(liftover=path))
    with pytest.raises(FileNotFoundError, match="The chain file .*nothing' does not exist"):
        ep.genome.lift_over(frame([("chr1", 1, 2)]), tmp_path / "nothing")


@pytest.mark.parametrize(
    ("file", "build"),
    [
        ("snare_cortex_mm10.h5mu", "mm10"),
        ("pbmc10k_100cells_hg38.h5mu", "hg38"),
        ("granja_bmmc_atac_hg19.h5ad", "hg19"),
    ],
)
def test_the_build_of_real_peaks_is_detected(shared_data, file, build):
    import mudata

    read = mudata.read_h5mu if file.endswith("h5mu") else anndata.read_h5ad
    data = read(shared_data / file, backed="r")
    var = data["atac"].var if file.endswith("h5mu") else data.var
    assert ep.genome.detect_build(ep.genome.read_intervals(var)) == [build]


def test_a_few_misplaced_peaks_are_counted_and_accepted():
    names = [f"chr1:{i}-{i + 400}" for i in range(100_000, 500_000, 1000)]
    model = tiny(names, genome="hg38")
    atac = cells([*names, "chr1:900000000-900000500"])
    ep.pp.map_peaks(atac, model)
    assert atac.uns[UNS]["peaks"]["misplaced"] == 1
    with pytest.raises(ValueError, match="Unknown build 'hg17'"):
        ep.genome.misplaced(model.peaks.intervals, "hg17")


def test_the_summary_is_one_line_if_progress_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(ep.settings, "progress", True)
    ep.pp.map_peaks(cells(MODEL.peaks.names), MODEL)
    assert capsys.readouterr().err.strip() == (
        "4 of 4 peaks known to the model, 4 of its 4 reached; 100.0% of the counts in known peaks"
    )


def test_a_view_of_backed_data_is_refused_before_the_work(tmp_path):
    cells(MODEL.peaks.names).write_h5ad(tmp_path / "a.h5ad")
    view = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")[:2]
    with pytest.raises(
        ValueError, match="Results cannot be written into a view of backed data: use `copy=True`"
    ):
        ep.pp.map_peaks(view, MODEL)
    assert ep.pp.map_peaks(view, MODEL, copy=True).obsm["epifoundation_peaks"].shape == (2, 4)


@pytest.mark.parametrize("genome", [None, "hg38"])
@pytest.mark.parametrize("start", [248_956_000, 248_956_422, 249_000_000])
def test_a_peak_past_the_end_of_its_chromosome_is_counted_not_another_build(genome, start):
    """Peak callers extend peaks; the others are those of the model."""
    names = [f"chr{1 + i % 5}:{1000 * i}-{1000 * i + 500}" for i in range(600)]
    moved = [f"chr1:{start}-{start + 600}", *names[1:]]
    atac = cells(moved)
    ep.pp.map_peaks(atac, tiny(names, genome="hg38"), genome=genome)
    report = atac.uns[UNS]["peaks"]
    assert (report["misplaced"], report["matched"], report["data"]) == (1, 599, 600)
    # A model of these peaks is of no other build
    if start < 248_956_422:
        ep.pp.map_peaks(cells(names), tiny(moved, genome="unknown"), genome=genome)
    ep.pp.map_peaks(cells(moved), tiny(moved, genome="hg38"), genome=genome)


def test_peaks_that_only_end_past_a_chromosome_are_of_any_build():
    assert "hg38" in ep.genome.detect_build(frame([("chr1", 248_956_000, 600)]))
    assert "hg38" not in ep.genome.detect_build(frame([("chr1", 248_956_422, 600)]))
    other = [f"chr2:{1000 * i}-{1000 * i + 500}" for i in range(600)]
    atac = cells(["chr1:248956000-248956600", *other])
    model = tiny([f"chr2:{1000 * i + 10}-{1000 * i + 400}" for i in range(600)], genome="hg38")
    ep.pp.map_peaks(atac, model)
    assert atac.uns[UNS]["peaks"]["misplaced"] == 1


@pytest.mark.parametrize("n", [300, 1000, 10_000])
def test_subsets_of_another_build_are_refused(shared_data, annotation, n):
    """Whatever build is stated, unless it is theirs."""
    granja = ep.genome.read_intervals(
        anndata.read_h5ad(shared_data / "granja_bmmc_atac_hg19.h5ad", backed="r").var
    )
    blood = ep.PeakVocabulary.read_bed(
        annotation / "pbmc_unsorted_10k_peaks_hg38.bed.gz", genome="hg38"
    )
    is_out = ep.genome.misplaced(granja, "hg38")
    for seed in range(5):
        rows = np.random.default_rng(seed).choice(len(granja), n, replace=False)
        part = granja.iloc[np.sort(rows)].reset_index(drop=True)
        n_out = int(is_out[rows].sum())
        if n_out:
            with pytest.raises(
                ValueError, match=f"of hg19, the model is of hg38: {n_out} of {n:,}"
            ):
                map_onto(blood, part)
        if n_out > max(2, 2e-3 * n):
            with pytest.raises(ValueError, match="of hg19, the model is of hg38"):
                map_onto(blood, part, genome="hg38")


@pytest.mark.parametrize("missing", [np.nan, None, "", "NA", pd.NA])
@pytest.mark.parametrize("is_missing", [[True] * 4, [True, False, False, True], [False] * 4])
def test_names_are_read_where_a_column_has_no_value(missing, is_missing):
    """As after an outer join with a table that lacks the column."""
    names = ["chr1:100-200", "chr1:300-400", "chr2:100-200", "chr2:1000-2000"]
    index = [names[i] if empty else f"p{i}" for i, empty in enumerate(is_missing)]
    given = [missing if empty else name for name, empty in zip(names, is_missing, strict=True)]
    for dtype in (object, "category"):
        var = pd.DataFrame({"interval": pd.Series(given, dtype=dtype).to_numpy()}, index=index)
        assert list(ep.PeakVocabulary.from_var(var).names) == names
    if isinstance(missing, str):
        return
    table = ep.genome.parse_intervals(names).astype(object)
    table[np.array(is_missing)] = missing
    assert list(ep.PeakVocabulary.from_var(table.set_index(pd.Index(index))).names) == names


def test_names_that_are_no_intervals_beside_an_empty_column_are_explained():
    var = pd.DataFrame({"interval": [np.nan, "chr1:5-9", "x"]}, index=["a", "b", "c"])
    with pytest.raises(
        ValueError, match=r"2 of 3 peak names are not .*the column `interval` has 2 values.*drop it"
    ):
        ep.PeakVocabulary.from_var(var)


@pytest.mark.parametrize(
    "convert",
    [
        lambda t: t.astype(str),
        lambda t: t.astype({"chrom": "category", "start": "Int64", "end": float}),
        lambda t: t.astype("category"),
        lambda t: t.assign(chrom=[name.encode() for name in t["chrom"]]),
        lambda t: t.assign(chrom=[str(name.encode()) for name in t["chrom"]]),
        lambda t: t.assign(chrom=t["chrom"] + " "),
        lambda t: t.assign(chrom=t["chrom"].str.removeprefix("chr")),
        lambda t: t.assign(start=t["start"].astype(">i4"), end=t["end"].astype("float16")),
        lambda t: t.assign(start=t["start"].astype("uint8")),
        lambda t: t.astype(object),
    ],
)
def test_columns_of_any_dtype_are_read(convert):
    table = pd.DataFrame({"chrom": ["chr1", "chrX"], "start": [100, 200], "end": [160, 1000]})
    assert list(ep.PeakVocabulary(convert(table)).names) == ["chr1:100-160", "chrX:200-1000"]
    names = ["b'chr1':100-160", b"chrX:200-1000"]
    assert list(ep.PeakVocabulary.from_names(names).names) == ["chr1:100-160", "chrX:200-1000"]


def test_a_column_of_peaks_that_is_there_twice_is_named():
    table = ep.genome.parse_intervals(["chr1:100-200"])
    for column in ("chrom", "start"):
        with pytest.raises(ValueError, match=f"`var` has 2 columns '{column}': rename or drop"):
            ep.PeakVocabulary(pd.concat([table, table[[column]]], axis=1))
