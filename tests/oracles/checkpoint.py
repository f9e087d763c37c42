"""Checkpoints of the original implementation with all their files, made of random weights."""

import json

import numpy as np
import torch
from oracles.original import SPECIAL, Original, pad

import epifoundation as ep

CHROMOSOMES = ["chr1", "chr2", "chrX"]


def table(names, *, special=True):
    return {name: i for i, name in enumerate([*(SPECIAL if special else []), *names])}


class Made:
    """An original checkpoint with its files, and what the plain implementation computes from it."""

    def __init__(
        self,
        folder,
        *,
        seed=0,
        n_peaks=40,
        n_genes=12,
        n_heads=4,
        width=8,
        chromosomes=True,
        **options,
    ):
        generator = np.random.default_rng(seed)
        self.folder = folder
        folder.mkdir(exist_ok=True)
        chroms = generator.choice([*CHROMOSOMES, "chrUn"], n_peaks)  # one that the vocabulary lacks
        peaks = [f"{chrom}-{1000 * i}-{1000 * i + 300}" for i, chrom in enumerate(chroms)]
        genes = [f"GENE{i}" for i in range(n_genes)]
        gene2chr = {gene: str(generator.choice(CHROMOSOMES)) for gene in genes}
        known = table(CHROMOSOMES)
        self.vocabularies = {"atac": table(peaks), "rna": table(genes)}
        rows = None
        if chromosomes:
            self.vocabularies |= {"chr": known, "gene2chr": gene2chr}
            of_peaks = [0, 1, 2, 3, *(known.get(chrom, 0) for chrom in chroms)]
            of_genes = [0, 1, 2, 3, *(known[gene2chr[gene]] for gene in genes)]
            rows = torch.tensor(of_peaks), torch.tensor(of_genes)
        if options.get("n_batches"):
            self.vocabularies["batch"] = table(
                [f"b{i}" for i in range(options["n_batches"])], special=False
            )
        if options.get("n_types"):
            self.vocabularies["cell"] = table(
                [f"t{i}" for i in range(options["n_types"])], special=False
            )
        torch.manual_seed(seed)
        self.plain = Original(
            n_peaks,
            n_genes,
            dim=n_heads * width,
            n_heads=n_heads,
            n_chromosomes=len(CHROMOSOMES) if chromosomes else 0,
            peak_chromosomes=rows[0] if rows else None,
            gene_chromosomes=rows[1] if rows else None,
            **options,
        ).randomise(seed)
        self.state = self.plain.state_dict()
        self.save()
        lengths = torch.tensor([1, 7, n_peaks, 12])
        cells = [
            torch.from_numpy(np.sort(generator.permutation(n_peaks)[:n])) for n in lengths.tolist()
        ]
        self.ids, self.offsets = torch.cat(cells), torch.tensor([0, *lengths.cumsum(0).tolist()])
        self.batch = torch.arange(4) % options["n_batches"] if options.get("n_batches") else None
        self.expected = self.plain(pad(self.ids, self.offsets, n_peaks + 5), self.batch)
        self.n_heads = n_heads

    def save(self, **more):
        torch.save(
            {"model": self.state, "epoch": 3, "steps": 10} | more, self.folder / "checkpoint.pth"
        )
        for kind, content in self.vocabularies.items():
            name = "gene2chr.json" if kind == "gene2chr" else f"{kind}_vocab.json"
            (self.folder / name).write_text(json.dumps(content))

    def convert(self, **options):
        options = {"n_heads": self.n_heads} | options
        return ep.models.convert_original(self.folder / "checkpoint.pth", self.folder, **options)
