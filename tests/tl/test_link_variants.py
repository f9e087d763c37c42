"""Elements, genes and cell types of variants, against a loop over all of them."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from mudata import MuData

import epifoundation as ep
from epifoundation.genome._chromosome_lengths import chromosome_lengths

LINKS = "epifoundation_links"


def cells(peaks, links=(), n=30, seed=0):
    """Cells of peaks (chromosome, start, end), with links (peak, gene, group, q-value)."""
    rng = np.random.default_rng(seed)
    names = [f"{chrom}:{start}-{end}" for chrom, start, end in peaks]
    X = sp.csr_matrix((rng.random((n, len(peaks))) < 0.3).astype(np.float32))
    obs = pd.DataFrame(
        {"type": rng.choice(["A", "B", "C/D"], n)}, index=[f"c{i}" for i in range(n)]
    )
    found = AnnData(X, obs=obs, var=pd.DataFrame(index=names))
    rows = [
        {
            "gene": gene,
            "peak": names[peak],
            **dict(zip(("chrom", "start", "end"), peaks[peak], strict=True)),
            "tss": peaks[peak][1] + 1000,
            "group": group,
            "effect": 0.5,
            "direction": "activating",
            "pvalue": qvalue / 2,
            "qvalue": qvalue,
            "score": 0.5,
        }
        for peak, gene, group, qvalue in links
    ]
    columns = ["gene", "peak", "chrom", "start", "end", "tss", "group", "effect", "direction"]
    columns += ["pvalue", "qvalue", "score"]
    found.uns[LINKS] = pd.DataFrame(rows, columns=columns)
    return found


places = st.tuples(st.sampled_from(["chr1", "chr2", "chrX"]), st.integers(0, 300))


@st.composite
def problems(draw):
    starts = draw(st.lists(places, min_size=1, max_size=8, unique=True))
    peaks = [(chrom, start, start + draw(st.integers(1, 60))) for chrom, start in starts]
    peak = st.integers(0, len(peaks) - 1)
    qvalue = st.sampled_from([0.01, 0.1, 0.5, np.nan])
    links = draw(st.lists(st.tuples(peak, st.sampled_from("gh"), st.just("A"), qvalue), max_size=8))
    names = st.sampled_from(["1", "chr2", "X", "5"])
    variants = draw(
        st.lists(
            st.tuples(names, st.integers(1, 320), st.integers(1, 9)),
            min_size=1,
            max_size=10,
        )
    )  # fmt: skip
    return peaks, links, variants


@pytest.mark.filterwarnings("ignore:No chromosome has both")
@given(problems(), st.sampled_from([0, 1, 25]), st.sampled_from([None, 0.1]), st.booleans())
def test_all_rows_are_those_of_a_loop(problem, window, max_qvalue, linked_only):
    peaks, links, variants = problem
    data = cells(peaks, links)
    table = pd.DataFrame(
        [(chrom, pos, "A" * n) for chrom, pos, n in variants], columns=["chr", "position", "ref"]
    ).set_index(pd.Index([f"v{i}" for i in range(len(variants))]))
    options = {"window": window, "max_qvalue": max_qvalue, "linked_only": linked_only}
    found = ep.tl.link_variants(table, data, groupby="type", **options)

    is_open = data.X.toarray() > 0
    expected = []
    for i, (chrom, pos, n) in enumerate(variants):
        chrom, bases = f"chr{chrom.removeprefix('chr')}", range(pos - 1, pos - 1 + n)
        near = []
        for j, (peak_chrom, start, end) in enumerate(peaks):
            distance = min(abs(a - b) for a in bases for b in range(start, end))
            if peak_chrom == chrom and distance <= window:
                near.append((distance, j))
        for distance, j in sorted(near) or [(None, None)]:
            linked = [
                gene
                for peak, gene, _, qvalue in links
                if peak == j and (max_qvalue is None or qvalue <= max_qvalue)
            ]
            of_peak = None if j is None else data.var_names[j]
            expected += [
                (f"v{i}", chrom, pos, of_peak, distance, gene, j)
                for gene in linked or [None] * (not linked_only)
            ]
    shown = found[["chrom", "pos", "peak", "distance", "gene"]].astype(object)
    shown = shown.where(shown.notna(), None)
    assert list(shown.itertuples(name=None)) == [row[:6] for row in expected]
    for (_, row), each in zip(found.iterrows(), expected, strict=True):
        if each[6] is None:
            assert row.filter(like="open").isna().all()
            continue
        means = {
            name: is_open[(data.obs["type"] == name).to_numpy(), each[6]].mean()
            for name in data.obs["type"].unique()
        }
        assert {name: row[f"open:{name}"] for name in means} == pytest.approx(means)
        assert row["fraction_open"] == pytest.approx(max(means.values()))
        assert means[row["open_in"]] == pytest.approx(row["fraction_open"])


def test_edges_of_elements():
    """A deletion that reaches into a peak lies in it; an insertion lies at the base before it."""
    data = cells([("chr1", 100, 200)])
    rows = [
        ("before", 100, "A", "G", 1),  # base 99, 0-based
        ("first", 101, "A", "G", 0),
        ("deletion", 98, "ACGT", "A", 0),
        ("short deletion", 97, "ACGT", "A", 1),
        ("last", 200, "A", "G", 0),
        ("after", 201, "A", "G", 1),
        ("insertion at the end", 200, "A", "ACCC", 0),
        ("insertion before", 100, "A", "ACCC", 1),
    ]
    table = pd.DataFrame(rows, columns=["id", "pos", "ref", "alt", "expected"]).assign(chrom="1")
    found = ep.tl.link_variants(table, data, window=1)
    assert found["distance"].tolist() == table["expected"].tolist()
    assert found["id"].tolist() == table["id"].tolist()
    inside = ep.tl.link_variants(table, data)
    assert inside["peak"].notna().tolist() == (table["expected"] == 0).tolist()


def test_columns_of_links_are_carried_or_missing():
    data = cells([("chr1", 100, 200)], [(0, "g", "A", 0.01), (0, "h", "B", 0.05)])
    table = pd.DataFrame({"chrom": ["chr1", "chr1"], "pos": [150, 900]})
    data.uns[LINKS] = data.uns[LINKS].drop(columns="score")  # an older table
    with pytest.raises(ValueError, match="`min_score` needs the column 'score'.*or pass None"):
        ep.tl.link_variants(table, data)
    found = ep.tl.link_variants(table, data, min_score=None)
    assert found["gene"].fillna("-").tolist() == ["g", "h", "-"]
    assert found["tss_distance"].fillna(-1).tolist() == [951, 951, -1]
    assert found[["score", "pip"]].isna().all(axis=None)
    assert found["credible_set"].fillna(-1).tolist() == [0, 0, -1]
    new = {"score": [0.9, 0.2], "pip": [0.7, np.nan], "credible_set": [1, 0]}
    data.uns[LINKS] = data.uns[LINKS].assign(**new)
    data.uns[LINKS] = data.uns[LINKS].iloc[::-1]
    found = ep.tl.link_variants(table, data)  # the highest score first
    assert found["score"].fillna(-1).tolist() == [0.9, 0.2, -1]
    assert ep.tl.link_variants(table, data, min_score=0.5)["gene"].tolist()[0] == "g"
    assert ep.tl.link_variants(table, data, min_score=0.5)["gene"].notna().sum() == 1
    assert found["pip"].fillna(-1).tolist() == [0.7, -1, -1]
    assert found["credible_set"].fillna(-1).tolist() == [1, 0, -1]
    assert found["direction"].tolist()[:2] == ["activating"] * 2


def test_order_and_modality_do_not_matter(simulated, model):
    mdata = simulated.copy()
    ep.tl.link_peaks(mdata, model, genes=["gene3", "gene4"], max_distance=50_000)
    peaks = ep.genome.read_intervals(mdata["atac"].var)
    table = pd.DataFrame({"chrom": peaks["chrom"], "pos": peaks["start"] + 5})
    before = mdata["atac"].uns[LINKS].copy()
    options = {"min_score": None, "groupby": "cell_type"}
    found = ep.tl.link_variants(table, mdata, **options)
    assert found["distance"].eq(0).all()
    assert set(found["gene"].dropna()) == {"gene3", "gene4"}
    assert found["gene"].notna().sum() == len(before)
    pd.testing.assert_frame_equal(mdata["atac"].uns[LINKS], before)
    shuffled = table.sample(frac=1, random_state=0)
    again = ep.tl.link_variants(shuffled, mdata["atac"], **options)
    pd.testing.assert_frame_equal(again.sort_index(kind="stable"), found)
    assert again.index.unique().tolist() == shuffled.index.tolist()
    rows = [*range(0, 400, 3), *range(1, 400, 3), *range(2, 400, 3)]
    moved = MuData({"atac": mdata["atac"][rows].copy()})
    moved["atac"].uns[LINKS] = before
    pd.testing.assert_frame_equal(ep.tl.link_variants(table, moved, **options), found)


HG19 = "".join(
    f"##contig=<ID={name[3:]},length={length}>\n"
    for name, length in chromosome_lengths("hg19").items()
)


@pytest.fixture
def hg38():
    """Peaks at the ends of chromosomes of hg38, which fit no other build."""
    ends = [(c, n - 500, n) for c, n in chromosome_lengths("hg38").items() if c != "chrM"]
    return cells([("chr1", 1_000_000, 1_001_000), *ends], [(0, "g", "all", 0.01)])


def write_vcf(path, header, *records):
    lines = ["##fileformat=VCFv4.2\n", header, "#CHROM\tPOS\tID\tREF\tALT\n"]
    path.write_text("".join([*lines, *("\t".join(map(str, one)) + "\n" for one in records)]))
    return path


def test_variants_on_another_build_are_refused(hg38, tmp_path):
    path = write_vcf(tmp_path / "a.vcf", HG19, (1, 1_000_500, "rs1", "A", "G"))
    match = r"variants are on hg19 \(`##contig`: chr1 has 249,250,621 bases\), the peaks on hg38: "
    match += r"pass `liftover=`, a chain file such as hg19ToHg38.over.chain.gz"
    with pytest.raises(ValueError, match=match):
        ep.tl.link_variants(path, hg38)
    path = write_vcf(tmp_path / "b.vcf", "##reference=b37\n", (1, 1_000_500, "rs1", "A", "G"))
    with pytest.raises(ValueError, match=r"on hg19 \(`##reference=b37`\)"):
        ep.tl.link_variants(path, hg38)
    path = write_vcf(tmp_path / "c.vcf", "##reference=GRCh38\n", (1, 1_000_500, "rs1", "A", "G"))
    assert ep.tl.link_variants(path, hg38)["gene"].tolist() == ["g"]
    with pytest.raises(ValueError, match="as the peaks are: leave out `liftover`"):
        ep.tl.link_variants(path, hg38, liftover="a.chain")
    beyond = pd.DataFrame({"chrom": ["1", "1"], "pos": [5, 249_000_001], "id": [None, "rs5"]})
    match = r"1 of 2 variants lie outside of hg38.*chr1:249,000,001 \(rs5\).*They fit hg19"
    with pytest.raises(ValueError, match=match):
        ep.tl.link_variants(beyond, hg38)
    with pytest.raises(ValueError, match="fit no known build: correct their positions"):
        ep.tl.link_variants(beyond.assign(pos=10**9), hg38)
    with pytest.raises(ValueError, match="fit no known build"):
        ep.tl.link_variants(beyond.assign(chrom="chr23", pos=5), hg38)


def test_variants_are_lifted(hg38, shared_data):
    chain = shared_data.parent / "annotation" / "hg19ToHg38.over.chain.gz"
    # 935,380 of hg19 is 1,000,000 of hg38; the second is on a reversed strand; the third is lost
    table = pd.DataFrame(
        {
            "chrom": ["1", "1", "1"],
            "pos": [935_900, 144_937_000, 1],
            "ref": ["A", "C", "G"],
            "alt": ["AT", "G", "C"],
        },
        index=["a", "b", "c"],
    )
    with pytest.warns(UserWarning, match=r"1 of 3 variants do not map.*\(1 lost, 0 split\)"):
        found = ep.tl.link_variants(table, hg38, liftover=chain)
    assert found["lift"].tolist() == ["lifted", "lifted", "lost"]
    assert found["lifted_from"].tolist() == ["chr1:935900", "chr1:144937000", "chr1:1"]
    intervals = pd.DataFrame({"chrom": "chr1", "start": table["pos"] - 1, "end": table["pos"]})
    lifted, _ = ep.genome.lift_over(intervals, chain)
    assert found["pos"][:2].tolist() == (lifted["start"] + 1).tolist()
    assert found["pos"].isna().tolist() == [False, False, True]
    assert found["ref"].tolist() == ["A", "G", "G"]
    assert found["alt"].tolist() == ["AT", "C", "C"]
    assert found["gene"].fillna("-").tolist() == ["g", "-", "-"]
    hg19 = cells([(c, n - 500, n) for c, n in chromosome_lengths("hg19").items() if c != "chrM"])
    end = pd.DataFrame({"chrom": "chr17", "pos": [81_195_000]})
    with pytest.raises(ValueError, match="lifted over: pass the chain file from their build"):
        ep.tl.link_variants(end, hg19, liftover=chain)


def test_what_is_refused(hg38, tmp_path):
    table = pd.DataFrame({"chrom": "chr1", "pos": [1_000_500], "ref": "A"})
    for options, match in (
        ({"window": -1}, "`window` must be an integer of at least 0"),
        ({"max_qvalue": 2}, "`max_qvalue` must lie between 0 and 1"),
        ({"groupby": "no"}, "`groupby='no'` is not a column"),
        (
            {"key_added": "other"},
            r"No links in `uns\['other_links'\]`: run `epifoundation.tl.link_p",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            ep.tl.link_variants(table, hg38, **options)
    with pytest.raises(TypeError, match="`linked_only` must be bool"):
        ep.tl.link_variants(table, hg38, linked_only="no")
    hg38.obs["none"] = np.nan
    with pytest.raises(ValueError, match="is missing for every cell"):
        ep.tl.link_variants(table, hg38, groupby="none")
    fasta = tmp_path / "a.fa"
    fasta.write_text(">chr1\n" + "T" * 100 + "\n")
    (tmp_path / "a.fa.fai").write_text("chr1\t100\t6\t100\t101\n")
    at = table.assign(pos=50)
    with pytest.raises(ValueError, match=r"REF is 'A', '.*a.fa' has 'T'. Is it of another build"):
        ep.tl.link_variants(at, hg38, fasta=fasta)
    assert len(ep.tl.link_variants(at.assign(ref="t"), hg38, fasta=fasta)) == 1
    del hg38.uns[LINKS]
    with pytest.raises(ValueError, match="No links"):
        ep.tl.link_variants(table, hg38)


def test_what_is_warned_of(hg38):
    table = pd.DataFrame({"chrom": ["GL000194.1"], "pos": [5]})
    with pytest.warns(UserWarning, match=r"No chromosome has both variants \(\['GL000194.1'\]"):
        assert ep.tl.link_variants(table, hg38)["peak"].isna().all()
    table = pd.DataFrame({"chrom": ["chr1"], "pos": [1_000_500]})
    with pytest.warns(UserWarning, match="1 of 1 links have a peak that the data lack"):
        ep.tl.link_variants(table, hg38[:, 1:].copy())


def test_many_variants_take_little_time():
    """A quarter of a million variants, and as many peaks as an atlas has."""
    import time

    start = np.arange(120_000) * 1500
    data = cells([("chr1", int(one), int(one) + 500) for one in start], n=3)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"chrom": "chr1", "pos": rng.integers(1, start[-1], 250_000)})
    began = time.process_time()
    found = ep.tl.link_variants(table, data, groupby="type")
    assert time.process_time() - began < 20  # one or two seconds; a loop takes minutes
    inside = (table["pos"] - 1) % 1500 < 500
    assert found["peak"].notna().tolist() == inside.tolist()
