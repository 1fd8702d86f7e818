"""Stand-ins for the official archives: their true formats with fewer images."""

import dataclasses
import hashlib
import io
import struct
import tarfile

import numpy as np
import pytest

from skillearn_jax.data import cifar


def python2_string(content):
    if len(content) < 256:
        return b"U" + struct.pack("<B", len(content)) + content
    return b"T" + struct.pack("<i", len(content)) + content


def python2_pickle(pixels, labels):
    """Returns what cPickle of Python 2 wrote, protocol 2: names, labels, an array."""
    rows, columns = pixels.shape
    integer = struct.Struct("<cI")
    parts = [b"\x80\x02}(", python2_string(b"batch_label"), python2_string(b"batch 1")]
    for key, values in labels.items():
        parts += [python2_string(key.encode()), b"](", *(b"K%c" % v for v in values)]
        parts.append(b"e")
    parts += [
        python2_string(b"data"),
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85",
        python2_string(b"b") + b"\x87R(K\x01",
        integer.pack(b"J", rows) + integer.pack(b"J", columns) + b"\x86",
        b"cnumpy\ndtype\n" + python2_string(b"u1") + b"K\x00K\x01\x87R",
        b"(K\x03" + python2_string(b"|") + b"NNN" + 2 * integer.pack(b"J", 2**32 - 1),
        b"K\x00tb\x89" + python2_string(pixels.tobytes()) + b"tb",
        python2_string(b"filenames") + b"](",
        *(python2_string(b"automobile_s_%06d.png" % i) for i in range(rows)),
        b"eu.",
    ]
    return b"".join(parts)


def python2_names(names):
    """Returns what it wrote beside the batches, the names of the classes among it."""
    parts = [b"\x80\x02}(", python2_string(b"num_vis") + b"M\x00\x0c"]
    for key, values in names.items():
        parts += [python2_string(key.encode()), b"]("]
        parts += [*(python2_string(value.encode()) for value in values), b"e"]
    return b"".join(parts) + b"u."


def class_names(label, count):
    return [f"{label[:-1]}_{i}" for i in range(count)]


def records(pixels, labels):
    columns = np.stack(list(labels.values()), axis=1).astype(np.uint8)
    return np.concatenate([columns, pixels], axis=1).tobytes()


def write_tar(file, members):
    """Writes a .tar.gz of names and contents; a `TarInfo` for a name is taken as is."""
    with tarfile.open(file, "w:gz") as archive:
        for name, content in members:
            info = name
            if not isinstance(name, tarfile.TarInfo):
                info = tarfile.TarInfo(name)
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@dataclasses.dataclass
class Standin:
    """An archive in the true format; `pixels` and `labels` are what it holds."""

    file: object
    folder: str
    members: dict
    pixels: np.ndarray
    labels: dict
    register: object

    def rewrite(self, changes=(), extra=()):
        """Writes it with other contents for some members; None leaves one out."""
        changed = {**self.members, **dict(changes)}
        members = [
            (f"{self.folder}/{name}", content)
            for name, content in changed.items()
            if content is not None
        ]
        write_tar(self.file, [*members, *extra])
        self.register()


@pytest.fixture
def standin(tmp_path, monkeypatch):
    """Returns `make(file_name, size)`, an archive that passes for the official one."""

    def make(file_name, size=20):
        layout = cifar.ARCHIVES[file_name]
        kinds = {"labels": 10, "coarse_labels": 20, "fine_labels": 100}
        names = (*layout.train, layout.heldout)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (len(names) * size, 3072), dtype=np.uint8)
        labels = {
            key: rng.integers(0, kinds[key], len(pixels)) for key in layout.labels
        }
        pack = python2_pickle if layout.pickled else records
        members = {}
        for i, name in enumerate(names):
            part = slice(i * size, (i + 1) * size)
            members[name] = pack(
                pixels[part], {key: column[part] for key, column in labels.items()}
            )
        called = {label: class_names(label, kinds[label]) for label in layout.labels}
        for label, name in zip(layout.labels, layout.names, strict=True):
            # The true files end in an empty line.
            members[name] = "\n".join([*called[label], "", ""]).encode()
            if layout.pickled:
                members[name] = python2_names(
                    {f"{label[:-1]}_names": called[label] for label in called}
                )

        def register():
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            changed = dataclasses.replace(layout, sizes=(size, size), sha256=digest)
            monkeypatch.setitem(cifar.ARCHIVES, file_name, changed)

        file = tmp_path / file_name
        made = Standin(file, layout.folder, members, pixels, labels, register)
        made.rewrite()
        return made

    return make
