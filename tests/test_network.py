"""``ep.get.network``: against networks that were put together by loops."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import linregress

import epifoundation as ep

KEY = "epifoundation_links"
TFS = ["GATA1", "SPI1", "no hits"]


@pytest.fixture
def linked(mdata):
    """Links of the first 30 peaks to three genes, in two groups."""
    rng = np.random.default_rng(0)
    var = mdata["atac"].var.iloc[:30]
    parts = []
    for group in ("A", "B"):
        for gene in ("a", "b", "c"):
            rows = np.sort(rng.choice(30, 12, replace=False))
            parts.append(
                pd.DataFrame(
                    {
                        "gene": gene,
                        "peak": var.index[rows],
                        "chrom": "chr1",
                        "start": var["start"].to_numpy()[rows],
                        "end": var["end"].to_numpy()[rows],
                        "tss": 1000,
                        "group": group,
                        "effect": rng.normal(size=12),
                        "qvalue": rng.random(12),
                        "score": rng.random(12),
                    }
                )
            )
    links = pd.concat(parts, ignore_index=True)
    links.index = links.index.astype(str)
    mdata["atac"].uns[KEY] = links
    return links


@pytest.fixture
def motifs(mdata):
    """Peaks x TFs, true where a motif occurs."""
    values = np.random.default_rng(1).random((mdata["atac"].n_vars, 3)) < 0.3
    values[:, 2] = False
    return pd.DataFrame(values, index=mdata["atac"].var_names, columns=TFS)


def by_loops(links, motifs, value="effect"):
    """Weights and peaks by TF and gene."""
    pairs = {}
    for row in links.itertuples():
        pairs.setdefault((row.gene, row.peak), []).append(row)
    found = {}
    for (gene, peak), rows in pairs.items():
        effect = np.mean([row.effect for row in rows])
        weight = effect if value == "effect" else np.sign(effect) * max(r.score for r in rows)
        for tf in motifs.columns[motifs.loc[peak]]:
            found.setdefault((tf, gene), []).append((peak, weight))
    return {key: (sum(w for _, w in each), {p for p, _ in each}) for key, each in found.items()}


def check(network, expected):
    keys = list(zip(network["source"], network["target"], strict=True))
    assert keys == sorted(expected)
    assert not network.duplicated(["source", "target"]).any()  # as decoupler demands
    for row in network.itertuples():
        weight, peaks = expected[row.source, row.target]
        assert row.weight == pytest.approx(weight)
        assert set(row.peaks.split(";")) == peaks
        assert row.n_peaks == len(peaks)


@pytest.mark.parametrize("value", ["effect", "score"])
def test_weights_by_loops(mdata, linked, motifs, value):
    network = ep.get.network(mdata, motifs=motifs, max_qvalue=None, value=value)
    assert list(network) == ["source", "target", "weight", "n_peaks", "peaks"]
    check(network, by_loops(linked, motifs, value))
    keep = linked[(linked["qvalue"] <= 0.5) & (linked["score"] >= 0.3) & (linked["group"] == "B")]
    network = ep.get.network(
        mdata, motifs=motifs, max_qvalue=0.5, min_score=0.3, group="B", value=value
    )
    check(network, by_loops(keep, motifs, value))


def test_the_same_motifs_in_every_form(mdata, linked, motifs, tmp_path):
    atac = mdata["atac"]
    expected = ep.get.network(mdata, motifs=motifs)
    rows, columns = np.nonzero(motifs.to_numpy())
    long = pd.DataFrame({"tf": motifs.columns[columns], "peak": motifs.index[rows]})
    sparse = pd.DataFrame.sparse.from_spmatrix(
        sp.csr_matrix(motifs.to_numpy(np.float32)), motifs.index, motifs.columns
    )
    tables = {
        "shuffled": motifs.sample(frac=1, random_state=0),
        "numbers": motifs * 7.5,
        "categories": long.astype("category"),
        "long, some twice": pd.concat([long, long.iloc[:5]]),
        "of decoupler": long.rename(columns={"tf": "source", "peak": "target"}),
        "sparse": sparse,
        "only peaks with a motif": motifs[motifs.any(axis=1)],
        "of this function": ep.get.network(mdata, motifs=motifs, target="peak"),
    }
    for name, table in tables.items():
        before = table.copy()
        found = ep.get.network(mdata, motifs=table)
        pd.testing.assert_frame_equal(found, expected, obj=name)
        pd.testing.assert_frame_equal(table, before)
    # As pychromvar.match_motif writes them; two matrices of a TF are one
    first = motifs["GATA1"].to_numpy() & (np.arange(len(motifs)) % 2 == 0)
    second = motifs["GATA1"].to_numpy() & ~first
    matches = np.stack([second, motifs["SPI1"], first, motifs["no hits"]], axis=1)
    atac.uns["motif_name"] = ["MA0035.5.GATA1", "MA0080.7.SPI1", "MA2388.1.GATA1", "UN1.1.no hits"]
    for matrix in (matches.astype(np.uint8), sp.csr_matrix(matches), sp.csc_matrix(matches)):
        atac.varm["motif_match"] = matrix
        pd.testing.assert_frame_equal(ep.get.network(mdata, motifs="motif_match"), expected)
    atac.varm["as_table"] = motifs
    pd.testing.assert_frame_equal(ep.get.network(mdata, motifs="as_table"), expected)
    mdata.write(tmp_path / "a.h5mu")
    from_file = ep.get.network(tmp_path / "a.h5mu", motifs="motif_match")
    pd.testing.assert_frame_equal(from_file, expected, check_dtype=False)


def test_peaks_as_targets_need_no_links(mdata, motifs):
    network = ep.get.network(mdata, motifs=motifs, target="peak")
    assert list(network) == ["source", "target", "weight"]
    rows, columns = np.nonzero(motifs.to_numpy())
    expected = set(zip(motifs.columns[columns], motifs.index[rows], strict=True))
    assert set(zip(network["source"], network["target"], strict=True)) == expected
    assert len(network) == len(expected)
    assert (network["weight"] == 1).all()
    for option in ({"group": "A"}, {"min_score": 0.5}):
        with pytest.raises(ValueError, match="is for links, which `target='peak'` does not use"):
            ep.get.network(mdata, motifs=motifs, target="peak", **option)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.T, "Peaks must be its rows: pass `motifs.T`"),
        (lambda t: t.set_axis(t.index.str.replace(":", "-")), "No peak in `motifs` is a peak of"),
        (lambda t: t.iloc[[0, 0]], "Duplicate peaks in the index of `motifs`"),
        (lambda t: t - 0.5, "found -0.5: pass `scores > threshold`"),
        (lambda t: t.where(t), "found nan|other values"),
        (lambda t: t.astype(float).where(t), "found nan: pass `scores > threshold`"),
        (lambda t: t.astype(str), "the column 'GATA1' has other values"),
        (lambda t: t & False, "`motifs` has no hits"),
        (lambda t: t.iloc[:, :0], "`motifs` has no hits"),
        (lambda _: pd.DataFrame({"tf": ["a", None], "peak": "b"}), "1 rows without 'tf' or 'peak'"),
        (lambda _: pd.DataFrame({"tf": ["a"], "peak": "b"}), "No peak in `motifs` is a peak of"),
        (lambda t: t * 1j, "the column 'GATA1' has other values"),
        (lambda t: t.set_index("SPI1", append=True), "an index of several levels"),
        (lambda _: pd.DataFrame(), "No peak in `motifs` is a peak of"),
        (lambda _: "nowhere", "`motifs='nowhere'` is not in `varm`; available: "),
        (lambda _: "unnamed", r"`varm\['unnamed'\]` has 2 columns, but .* has 0 names"),
    ],
)
def test_tables_that_are_no_motifs(mdata, linked, motifs, change, message):
    mdata["atac"].varm["unnamed"] = np.ones((mdata["atac"].n_vars, 2))
    for target in ("gene", "peak"):
        with pytest.raises(ValueError, match=message):
            ep.get.network(mdata, motifs=change(motifs), target=target)


@pytest.mark.parametrize("wrong", [None, 3, ["a"], np.ones(3), sp.csr_matrix((2, 2)), {}])
def test_other_types(mdata, linked, wrong):
    with pytest.raises(TypeError, match="`motifs` must be DataFrame or str, got"):
        ep.get.network(mdata, motifs=wrong)


def test_peaks_that_the_data_lack_are_left_out(mdata, linked, motifs):
    expected = ep.get.network(mdata, motifs=motifs)
    more = pd.concat([motifs, pd.DataFrame(True, index=["chrX:1-2"], columns=motifs.columns)])
    with pytest.warns(UserWarning, match=r"1 of \d+ peaks with a motif are not .* as 'chrX:1-2'"):
        found = ep.get.network(mdata, motifs=more)
    pd.testing.assert_frame_equal(found, expected)


def test_networks_without_edges(mdata, linked, motifs):
    with pytest.raises(ValueError, match="None of the 72 links is left: `max_qvalue` is 0.0"):
        ep.get.network(mdata, motifs=motifs, max_qvalue=0.0)
    with pytest.raises(ValueError, match="`group` must be one of"):
        ep.get.network(mdata, motifs=motifs, group="C")
    with pytest.raises(ValueError, match="`value` needs the column 'pip'"):
        ep.get.network(mdata, motifs=motifs, value="pip")
    with pytest.raises(ValueError, match="`target` must be one of"):
        ep.get.network(mdata, motifs=motifs, target="region")
    others = motifs[~motifs.index.isin(linked["peak"])]
    with pytest.raises(ValueError, match=r"None of the \d+ linked peaks has a motif; \d+ other"):
        ep.get.network(mdata, motifs=others, max_qvalue=None)
    mdata["atac"].uns[KEY] = linked.assign(qvalue=np.nan)
    with pytest.raises(ValueError, match="none has a q-value.*pass `max_qvalue=None`"):
        ep.get.network(mdata, motifs=motifs)
    del mdata["atac"].uns[KEY]
    with pytest.raises(ValueError, match="run `epifoundation.tl.link_peaks` first"):
        ep.get.network(mdata, motifs=motifs)


def test_the_active_factor_is_found(mdata, linked, motifs):
    """Expression follows the weights of one TF; activities as `ulm` of decoupler computes them."""
    network = ep.get.network(mdata, motifs=motifs, max_qvalue=None)
    genes = [f"other{i}" for i in range(50)] + ["a", "b", "c"]
    weights = network.pivot(index="target", columns="source", values="weight")
    weights = weights.reindex(genes).fillna(0)
    noise = np.random.default_rng(0).normal(0, 0.1, len(genes))
    expression = 3 * weights["SPI1"] + noise
    activity = {tf: t_value(linregress(weights[tf], expression)) for tf in weights}
    assert activity["SPI1"] > max(20, 2 * activity["GATA1"])


def t_value(fit):
    return fit.slope / fit.stderr
