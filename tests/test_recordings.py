"""Recordings: what chapters 17, 17e and 17f do not show about themselves."""
import csv
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omr.core import InputError
from omr.listening.notes import note_array, notes_to_midi
from omr.listening.prepared import FrontEnd, Segments, open_set, read_config, read_set, targets, to_names, write_piece
from omr.listening.recordings import (MUSICNET_TEST, check_pair, clean_path, maestro, musicnet, prepare_recordings, read_labels, read_truth, recordings,
                                      resample_recordings)
from omr.listening.sound import Resampler, read_sound, resample, sound_blocks, write_sound

RATE = 16000


def played(seed, seconds=8):
    "Notes that only this seed plays, and their sound: sines that fade."
    r = np.random.default_rng(seed)
    notes = note_array((a, a + 0.3, p, int(r.integers(40, 100))) for a, p in zip(np.sort(r.uniform(0.1, seconds - 0.5, 40)), r.permutation(np.arange(40, 80))))
    sound, t = np.zeros(seconds * RATE, np.float32), np.arange(round(0.3 * RATE)) / RATE
    for on, _, p, _ in notes.tolist(): sound[round(on * RATE):][:len(t)] += 0.2 * np.exp(-5 * t) * np.sin(2 * np.pi * 440 * 2 ** ((p - 69) / 12) * t)
    return notes, sound


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    "Miniatures of MusicNet and MAESTRO in the layouts of their publishers: archive names, columns, splits."
    top = tmp_path_factory.mktemp("sets")
    for number in ("1727", "1730", "1759", "2106"):
        half, (notes, sound) = "test" if number in MUSICNET_TEST else "train", played(int(number))
        (top / f"musicnet/musicnet/{half}_labels").mkdir(parents=True, exist_ok=True)
        with open(top / f"musicnet/musicnet/{half}_labels/{number}.csv", "w", newline="") as f:
            rows = csv.writer(f)
            rows.writerow("start_time,end_time,instrument,note,start_beat,end_beat,note_value".split(","))
            for i in np.random.default_rng(0).permutation(len(notes)):
                rows.writerow([round(notes["onset"][i] * 44100), round(notes["offset"][i] * 44100), 1, notes["pitch"][i], 0.0, 1.0, "Quarter"])
        write_sound(top / f"musicnet/musicnet/{half}_data/{number}.wav", resample(sound, RATE, 44100), 44100)
    lines = ["id,composer,composition,movement,ensemble,source,transcriber,catalog_name,seconds"]
    lines += [f"{o},Nobody,Sonata {o},1,Solo Piano,,,,8" for o in ("1727", "1730", "1759", "2106")]
    (top / "musicnet/musicnet_metadata.csv").write_text("\n".join(lines))
    root, lines = top / "maestro/maestro-v3.0.0", ["canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration"]
    for i, split in enumerate(("train", "validation", "test")):
        notes, sound = played(i)
        name = f"{2004 + i}/MIDI-Unprocessed_SMF_0{i}_R1_{2004 + i}_01-05_ORIG_MID--AUDIO_0{i}_R1_{2004 + i}_05_Track05_wav"
        write_sound(root / f"{name}.wav", np.stack([resample(sound, RATE, 44100)] * 2, 1), 44100)
        (root / f"{name}.midi").write_bytes(notes_to_midi(notes))
        lines.append(f'Composer {i},"Étude, Op. {i}",{split},{2004 + i},{name}.midi,{name}.wav,8.0')
    (root / "maestro-v3.0.0.csv").write_text("\n".join(lines), encoding="utf-8")
    return top


def test_official_splits(sets):
    assert len(MUSICNET_TEST) == 10
    assert {o.name: o.split for o in musicnet(sets / "musicnet")} == {"1727": "train", "1730": "train", "1759": "test", "2106": "test"}
    assert [o.split for o in maestro(sets / "maestro")] == ["train", "validation", "test"]
    assert maestro(sets / "maestro")[0].title == "Étude, Op. 0"


def test_validation_keeps_movements_together(tmp_path):
    "About one composition in twelve, with all its movements; never a test recording."
    for folder in ("train_data", "train_labels"): (tmp_path / folder).mkdir()
    rows = ["id,composer,composition,movement,ensemble,source,transcriber,catalog_name,seconds"]
    for i in range(600):
        (tmp_path / f"train_data/{i + 3000}.wav").touch(), (tmp_path / f"train_labels/{i + 3000}.csv").touch()
        rows.append(f"{i + 3000},Nobody,Sonata {i // 3},{i % 3},Solo,,,,60")
    (tmp_path / "musicnet_metadata.csv").write_text("\n".join(rows))
    found = musicnet(tmp_path)
    splits = {}
    for o in found: splits.setdefault(o.title, set()).add(o.split)
    assert all(len(o) == 1 for o in splits.values())
    assert 8 < sum(o == {"validation"} for o in splits.values()) < 30


@pytest.mark.parametrize("kind, front", [("musicnet", "cqt"), ("maestro", "harmonic")])
def test_prepare(sets, tmp_path, kind, front, capsys):
    assert prepare_recordings(str(sets / kind), str(tmp_path / "out"), front=front, num_workers=1) == 0
    config = read_config(tmp_path / "out")
    assert config["velocities"] == (kind == "maestro") and config["keys"] == 88
    for split in ("train", "test"):
        for piece in read_set(tmp_path / "out", split):
            truth = next(read_truth(o.truth) for o in recordings(sets / kind) if o.name == piece.name)
            np.testing.assert_allclose(piece.notes()["onset"], truth["onset"], atol=1e-3)
            some = piece.tensors()
            assert some["features"].dtype == torch.float16 and {str(some[k].dtype) for k in ("onset", "offset", "frame", "velocity")} == {"torch.int8"}
            assert some["onset"].sum() == len(truth)
    with open(tmp_path / "out/pieces.csv") as f: assert len(list(csv.DictReader(f))) == len(recordings(sets / kind))


KILLED = """
import sys
from omr.listening.recordings import prepare_recordings
if __name__ == "__main__": sys.exit(prepare_recordings(sys.argv[1], sys.argv[2], num_workers=1))
"""


def test_goes_on_after_a_kill(sets, tmp_path):
    (tmp_path / "run.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "run.py"), str(sets / "maestro"), str(tmp_path / "out")]
    run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list((tmp_path / "out").rglob("*.safetensors")) and time.monotonic() < end and run.poll() is None: time.sleep(0.02)
    if run.poll() is None: os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = {o: o.stat().st_mtime_ns for o in (tmp_path / "out").rglob("*.safetensors")}
    assert before
    assert subprocess.run(command, capture_output=True, timeout=200).returncode == 0
    assert {o: o.stat().st_mtime_ns for o in before} == before  # what was finished is not made again
    prepare_recordings(str(sets / "maestro"), str(tmp_path / "whole"), num_workers=1)
    for split in ("train", "validation", "test"):
        for one, two in zip(read_set(tmp_path / "out", split), read_set(tmp_path / "whole", split), strict=True):
            assert one.about == two.about and all(torch.equal(v, two.tensors()[k]) for k, v in one.tensors().items())
    assert not list((tmp_path / "out").rglob("*.part"))


def test_bad_files_are_named_and_the_others_go_on(tmp_path, capsys):
    notes, sound = played(5)
    other, _ = played(6)
    def put(name, sound, notes):
        write_sound(tmp_path / f"in/{name}.wav", sound)
        (tmp_path / f"in/{name}.mid").write_bytes(notes_to_midi(notes))
    put("good", sound, notes), put("short", sound[:RATE], notes), put("other", sound, other)
    put("text", sound, notes), put("none", sound, notes[:0]), put("alone", sound, notes)
    (tmp_path / "in/text.wav").write_text("This is a letter.")
    (tmp_path / "in/alone.mid").unlink()
    soundfile.write(tmp_path / "in/nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    (tmp_path / "in/nan.mid").write_bytes(notes_to_midi(notes))
    assert prepare_recordings(str(tmp_path / "in"), str(tmp_path / "out"), num_workers=1) == 1
    said = capsys.readouterr().out
    faults = dict(short="its notes go on to", other="these are not the notes of", text="not a sound file", none="holds no notes")
    faults |= dict(alone="no notes beside it", nan="NaN")
    for name, why in faults.items():
        assert any(name in line and why in line for line in said.splitlines()), (name, said)
    assert [o.name for o in read_set(tmp_path / "out", "train")] == ["good"]


def test_rows_out_of_order_and_rows_that_are_none(tmp_path):
    head = "start_time,end_time,instrument,note,start_beat,end_beat,note_value\n"
    (tmp_path / "a.csv").write_text(head + "88200,132300,1,60,0,1,Q\n0,44100,1,62,0,1,Q\n")
    assert read_labels(tmp_path / "a.csv")["pitch"].tolist() == [62, 60]
    for row in ("x,1,1,60,0,1,Q", "44100,0,1,60,0,1,Q", "0,44100,1,300,0,1,Q", "0,,1,60,0,1,Q"):
        (tmp_path / "b.csv").write_text(head + row + "\n")
        with pytest.raises(InputError, match="b.csv"): read_labels(tmp_path / "b.csv")
    for text in ("", "a,b\n1,2\n", "\xff"):
        (tmp_path / "c.csv").write_bytes(text.encode("latin-1"))
        with pytest.raises(InputError, match="c.csv"): read_labels(tmp_path / "c.csv")


def test_hanging_notes_and_a_million(tmp_path):
    import mido
    track = mido.MidiTrack([mido.Message("note_on", note=60, velocity=80, time=480), mido.Message("note_on", note=64, velocity=80, time=480)])
    mido.MidiFile(tracks=[track]).save(tmp_path / "hang.mid")
    assert read_truth(tmp_path / "hang.mid")["pitch"].tolist() == [60]
    rows = "".join(f"{i / 1000:.3f}\t{i / 1000 + 0.05:.3f}\t{21 + i % 88}\t64\n" for i in range(100_000))
    (tmp_path / "many.tsv").write_text(rows)
    notes = read_truth(tmp_path / "many.tsv")
    assert len(notes) == 100_000 and targets(notes, 50, 5100)["onset"].shape == (5100, 88)


def test_paths_of_windows(tmp_path):
    assert str(clean_path("'C:\\a b\\c.wav'")) == "C:\\a b\\c.wav"
    assert str(clean_path('& "C:\\a & b\\c.wav"')) == "C:\\a & b\\c.wav"
    strange = tmp_path / "'a'"
    strange.mkdir()
    assert clean_path(str(strange)) == strange
    notes, sound = played(1)
    write_sound(tmp_path / "R & B/x.wav", sound), (tmp_path / "R & B/x.mid").write_bytes(notes_to_midi(notes))
    assert len(recordings(f'& "{tmp_path / "R & B"}" ')) == 1


def test_resampled_in_place_after_a_kill(sets, tmp_path):
    "Half done, it goes on; what is done stays as it is."
    copy = tmp_path / "copy"
    assert resample_recordings(str(sets / "maestro"), str(copy)) == 0
    for o in copy.rglob("*.wav"): assert (soundfile.info(str(o)).samplerate, soundfile.info(str(o)).channels) == (RATE, 1)
    assert not list(copy.rglob("*.midi")) and len(maestro(copy)) == 3
    before = {o: o.stat().st_mtime_ns for o in copy.rglob("*.wav")}
    assert resample_recordings(str(copy), in_place=True) == 0
    assert {o: o.stat().st_mtime_ns for o in copy.rglob("*.wav")} == before


@settings(max_examples=20, deadline=None)
@given(source=st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000]), size=st.integers(1, 5000), n=st.integers(0, 9000))
def test_resampler(source, size, n):
    sound = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    r = Resampler(source, RATE)
    parts = [r.push(sound[a:a + size]) for a in range(0, n, size)] + [r.finish()]
    whole = resample(sound, source, RATE) if n else sound
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


FORMATS = [("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("AIFF", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None), ("CAF", "PCM_16")]


@pytest.mark.parametrize("kind, subtype", FORMATS)
def test_formats(kind, subtype):
    _, sound = played(3)
    soundfile.write(file := io.BytesIO(), sound, RATE, format=kind, subtype=subtype)
    file.seek(0)
    heard = read_sound(file)
    assert abs(len(heard) - len(sound)) < 2000 and np.corrcoef(heard[:100_000], sound[:100_000])[0, 1] > 0.97


def test_cut_off_files(tmp_path):
    _, sound = played(3)
    for ending in ("wav", "flac", "mp3"):
        path = write_sound(tmp_path / f"a.{ending}", sound)
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
        try: heard = read_sound(path)
        except InputError as e: assert path.name in str(e) and "\n" not in str(e)
        else: assert 0 < len(heard) < len(sound) + 2000


def test_blocks_do_not_grow(tmp_path):
    path = write_sound(tmp_path / "long.flac", np.zeros(600 * 8000, np.float32), 8000)
    assert max(map(len, sound_blocks(path, RATE))) <= 10 * RATE + 100


def test_a_set_of_another_front_end_is_refused(tmp_path):
    notes, sound = played(2)
    open_set(tmp_path, FrontEnd())
    write_piece(tmp_path, "train", "a", sound, notes, FrontEnd(hop=512))
    with pytest.raises(InputError, match="another front end"): read_set(tmp_path, "train")


def test_names():
    roll = np.zeros((1, 88), np.int8)
    roll[0, [0, 12, 3]] = 1  # A0, A1, C1
    assert np.flatnonzero(to_names(roll)).tolist() == [0, 9]


def _one(folder):
    "In a process of its own."
    return Segments(read_set(folder, "train"), 100, seed=3)[7]["features"].float().sum().item()


def test_segments_are_the_same_in_every_process(tmp_path):
    notes, sound = played(2)
    open_set(tmp_path, FrontEnd())
    for name in "ab": write_piece(tmp_path, "train", name, sound, notes, FrontEnd())
    with multiprocessing.get_context("spawn").Pool(1) as pool: assert pool.apply(_one, (tmp_path,)) == _one(tmp_path)
    short = Segments(read_set(tmp_path, "train"), 1000)[0]
    assert short["frame"].shape == (1000, 88) and short["frame"][401:].sum() == 0


def test_check_pair_takes_labels_that_are_not_exact():
    from omr.listening.recordings import Recording
    notes, sound = played(9)
    loose = notes.copy()
    loose["onset"] = np.maximum(0, loose["onset"] + np.random.default_rng(0).normal(0, 0.06, len(notes)))
    check_pair(Recording("a", "train", Path("a.wav"), Path("a.csv")), sound, loose, RATE)


def test_config_is_json(tmp_path):
    made = open_set(tmp_path, FrontEnd(harmonics=(1,)), pedal=False, chunk=43)
    assert json.loads((tmp_path / "config.json").read_text()) == made
    assert made["front"]["harmonics"] == [1.0] and made["pedal"] is False and made["chunk"] == 43
