import hashlib
import json

import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas.known import KNOWN_GENOTYPES, find_genotype


@pytest.mark.parametrize("name", KNOWN_GENOTYPES)
def test_published_cells_are_found_and_kept_in_files(name, tmp_path):
    genotype = find_genotype(name)
    assert genotype.num_nodes == 4
    text, data = tmp_path / "cell.txt", tmp_path / "genotype.json"
    text.write_text(genotype.to_text())
    data.write_text(json.dumps(genotype.to_json()))
    for place in (text, data, tmp_path, genotype.to_text()):
        assert find_genotype(str(place)) == genotype
    data.write_text(data.read_text(), encoding="utf-8-sig")  # as some editors save it
    assert find_genotype(str(data)) == genotype


def test_published_cells_are_as_they_were_when_read_against_their_authors_files():
    text = "".join(genotype.to_text() for genotype in KNOWN_GENOTYPES.values())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "f09ea44b0d0c238c"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"normal": []}', "genotype.json holds no genotype: a genotype has the keys"),
        (b'{"normal"', "genotype.json holds no genotype"),
        (b"{" * 5000, "genotype.json holds no genotype"),
        (b"\xff\xfe\x00", "neither a readable file"),
        (b"__import__('os').system('true')", "genotype.json holds no genotype"),
        (
            b"Genotype(\n normal=[(",
            r"holds no genotype: .*, line 2, column 10: .* closed",
        ),
        (
            b'{"normal": [], "normal": 1}',
            r"a key is there twice: \['normal', 'normal'\]",
        ),
        (None, "neither a readable file .* nor one of DARTS_V1, DARTS_V2"),
    ],
)
def test_what_is_no_genotype_is_refused_in_one_line(content, message, tmp_path):
    if content is not None:
        (tmp_path / "genotype.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        find_genotype(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_name_that_is_too_long_for_a_file_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"genotype 'aaa.*aaa' is neither") as error:
        find_genotype("a" * 5000)
    assert len(str(error.value)) < 1000
