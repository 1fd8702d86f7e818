"""Published cells by name, and cells out of files."""

from skillearn_jax.nas.cell_files import read_cell_file
from skillearn_jax.nas.genotype import Edges, Genotype

_OPS = {
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "sk": "skip_connect",
    "mp": "max_pool_3x3",
    "ap": "avg_pool_3x3",
}

# Normal and reduction cell, node by node, `operation@source`. The first five are those of
# the repositories of DARTS, P-DARTS and PC-DARTS; the others those of learning by passing
# tests (TS: teacher and student; ES: with early stopping) and its own DARTS run.
_CELLS = {
    "DARTS_V1": (
        "s3@1 s3@0, sk@0 s3@1, sk@0 s3@1, s3@0 sk@2",
        "mp@0 mp@1, sk@2 mp@0, mp@0 sk@2, sk@2 ap@0",
    ),
    "DARTS_V2": (
        "s3@0 s3@1, s3@0 s3@1, s3@1 sk@0, sk@0 d3@2",
        "mp@0 mp@1, sk@2 mp@1, mp@0 sk@2, sk@2 mp@1",
    ),
    "PDARTS": (
        "sk@0 d3@1, sk@0 s3@1, s3@1 s3@3, s3@0 d5@4",
        "ap@0 s5@1, s3@0 d5@2, mp@0 d3@1, d3@1 d5@3",
    ),
    "PC_DARTS_cifar": (
        "s3@1 sk@0, s3@0 d3@1, s5@0 s3@1, ap@0 d3@1",
        "s5@1 mp@0, s5@1 s5@2, s3@0 s3@3, s3@1 s3@2",
    ),
    "PC_DARTS_image": (
        "sk@1 s3@0, s3@0 sk@1, s3@1 s3@3, s3@1 d5@4",
        "s3@0 sk@1, d5@2 mp@1, s3@2 s3@1, s5@0 s3@3",
    ),
    "DARTS_CIFAR10_TS_18_V2": (
        "s3@0 s3@1, sk@0 s5@1, s3@0 s3@1, sk@0 d5@1",
        "ap@0 ap@1, ap@0 sk@2, sk@2 ap@1, ap@0 sk@2",
    ),
    "DARTS_CIFAR10_TS_1ST": (
        "s3@0 d5@1, sk@0 s5@1, sk@0 d3@1, sk@0 d3@1",
        "mp@0 mp@1, sk@2 mp@0, mp@1 sk@2, sk@2 sk@3",
    ),
    "DARTS_CIFAR100_TS_18": (
        "s3@0 s3@1, sk@0 sk@1, sk@0 sk@1, sk@0 sk@1",
        "ap@0 sk@1, ap@0 sk@2, ap@0 sk@2, sk@2 ap@0",
    ),
    "DARTS_CIFAR100": (
        "sk@0 s3@1, sk@0 sk@1, sk@0 sk@1, sk@0 sk@1",
        "ap@0 sk@1, sk@2 ap@0, ap@0 sk@2, sk@2 ap@0",
    ),
    "DARTS_CIFAR10_TS_18_ES": (
        "s3@0 s3@1, sk@0 s5@1, s3@0 s3@1, sk@0 s5@1",
        "ap@0 ap@1, ap@0 sk@2, sk@2 mp@0, ap@0 sk@2",
    ),
    "DARTS_CIFAR100_TS_18_ES": (
        "s3@0 s3@1, sk@0 s5@1, s3@0 s3@1, s5@2 sk@0",
        "mp@0 sk@1, mp@0 sk@2, mp@0 s5@3, mp@0 sk@2",
    ),
    "PDARTS_TS_CIFAR10": (
        "s3@0 s3@1, s3@0 d3@2, sk@0 d3@3, sk@2 d5@4",
        "ap@0 d3@1, ap@0 d5@2, sk@0 s3@3, s3@0 d3@2",
    ),
    "PDARTS_TS_CIFAR100": (
        "s3@0 s5@1, sk@0 s3@1, s3@0 sk@2, s3@0 s3@1",
        "d3@0 ap@1, d3@1 s5@2, s5@1 s5@2, ap@0 d5@2",
    ),
    "PCDARTS_TS_IMAGENET": (
        "s5@1 d5@0, s3@0 s3@1, s3@1 s3@3, s5@1 s5@3",
        "s3@0 s3@1, d5@2 s5@0, mp@2 d5@3, d5@4 d5@3",
    ),
}


def _parse(cell: str) -> Edges:
    edges = (edge.split("@") for edge in cell.replace(",", "").split())
    return tuple((_OPS[op], int(source)) for op, source in edges)


KNOWN_GENOTYPES = {
    name: Genotype(normal=_parse(normal), reduction=_parse(reduction))
    for name, (normal, reduction) in _CELLS.items()
}
"""Published cells, by the names that their authors' code gives them."""


def find_genotype(name_or_path: str) -> Genotype:
    """Returns a published genotype, or the one in a file.

    Args:
        name_or_path: a key of `KNOWN_GENOTYPES`; the text of `Genotype.to_text`; or the
            path of a file that holds that text or the JSON of `Genotype.to_json`, a
            search's `genotype.json` for example; of a folder, its `genotype.json`.

    Raises:
        InputError: if it is neither, or the file holds no genotype.
    """
    if name_or_path in KNOWN_GENOTYPES:
        return KNOWN_GENOTYPES[name_or_path]
    if name_or_path.lstrip().startswith("Genotype("):
        return Genotype.from_text(name_or_path)
    return read_cell_file(
        name_or_path,
        Genotype.from_json,
        Genotype.from_text,
        kind="genotype",
        otherwise=f"one of {', '.join(KNOWN_GENOTYPES)}",
    )
