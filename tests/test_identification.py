"What the notebooks of matching cannot show: real kills, real processes, and an index that opens after each of them."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from omr.core import InputError
from omr.listening.sound import write_sound
from omr.matching.encoders import TwoTowers, save_matcher
from omr.matching.identification import find, find_files, index_files
from omr.matching.index import Gallery, open_gallery

WEIGHTS = dict(name="numbers", fingerprint="0")

FILL = """
import sys
from pathlib import Path
import numpy as np
from omr.matching import index
from omr.matching.index import PLACE, Entry, Gallery
from tests_pieces import piece
index.LEAST, index.PART = 400, 300
gallery = Gallery(sys.argv[1], dict(name="numbers", fingerprint="0"))
for i in range(len(gallery.pieces), 10_000):
    gallery.add([piece(i)])
    print(i, flush=True)
"""

PIECE = """
import numpy as np
from omr.matching.index import PLACE, Entry
def piece(i):
    v = np.random.default_rng(i).normal(size=(20 + i % 17, 32))
    place = np.zeros(len(v), PLACE)
    place["x"] = np.arange(len(v))
    return Entry(f"piece {i}", f"piece {i}.mxl", str(i), (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32), place)
"""


@pytest.fixture
def fill(tmp_path):
    "Starts a process that adds pieces for ever."
    (tmp_path / "tests_pieces.py").write_text(PIECE)
    (tmp_path / "fill.py").write_text(FILL)
    def start():
        paths = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, str(tmp_path / "fill.py"), str(tmp_path / "db")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths})
    return start


def piece(i):
    exec(PIECE, scope := {})
    return scope["piece"](i)


def test_killed_while_adding_it_holds_whole_pieces_only(fill, tmp_path):
    before = 0
    for pieces, wait in ((1, .001), (9, .007), (4, .003), (15, .013)):
        with fill() as process:
            for _ in range(pieces): process.stdout.readline()
            time.sleep(wait)  # somewhere within the next ones
            process.send_signal(signal.SIGKILL)
        gallery = Gallery(tmp_path / "db", WEIGHTS)
        assert list(gallery.pieces) == [f"piece {i}" for i in range(len(gallery.pieces))]
        assert len(gallery.pieces) >= before + pieces
        before = len(gallery.pieces)
        for i, entry in enumerate(gallery.pieces.values()):
            np.testing.assert_allclose(entry.vectors, piece(i).vectors, atol=1e-3)
            assert (entry.places["x"] == np.arange(len(entry.vectors))).all()
    found = Gallery(tmp_path / "db", WEIGHTS).search(piece(0).vectors, 1)
    assert (found[1] == "piece 0").mean() > .9


def test_two_processes_that_add_lose_nothing(tmp_path):
    ours, theirs = Gallery(tmp_path / "db", WEIGHTS), Gallery(tmp_path / "db", WEIGHTS)
    ours.add([piece(0)])
    theirs.add([piece(1)])  # read before `ours` wrote
    ours.add([piece(2)])
    assert list(Gallery(tmp_path / "db", WEIGHTS).pieces) == ["piece 0", "piece 1", "piece 2"]


def test_a_missing_part_has_a_line(tmp_path):
    gallery = Gallery(tmp_path / "db", WEIGHTS)
    gallery.add([piece(0)])
    (tmp_path / "db" / gallery.config["parts"][0]["file"]).unlink()
    with pytest.raises(InputError, match="missing or damaged"): Gallery(tmp_path / "db", WEIGHTS)


def test_an_index_stands_in_no_file(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError): Gallery(tmp_path / "file", WEIGHTS).add([piece(0)])


SCALE = "**kern\n*clefG2\n*k[]\n*M4/4\n" + "=\n".join("4c\n4d\n4e\n4f\n4g\n4a\n4b\n4cc\n" for _ in range(8)) + "==\n*-\n"


@pytest.fixture
def weights(tmp_path):
    "Two networks that know nothing, one beside the other."
    torch.manual_seed(0)
    return [str(save_matcher(TwoTowers(width=4, latent=8).eval(), tmp_path / name)) for name in ("one", "two")]


def sines(path, seconds=6, rate=22050):
    t = np.arange(seconds * rate) / rate
    return str(write_sound(path, .3 * np.sin(2 * np.pi * 440 * t) * (t % .5 < .4), rate))


def test_the_commands_and_what_they_refuse(tmp_path, weights, capsys, monkeypatch):
    scores, db = tmp_path / "scores", str(tmp_path / "db")
    (scores / "deep").mkdir(parents=True)
    rests = "**kern\n*clefG2\n*M4/4\n1r\n=\n1r\n==\n*-\n"
    for name, text in (("scale.krn", SCALE), ("rests.krn", rests), ("deep/copy.krn", SCALE), ("deep/torn.mxl", "no zip")): (scores / name).write_text(text)
    assert index_files([str(scores)], db, weights[0]) == 1
    out, err = capsys.readouterr()
    assert "1 scores, 1 of them new" in out
    assert all(word in err for word in ("no note", "in the index already, as copy", "torn.mxl", "3 of 4 failed"))
    assert index_files([str(scores / "deep" / "copy.krn")], db, weights[0]) == 0  # again: nothing to do
    assert "0 of them new" in capsys.readouterr().out

    query = sines(tmp_path / "query.wav")
    assert find_files([query], db, weights[0], output_dir=str(tmp_path)) == 0
    assert capsys.readouterr().out.startswith("copy: page 1, ")
    assert (tmp_path / "query.matches.png").stat().st_size > 1000
    assert find_files([query, str(tmp_path / "none.wav")], db, weights[0]) == 1
    out, err = capsys.readouterr()
    assert "query.wav:\ncopy: " in out and "none.wav: no such file" in err and "1 of 2 failed" in err
    sines(tmp_path / "short.wav", 1)
    for name, why in (("short.wav", "short.wav: lasts 1.0 s"), ("scores/rests.krn", "rests.krn: .*no note"), ("none.txt", "neither a score nor a recording")):
        with pytest.raises(InputError, match=why): find_files([str(tmp_path / name)], db, weights[0])
    with pytest.raises(InputError, match=r"made by the weights one \(\w{12}\), not by two \(\w{12}\)"): find(query, db, weights[1])
    with pytest.raises(InputError, match="not by two"): index_files([query], db, weights[1])

    def full(*_): raise OSError(28, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr(os, "replace", full)
        with pytest.raises(InputError, match="No space left on device"): index_files([query], db, weights[0])
    assert find(query, db, weights[0])[0].name == "copy"  # nothing was lost


def test_a_database_answers_as_the_folder_does(tmp_path):
    pytest.importorskip("lancedb")
    folder, database = Gallery(tmp_path / "folder", WEIGHTS), open_gallery(f"lancedb://{tmp_path / 'database'}", WEIGHTS)
    for o in (folder, database): o.add(piece(i) for i in range(20))
    asked = piece(7).vectors[3:12]
    assert (database.search(asked, 5)[1] == folder.search(asked, 5)[1]).all()
    again = open_gallery(f"lancedb://{tmp_path / 'database'}")
    assert list(again.pieces) == list(folder.pieces) and again.windows == folder.windows
    np.testing.assert_allclose(again.piece("piece 7").vectors, piece(7).vectors, atol=1e-6)
    with pytest.raises(InputError, match="not by other"): open_gallery(f"lancedb://{tmp_path / 'database'}", dict(name="other", fingerprint="1"))
