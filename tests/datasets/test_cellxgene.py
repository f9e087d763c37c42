"""Data sets of CELLxGENE, from a server on this machine with its addresses and formats."""

import gzip
import os
from io import BytesIO

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from fragment_files import bgzip, brute_force

import epifoundation as ep
from epifoundation import cli
from epifoundation._downloads import fetch_json

DATASET = "0a1b2c3d-0000-4111-8222-0123456789ab"
VERSION = "ffffffff-0000-4111-8222-0123456789ab"
FRAGMENTS_OF = (
    "46b43994-2af5-4359-bf75-3314a0d3a7a5"  # files are named after versions, or older ones
)
VERSIONS = f"/curation/v1/datasets/{DATASET}/versions"
H5AD, BGZ = f"/{VERSION}.h5ad", f"/{FRAGMENTS_OF}-fragment.tsv.bgz"
PEAKS = ["chr1:100-200", "chr1:150-400", "chr2:10-60", "chrX:5-9"]
LINES = [
    ("chr1", 90, 170, "a-1_3"),
    ("chr1", 160, 390, "b-1_3"),
    ("chr2", 20, 30, "a-1_3"),
    ("chr2", 40, 800, "c-1_4"),
    ("chr2", 40, 800, "other"),
    ("GL000218.1", 1, 9, "c-1_4"),
]
CELLS = ["c-1_4", "a-1_3", "b-1_3"]


def table():
    """Genes and cells, as the schema has them."""
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(["B cell", "T cell", "unknown"]),
            "cell_type_ontology_term_id": ["CL:0000236", "CL:0000084", "unknown"],
            "donor_id": pd.Categorical(["d2", "d1", "d1"]),
            "assay": "10x multiome",
            "is_primary_data": True,
            "n_fragments": [7, 7, 7],  # of the authors
        },
        index=CELLS,
    )
    return AnnData(sp.csr_matrix(np.ones((3, 2), np.float32)), obs=obs, var={"g": [1, 2]})


class Service:
    """What the service answers about one data set, and its files."""

    def __init__(self, web, folder):
        self.web, self.folder = web, folder
        self.version = {
            "dataset_id": DATASET,
            "dataset_version_id": VERSION,
            "collection_id": "c",
            "title": "Blood",
            "schema_version": "7.1.0",
            "organism": [{"label": "Homo sapiens", "ontology_term_id": "NCBITaxon:9606"}],
            "assets": [],
        }
        web.answers[VERSIONS] = [self.version, {"assets": "of an older version"}]
        self.put_table(table())
        text = "".join(f"{c}\t{s}\t{e}\t{cell}\t1\n" for c, s, e, cell in LINES)
        self.put("ATAC_FRAGMENT", BGZ, bgzip(text.encode()))
        self.put("ATAC_INDEX", f"{BGZ}.tbi", b"index")

    def put(self, kind, path, content):
        self.web.files[path] = content
        others = [asset for asset in self.version["assets"] if asset["filetype"] != kind]
        made = {"filetype": kind, "filesize": len(content), "url": self.web.address + path}
        self.version["assets"] = [*others, made]

    def put_table(self, adata):
        path = self.folder / "table.h5ad"
        adata.write_h5ad(path)
        self.put("H5AD", H5AD, path.read_bytes())

    def drop(self, kind):
        kept = [asset for asset in self.version["assets"] if asset["filetype"] != kind]
        self.version["assets"] = kept


@pytest.fixture
def service(web, tmp_path):
    return Service(web, tmp_path)


def get(dataset_id=DATASET, *, genome="unknown", **options):
    options.setdefault("peaks", ep.PeakVocabulary.from_names(PEAKS, genome=genome))
    return ep.datasets.cellxgene(dataset_id, **options)


def left():
    folder = ep.settings.cache_dir / "cellxgene"
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".lock")


@pytest.mark.parametrize("counting", ["insertion", "fragment"])
def test_labelled_counts_of_the_cells_of_the_table(service, web, counting):
    atac = get(counting=counting)
    assert list(atac.obs_names) == CELLS
    assert list(atac.var_names) == PEAKS
    expected = brute_force(LINES, PEAKS, CELLS, counting)
    np.testing.assert_array_equal(atac.X.toarray(), expected)
    obs = table().obs
    assert atac.obs["cell_type"].tolist()[:2] == ["B cell", "T cell"]
    assert pd.isna(atac.obs["cell_type"].iloc[2])  # unknown
    for column in ("cell_type_ontology_term_id", "donor_id", "assay", "is_primary_data"):
        assert atac.obs[column].tolist() == obs[column].tolist()
    assert atac.obs["n_fragments"].tolist() == [2, 2, 1]
    assert atac.uns["cellxgene"] == {
        "dataset_id": DATASET,
        "dataset_version_id": VERSION,
        "title": "Blood",
        "schema_version": "7.1.0",
        "collection_id": "c",
    }
    assert web.paths() == [VERSIONS, H5AD, BGZ]  # and not the index


def test_the_result_can_be_written(service, tmp_path):
    get().write_h5ad(tmp_path / "a.h5ad")


def test_files_are_downloaded_once_and_suffice_offline(service, web, monkeypatch):
    first = get()
    web.requests.clear()
    get()
    assert web.paths() == [VERSIONS]
    monkeypatch.setattr(ep.settings, "cellxgene_url", "http://127.0.0.1:9")
    again = get(DATASET.upper())
    assert (again.X != first.X).nnz == 0
    pd.testing.assert_frame_equal(again.obs, first.obs)


def test_a_new_version_is_downloaded(service, web):
    get()
    newer = VERSION.replace("f", "e")
    service.version["dataset_version_id"] = newer
    service.put("H5AD", f"/{newer}.h5ad", web.files[H5AD])
    web.requests.clear()
    assert get().uns["cellxgene"]["dataset_version_id"] == newer
    assert web.paths() == [VERSIONS, f"/{newer}.h5ad"]


def test_a_version_can_be_named(service, web):
    web.answers[f"/curation/v1/dataset_versions/{VERSION}"] = service.version
    assert get(VERSION).shape == (3, 4)


@pytest.mark.parametrize("path", [H5AD, BGZ])
def test_a_download_that_broke_off_goes_on(service, web, path):
    web.cut_after = [] if path == H5AD else [None]
    web.cut_after += [100, *[0] * 9]
    with pytest.raises(ConnectionError, match=r"broke off after 100 of .*: call again to go on"):
        get()
    assert [name for name in left() if name.endswith(".part")] == [f"{path[1:]}.part"]
    web.cut_after = []
    web.requests.clear()
    assert get().n_obs == 3
    assert (path, 100) in web.requests
    assert left() == sorted([f"{DATASET}.json", H5AD[1:], BGZ[1:]])


def test_sizes_are_compared(service):
    service.version["assets"][0]["filesize"] -= 1
    with pytest.raises(ValueError, match=r"has [\d,]+ bytes, but [\d,]+ are expected"):
        get()
    for asset in service.version["assets"]:
        asset["filesize"] = -1  # unknown
    assert get().n_obs == 3


def test_fragments_that_are_damaged_are_refused(service, web):
    content = web.files[BGZ]
    service.put("ATAC_FRAGMENT", BGZ, content[:-30])
    with pytest.raises(ValueError, match=r"truncated: the end mark of bgzip is missing"):
        get()


@pytest.mark.parametrize(
    "dataset_id", ["", "abc", DATASET[:-1], DATASET + "/..", f" {DATASET}", DATASET[:-1] + "g"]
)
def test_malformed_identifiers(web, dataset_id):
    message = rf"`dataset_id` must be an identifier.*got {dataset_id!r}. It is in the address"
    with pytest.raises(ValueError, match=message):
        get(dataset_id)
    assert not web.requests


def test_arguments_of_other_types(web):
    with pytest.raises(TypeError, match="`dataset_id` must be a string, got 5"):
        get(5)
    with pytest.raises(ValueError, match=r"`counting` must be.*'insertion'"):
        get(counting="reads")
    with pytest.raises(TypeError, match="`peaks` must be"):
        get(peaks=["chr1:1-2"])
    assert not web.requests


@pytest.mark.parametrize("status", [403, 404])
def test_unknown_identifiers(web, status):
    web.answers[VERSIONS] = web.answers[f"/curation/v1/dataset_versions/{DATASET}"] = status
    with pytest.raises(ValueError, match=f"CELLxGENE has no published data set '{DATASET}': check"):
        get()


def test_withdrawn_data_sets(web):
    web.answers[VERSIONS] = 410
    with pytest.raises(ValueError, match=f"The data set '{DATASET}' was withdrawn from CELLxGENE"):
        get()


@pytest.mark.parametrize("kind", ["ATAC_FRAGMENT", "H5AD"])
def test_data_sets_without_fragments_or_table(service, web, kind):
    service.drop(kind)
    kinds = sorted({"H5AD", "ATAC_FRAGMENT", "ATAC_INDEX"} - {kind})
    what = {"ATAC_FRAGMENT": "fragments", "H5AD": "table of cells"}[kind]
    message = rf"'{DATASET}' \('Blood'\) has no {what} \({kind}\): its files are .*{kinds[0]}"
    with pytest.raises(ValueError, match=message):
        get()
    assert web.paths() == [VERSIONS]


def test_tables_without_labels_are_refused_before_the_fragments_are_downloaded(service, web):
    adata = table()
    adata.obs = adata.obs.drop(columns="cell_type")
    service.put_table(adata)
    with pytest.raises(
        ValueError, match=r"`label_key='cell_type'` is not a column of `obs` of .*'d"
    ):
        get()
    assert BGZ not in web.paths()
    assert get(label_key="donor_id").n_obs == 3


@pytest.mark.parametrize("genome", ["hg38", "hg19"])
def test_peaks_of_another_genome_are_refused_before_any_download(service, web, genome):
    mouse = {"label": "Mus musculus", "ontology_term_id": "NCBITaxon:10090"}
    service.version["organism"] = [mouse]
    message = rf"'{DATASET}' is of Mus musculus \(mm39\), the peaks are of {genome}: pass `peaks=`"
    with pytest.raises(ValueError, match=message):
        get(genome=genome)
    assert web.paths() == [VERSIONS]
    assert get(genome="mm39").n_obs == 3


def test_human_data_on_peaks_of_hg19(service):
    with pytest.raises(ValueError, match=r"Homo sapiens \(hg38\), the peaks are of hg19"):
        get(genome="hg19")


def test_barcodes_of_another_sample_are_refused(service):
    adata = table()
    adata.obs_names = ["x", "y", "z"]
    service.put_table(adata)
    with pytest.raises(ValueError, match="None of the 3 barcodes is in the file"):
        get()


def test_offline(service, monkeypatch):
    monkeypatch.setattr(ep.settings, "cellxgene_url", "http://127.0.0.1:9")
    message = rf"Could not look up the data set '{DATASET}' at http://127.0.0.1:9 \(.*refused.*\)"
    with pytest.raises(ConnectionError, match=message) as raised:
        get()
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(ep.settings, "cellxgene_url", "cellxgene.example")
    with pytest.raises(ValueError, match="is not an address that begins with https://"):
        get()


@pytest.mark.parametrize("status", [429, 500, 502])
def test_a_service_that_is_down(service, web, status):
    answer = web.answers[VERSIONS]
    web.answers[VERSIONS] = status
    with pytest.raises(ConnectionError, match=rf"Could not look up .* \(HTTP Error {status}"):
        get()
    web.answers[VERSIONS] = answer
    get()
    web.answers[VERSIONS] = status
    assert get().n_obs == 3  # of the cache


@pytest.mark.parametrize("dtype", ["category", "object", "string"])
def test_unknown_labels_are_missing_whatever_their_type(service, dtype):
    adata = table()
    labels = ["unknown", None, "B cell"]
    adata.obs["cell_type"] = pd.Series(labels, index=CELLS, dtype=dtype)
    with ad.settings.override(allow_write_nullable_strings=True):
        service.put_table(adata)
    assert get().obs["cell_type"].isna().tolist() == [True, True, False]


ODD = [
    [],
    {},
    {"assets": None},
    [{"assets": [{}]}],
    [5],
    "text",
    None,
    [{"assets": [], "organism": [{"label": "x"}]}],
    [{"assets": [{"filetype": "H5AD", "url": "http://x/.."}], "dataset_id": "a"}],
    [{"assets": [{"filetype": "H5AD", "url": 5}]}],
]


@pytest.mark.parametrize("answer", ODD, ids=str)
def test_answers_of_another_form(web, answer):
    web.answers[VERSIONS] = answer
    with pytest.raises(
        ValueError, match=rf"The answer of http\S+ about .*'{DATASET}' is not as doc"
    ):
        get()
    assert left() == []


def test_the_result_is_a_reference(web, tmp_path, simulated, model):
    """Fragments of simulated cells go the whole way, and label the cells they came from."""
    service = Service(web, tmp_path)
    atac = simulated["atac"]
    labels = simulated.obs["cell_type"].reindex(atac.obs_names)
    service.put_table(AnnData(obs=pd.DataFrame({"cell_type": labels}, index=atac.obs_names)))
    path = ep.datasets.simulate_fragments(atac, tmp_path / "f.tsv", n_empty=5)
    lines = [line for line in path.read_bytes().splitlines(True) if not line.startswith(b"#")]
    service.put("ATAC_FRAGMENT", BGZ, gzip.compress(b"".join(lines)))
    reference = get(peaks=atac.var)
    assert ((reference.X > 0) != (atac.X > 0)).nnz == 0
    query = atac[:100].copy()
    ep.tl.annotate(query, model, reference=reference, label_key="cell_type", unknown=0)
    found = query.obs["epifoundation_cell_type"].astype(str)
    assert (found == labels[:100].astype(str)).mean() > 0.9


def test_real_fragments_and_labels(web, tmp_path, shared_data):
    """Fragments of a test file of CELLxGENE, named after cells of another, against a loop."""
    files = shared_data.parent / "files"
    if not files.is_dir():
        pytest.skip(f"no files at {files}")
    content = (files / "cellxgene_example_with_labels.h5ad").read_bytes()  # of anndata 0.7
    with h5py.File(BytesIO(content)) as file:
        cells = file["obs"][file["obs"].attrs["_index"]].asstr()[:].tolist()
        names, codes = file["obs/__categories/cell_type"].asstr()[:], file["obs/cell_type"][:]
    text = gzip.decompress((files / "cellxgene_fragments.tsv.gz").read_bytes()).decode()
    lines = [line.split("\t") for line in text.splitlines()]
    barcodes = pd.factorize(pd.Series([line[3] for line in lines]))[0]
    other = [*cells, *(f"other{i}" for i in range(barcodes.max() + 1 - len(cells)))]
    lines = [
        (c, int(s), int(e), other[i]) for (c, s, e, *_), i in zip(lines, barcodes, strict=True)
    ]
    service = Service(web, tmp_path)
    service.put("H5AD", H5AD, content)
    text = "".join(f"{c}\t{s}\t{e}\t{cell}\t1\n" for c, s, e, cell in lines)
    service.put("ATAC_FRAGMENT", BGZ, bgzip(text.encode(), 60_000))
    peaks = [f"{c}:{s - 20}-{e + 20}" for c, s, e, _ in lines[100:4000:100] if s > 20]
    atac = get(peaks=ep.PeakVocabulary.from_names(peaks, genome="hg38"))
    np.testing.assert_array_equal(atac.X.toarray(), brute_force(lines, peaks, cells, "insertion"))
    assert atac.X.nnz
    assert atac.obs["cell_type"].tolist() == names[codes].tolist()


def test_the_command(service, tmp_path, capsys):
    bed = tmp_path / "peaks.bed"
    ep.PeakVocabulary.from_names(PEAKS).intervals.to_csv(bed, sep="\t", header=False, index=False)
    output = tmp_path / "atac.h5ad"
    options = ["--peaks", str(bed), "--counting", "fragment", "-o", str(output)]
    cli.main(["cellxgene", DATASET, *options])
    assert capsys.readouterr().out == f"{output}\n"
    found, expected = ad.read_h5ad(output), get(counting="fragment")
    assert (found.X != expected.X).nnz == 0
    assert found.obs["donor_id"].tolist() == expected.obs["donor_id"].tolist()
    with pytest.raises(SystemExit):
        cli.main(["cellxgene", "abc", "-o", str(tmp_path / "b.h5ad")])
    assert "`dataset_id` must be an identifier" in capsys.readouterr().err


@pytest.mark.skipif(
    "EPIFOUNDATION_NETWORK" not in os.environ, reason="EPIFOUNDATION_NETWORK=1 downloads data"
)
def test_the_smallest_data_set_of_the_real_service(tmp_path, monkeypatch):
    monkeypatch.setattr(ep.settings, "cache_dir", tmp_path)
    listed = fetch_json(f"{ep.settings.cellxgene_url}/curation/v1/datasets")
    sizes = {
        each["dataset_id"]: sum(asset["filesize"] for asset in each["assets"])
        for each in listed
        if {"H5AD", "ATAC_FRAGMENT"} <= {asset["filetype"] for asset in each["assets"]}
        and each["organism"][0]["ontology_term_id"] == "NCBITaxon:9606"
    }
    smallest = min(sizes, key=sizes.get)
    atac = ep.datasets.cellxgene(smallest, peaks="encode-ccre-hg38")
    assert atac.X.nnz
    assert atac.obs["cell_type"].nunique() > 1
